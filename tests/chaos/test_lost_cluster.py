"""A cluster whose head dies: before a run, while it learns, and among its shards."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from interrupting import processes_of
from material import chaos_environment

from chaos.conftest import PATIENCE, command_line, rows_of, shard_files, until
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]

#: Seconds that a driver may take to notice that its cluster is lost, and to end.
NOTICE_S = 60

CLUSTER = """
import sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
path = Path(sys.argv[1])
path.with_suffix(".new").write_text(cluster.address)
path.with_suffix(".new").rename(path)
time.sleep(3600)
"""


def kill_gcs(hooks):
    """SIGKILL the control service (GCS) of the Ray that has these hooks."""
    (pid,) = [pid for pid, words in processes_of(hooks).items() if "gcs_server" in words.split()[0]]
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def own_hooks(tmp_path):
    folder = tmp_path / "hooks"
    folder.mkdir()
    return folder


@pytest.fixture
def ray_folder():
    """Where a Ray keeps its files, so that others do not find it; short, because its sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def cluster(own_hooks, tmp_path, ray_folder):
    """The address of a cluster of the test's own."""
    environment = {**os.environ, **chaos_environment(own_hooks), "RAY_TMPDIR": ray_folder}
    environment.pop("RAY_ADDRESS", None)
    address = tmp_path / "address"
    process = subprocess.Popen([sys.executable, "-c", CLUSTER, str(address)], env=environment, start_new_session=True)
    until(address.exists, "the cluster")

    yield address.read_text()
    process.kill()
    process.wait()
    for pid in processes_of(own_hooks):
        os.kill(pid, signal.SIGKILL)


def test_a_cluster_that_is_lost_among_the_shards(options, cluster, own_hooks, start, tmp_path):
    """The driver says so in a sentence, verifies what is committed, and another cluster does the rest."""
    out = tmp_path / "out"
    (own_hooks / "hold-on-write").touch()
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    driver = start(command_line(options, out), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list(own_hooks.glob("holding-*")), "a shard that is being written")
    began = time.monotonic()
    kill_gcs(own_hooks)
    output, said = (text.decode() for text in driver.communicate(timeout=PATIENCE))
    assert time.monotonic() - began < NOTICE_S
    assert driver.returncode == 3, said
    assert f"The Ray cluster is lost: its head node at {cluster}" in said
    assert "Traceback" not in said, said
    report = verify_output(str(out))
    assert set(report.sentences()) <= set(output.splitlines())
    assert "Incomplete: run the same command again to do what is missing." in output.splitlines()
    (own_hooks / "release").touch()
    before = shard_files(out)
    elsewhere = {**os.environ, **chaos_environment(own_hooks), "RAY_ADDRESS": "local"}
    again = subprocess.run(command_line(options, out), env=elsewhere, capture_output=True, timeout=PATIENCE)
    assert again.returncode == 0, again.stderr
    assert before.items() <= shard_files(out).items()
    assert list(rows_of(out).status) == ["ok", "ok", "error", "ok", "ok", "ok", "error", "ok", "ok", "ok"]


def test_a_cluster_that_is_lost_while_the_job_learns(options, photos, cluster, own_hooks, start, tmp_path):
    references = tmp_path / "references.csv"
    uris = [str(path) for path in sorted((photos / "references").iterdir())]
    references.write_text("\n".join(["uri", *uris[1:], f"crash://gate{uris[0]}"]) + "\n")
    (own_hooks / "hold-on-worker-read").touch()
    environment = {**os.environ, **chaos_environment(own_hooks), "RAY_ADDRESS": cluster}
    command = command_line({**options, "reference": str(references)}, tmp_path / "out")
    driver = start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list(own_hooks.glob("reading-*")), "a reference that is being read")
    began = time.monotonic()
    kill_gcs(own_hooks)
    output, said = (text.decode() for text in driver.communicate(timeout=PATIENCE))
    assert time.monotonic() - began < NOTICE_S
    assert driver.returncode == 3, said
    assert "The Ray cluster is lost" in said
    assert "Traceback" not in said, said
    assert "has written nothing" in output
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_local_ray_that_is_lost_among_the_shards(options, own_hooks, ray_folder, start, tmp_path):
    """The driver ends as for a cluster, and its Ray's other processes end with it."""
    (own_hooks / "hold-on-write").touch()
    ray = {"RAY_ADDRESS": "local", "RAY_TMPDIR": ray_folder}
    driver = start(
        command_line(options, tmp_path / "out"),
        env={**os.environ, **chaos_environment(own_hooks), **ray},
        stderr=subprocess.PIPE,
    )
    until(lambda: list(own_hooks.glob("holding-*")), "a shard that is being written")
    began = time.monotonic()
    kill_gcs(own_hooks)
    _, said = driver.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < NOTICE_S
    assert driver.returncode == 3, said
    assert b"The Ray cluster is lost" in said
    assert b"Traceback" not in said
    until(lambda: not processes_of(own_hooks), f"the end of {processes_of(own_hooks)}", seconds=120)


DEAD = "127.0.0.1:1"  # nothing listens on port 1


def test_an_address_where_no_cluster_answers(options, tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        command_line(options, tmp_path / "out"),
        env={**os.environ, "RAY_ADDRESS": DEAD},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert time.monotonic() - began < 60
    assert done.returncode == 2, done.stderr
    assert f"error: No Ray cluster answers at {DEAD} (RAY_ADDRESS)." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("asked", [True, False])
def test_the_address_file_that_a_dead_cluster_left(options, asked, ray_folder, tmp_path):
    """Without RAY_ADDRESS a local Ray is started, with a warning; RAY_ADDRESS=auto wants that cluster alone."""
    file = Path(ray_folder, "ray", "ray_current_cluster")
    file.parent.mkdir()
    file.write_text(DEAD)
    environment = {**os.environ, "RAY_TMPDIR": ray_folder}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        command_line(options, tmp_path / "out"),
        env=environment | ({"RAY_ADDRESS": "auto"} if asked else {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert f"No Ray cluster answers at {DEAD}" in done.stderr
    assert str(file) in done.stderr
    assert done.returncode == (2 if asked else 0), done.stderr
    assert "Traceback" not in done.stderr
