"""Which Ray a run joins, told from sockets and files alone; and a run beside the file of a dead cluster."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray.exceptions import AuthenticationError

from dmt_ray.config import ComputeConfig, ray_host_and_port
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline import cluster, ray_address
from dmt_ray.pipeline.ray_address import RayAddress, ask, choose_ray, listeners

JOB = Path(__file__).parents[2] / "jobs" / "colorize_dataset.py"
DEAD = "127.0.0.1:1"  # nothing listens on port 1


class Head(grpc.GenericRpcHandler):
    """Answers Ray's call as a head does: with the cluster's id, or that a token is missing."""

    def __init__(self, wants_token: bool) -> None:
        self.wants_token = wants_token

    def service(self, handler_call_details):
        if handler_call_details.method != "/ray.rpc.NodeInfoGcsService/GetClusterId":
            return None

        def answer(request, context):
            if self.wants_token:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def serving(*handlers):
    server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def head():
    server, address = serving(Head(wants_token=False))
    yield address
    server.stop(None)


@pytest.fixture(scope="module")
def guarded_head():
    server, address = serving(Head(wants_token=True))
    yield address
    server.stop(None)


@pytest.fixture
def mute():
    """Something that accepts connections and never says a word, such as a head that was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_address, "PROBE_S", 0.3)


@pytest.fixture
def file(tmp_path):
    """Ray's file of the cluster that was started last; not yet there."""
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_who_answers(head, guarded_head, mute):
    assert ask(head) == "ready"
    assert ask(guarded_head) == "token"
    began = time.monotonic()
    assert ask(mute) is None
    assert ask(DEAD) is None
    assert time.monotonic() - began < 2
    server, other = serving()  # as Ray's client server does, it does not know the call
    assert ask(f"ray://{other}") == "ready"
    server.stop(None)


def test_a_head_that_is_just_starting_is_waited_for(monkeypatch):
    monkeypatch.setattr(ray_address, "PROBE_S", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, address)
        time.sleep(0.3)
        server = grpc.server(ThreadPoolExecutor(1), handlers=[Head(wants_token=False)])
        server.add_insecure_port(address)
        server.start()
        assert asked.result() == "ready"
    server.stop(None)


def test_the_option_wins_over_the_variable_over_the_file(head, guarded_head, file, monkeypatch):
    file.write_text(head)
    assert choose_ray("auto") == RayAddress(head, f"the last one that was started here, by {file}", found=True)
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    assert choose_ray("local") is None
    assert choose_ray(head) == RayAddress(head, "--ray-address", found=False)
    monkeypatch.setenv("RAY_ADDRESS", head)
    file.write_text(DEAD)
    assert choose_ray("auto") == RayAddress(head, "RAY_ADDRESS", found=False)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert choose_ray("auto") is None
    monkeypatch.delenv("RAY_ADDRESS")
    file.unlink()
    assert choose_ray("auto") is None


@pytest.mark.parametrize("kind", ["dead", "mute"])
def test_what_was_named_and_does_not_answer_is_an_error(kind, mute, file, monkeypatch):
    address = DEAD if kind == "dead" else mute
    with pytest.raises(SettingsError, match=rf"No Ray cluster answers at {address} \(--ray-address\)"):
        choose_ray(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SettingsError, match=rf"No Ray cluster answers at {address} \(RAY_ADDRESS\)"):
        choose_ray("auto")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SettingsError, match=r"\(RAY_ADDRESS, set by ray job submit\)"):
        choose_ray("auto")


@pytest.mark.parametrize(("text", "said"), [(DEAD, "No Ray cluster answers at 127.0.0.1:1"), ("\0", "no address")])
@pytest.mark.parametrize("why", ["RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_a_bad_file_is_told_and_an_error_only_for_who_asked_for_a_cluster(text, said, why, file, monkeypatch, caplog):
    file.write_text(text)
    with caplog.at_level(logging.INFO, "dmt_ray"):
        assert choose_ray("auto") is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.message
    assert str(file) in record.message
    monkeypatch.setenv(why, "auto")
    with pytest.raises(SettingsError, match=str(file)):
        choose_ray("auto")
    file.unlink()
    with pytest.raises(SettingsError, match=f"There is no file {file}"):
        choose_ray("auto")


def test_a_cluster_of_another_user_is_joined_by_its_address_alone(head, file, monkeypatch, caplog):
    port = ray_host_and_port(head)[1]
    assert listeners(port) == {os.getuid()}
    file.write_text(head)
    if os.getuid() == 0:
        os.chown(file, 12345, -1)
    else:
        me = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with caplog.at_level(logging.INFO, "dmt_ray"):
        assert choose_ray("auto") is None
    assert "another user's" in caplog.text
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(SettingsError, match="another user's"):
        choose_ray("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    assert choose_ray(head) is not None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # whoever started it, this job belongs to it
    assert choose_ray("auto") is not None


def test_the_port_of_an_old_file_may_be_another_users_by_now(head, file, monkeypatch, caplog):
    file.write_text(head)
    monkeypatch.setattr(ray_address, "listeners", lambda port: {os.getuid() + 1})
    with caplog.at_level(logging.INFO, "dmt_ray"):
        assert choose_ray("auto") is None
    assert "another user's" in caplog.text


def test_tokens(guarded_head, file, monkeypatch):
    with pytest.raises(SettingsError, match=r"asks for a token\. Set RAY_AUTH_MODE=token"):
        choose_ray(guarded_head)
    file.write_text(guarded_head)
    assert choose_ray("auto") is not None  # Ray sends this user's token there
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SettingsError, match="RAY_AUTH_MODE says not to send one"):
        choose_ray("auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert choose_ray(guarded_head) is not None


def test_addresses_that_are_none(monkeypatch):
    for address in ("nowhere", "host:", ":6379", "host:0", "host:65536", "http://head:8265", "host:١"):
        with pytest.raises(SettingsError, match="--ray-address is"):
            ComputeConfig(ray_address=address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(SettingsError, match="RAY_ADDRESS is"):
            choose_ray("auto")
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(SettingsError, match="dashboard"):
        choose_ray("auto")
    for address in ("auto", "local", "10.0.0.1:6379", "[::1]:6379", "ray://head:10001"):
        ComputeConfig(ray_address=address)


def test_a_run_beside_the_file_of_a_head_that_does_not_answer(photos, mute, monkeypatch, tmp_path):
    """It says so, starts a Ray of its own, says which, and how far it is."""
    folder = Path(tempfile.mkdtemp(prefix="dmt", dir="/tmp"))  # sockets live in it: the path must be short
    file = folder / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(mute)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    options = ["--input", photos / "inputs", "--reference", photos / "references", "--output", tmp_path / "out"]
    options += ["--size", 64, "--iterations", 2, "--neighbors", 8, "--weights", "random:0", "--no-lpips"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(JOB), *map(str, options), "--max-error-rate", "0.5"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert "6 planned, 6 rows: 4 ok, 2 errors." in done.stdout
    assert time.monotonic() - began < 180
    assert f"No Ray cluster answers at {mute} (the last one that was started here, by {file})" in done.stderr
    assert "Ray: started for this run; nodes 1, CPUs" in done.stderr
    assert "Exemplars: 5 of 5 read; learning from them." in done.stderr
    assert re.search(r"6 of 6 rows, 2 failed, [\d.e-]+ rows/s, 00:00 left", done.stderr)
    assert "Token authentication" not in done.stderr
    native = re.findall(r"\w+\.cc:.*", done.stderr)  # Ray tells the level that its native code logs at, and no more
    assert len(native) == 1, native
    assert "Set ray log level" in native[0]


@pytest.mark.slow
def test_a_head_that_ends_between_its_answer_and_the_join_is_told_in_a_sentence(photos, monkeypatch, tmp_path):
    """Ray itself would try for 14 minutes."""
    folder = Path(tempfile.mkdtemp(prefix="dmt", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")
    words = ["colorize", "--input", photos / "inputs", "--reference", photos / "references"]
    words += ["--output", tmp_path / "out", "--size", 64, "--weights", "random:0", "--no-lpips"]
    script = Path(__file__).parents[1] / "ending_head.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True, timeout=400
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        r"error: The Ray cluster at [\d.]+:\d+ \(the last one that was started here, by "
        rf"{folder}/ray/ray_current_cluster\) has answered, and does so no more: "
        r".* Wait .* or take --ray-address local\.",
        said,
    )
    assert not (tmp_path / "out").exists()


def test_a_join_that_fails_says_why_and_what_to_do(head, monkeypatch, caplog):
    """Real heads are joined and end elsewhere; a stand-in says what Ray says, which may be pages."""
    pages = "Version mismatch: The cluster was started with Ray 2.55." + " It said:\n  line" * 500
    error: Exception = RuntimeError(pages)

    def fail(address):
        assert os.environ[cluster._GCS_WAIT] == "1"
        raise error

    monkeypatch.setattr(cluster, "_init_ray", fail)
    caplog.set_level(logging.DEBUG, "dmt_ray")
    with pytest.raises(SettingsError) as alive:
        cluster._connect(RayAddress(head, "--ray-address", found=False))
    assert f"cluster at {head} (--ray-address) cannot be joined (Version mismatch: The cluster" in str(alive.value)
    assert str(alive.value).endswith("--ray-address local.")
    assert len(str(alive.value)) < 500
    assert pages in caplog.text
    error = AuthenticationError("no")
    with pytest.raises(SettingsError, match="Set RAY_AUTH_MODE=token"):
        cluster._connect(RayAddress(head, "--ray-address", found=False))
    with pytest.raises(SettingsError, match=rf"at {DEAD} \(RAY_ADDRESS\) has answered, and does so no more") as dead:
        cluster._connect(RayAddress(DEAD, "RAY_ADDRESS", found=False))
    assert len(str(dead.value)) < 300
    assert cluster._GCS_WAIT not in os.environ


@pytest.mark.parametrize("late", [1, 2, 3])
@pytest.mark.parametrize(
    "message",
    [
        "The current node timed out during startup. This could ...",
        "Timed out waiting for file /tmp/ray/gcs_server_port",
    ],
)
def test_a_local_ray_that_is_not_up_in_time_is_started_again(message, late, monkeypatch, caplog):
    """Ray gives each of its processes some time, too little on a busy machine; a stand-in says what it then says."""
    starts = []

    def start(address):
        starts.append(address)
        if len(starts) <= late:
            raise RuntimeError(message)
        return "context"

    monkeypatch.setattr(cluster, "_init_ray", start)
    if late < 3:
        assert cluster._start_local() == "context"
        assert len(starts) == late + 1
    else:
        with pytest.raises(SettingsError, match=r"No local Ray can be started .*[Tt]imed out"):
            cluster._start_local()
        assert len(starts) == 3
    assert caplog.text.count("it is started once more") == min(late, 2)
