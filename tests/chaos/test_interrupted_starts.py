"""SIGTERM and Ctrl-C before the first shard: while Ray starts, and while the job learns from its exemplars."""

import os
import signal
import subprocess
import time

import pytest
from interrupting import processes_of
from material import chaos_environment

from chaos.conftest import PATIENCE, attached, command_line, until
from dmt_ray.process_exit import EXIT_INTERRUPTED, INTERRUPTED

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("pause", [0, 1.5])
def test_a_signal_while_a_local_ray_starts(options, start, number, pause, tmp_path):
    """At once when Ray's first process is there, and a little later; no process of that Ray remains."""
    own_hooks = tmp_path / "hooks"
    own_hooks.mkdir()
    environment = {**os.environ, **chaos_environment(own_hooks), "RAY_ADDRESS": "local"}
    driver = start(
        command_line(options, tmp_path / "out"), env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    until(lambda: [words for words in processes_of(own_hooks).values() if "gcs_server" in words], "a Ray that starts")
    time.sleep(pause)
    assert_interrupted(driver, number)
    until(lambda: not processes_of(own_hooks), f"the end of {processes_of(own_hooks)}", seconds=30)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("hook", "number"),
    [
        ("hold-on-worker-read", signal.SIGTERM),
        ("hold-on-worker-read", signal.SIGINT),
        ("hold-on-read", signal.SIGTERM),
    ],
)
def test_a_signal_while_the_job_learns(options, photos, hooks, start, hook, number, tmp_path):
    """A reference holds the job up, or first the driver; the same command does the whole job after that."""
    out = tmp_path / "out"
    references = tmp_path / "references.csv"
    uris = [str(path) for path in sorted((photos / "references").iterdir())]
    references.write_text("\n".join(["uri", *uris[1:], f"crash://gate{uris[0]}"]) + "\n")
    (hooks / hook).touch()
    command = command_line({**options, "reference": str(references)}, out)
    driver = start(command, env=attached(), stderr=subprocess.PIPE)
    until(lambda: list(hooks.glob("reading-*")), "a reference that is being read")
    assert_interrupted(driver, number)
    assert subprocess.run(command, env=attached(), timeout=PATIENCE).returncode == 0


def assert_interrupted(driver, number):
    began = time.monotonic()
    driver.send_signal(number)
    _, said = driver.communicate(timeout=PATIENCE)
    said = said.decode()
    assert driver.returncode == EXIT_INTERRUPTED, said
    assert INTERRUPTED in said.splitlines()
    assert "Traceback" not in said, said
    assert time.monotonic() - began < 60
