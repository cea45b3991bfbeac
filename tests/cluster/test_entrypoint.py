"""What starts a job on a cluster: again after code 3 alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "cluster/entrypoint.py"

#: Appends a line to a file and exits with the next of the codes.
JOB = """
import sys
file, *codes = sys.argv[1:]
with open(file, "a+") as log:
    log.write("started\\n")
    log.seek(0)
    sys.exit(int(codes[len(log.readlines()) - 1]))
"""


def _run(*words: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ENTRYPOINT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("codes", "attempts", "code", "starts"),
    [
        ("3 3 0", 3, 0, 3),  # incomplete twice, then done
        ("3 3 3", 2, 3, 2),  # no more attempts than asked for
        ("2 0", 3, 2, 1),  # bad settings stay bad
        ("4 0", 3, 4, 1),  # so do inputs
        ("3 1", 3, 1, 2),  # a crash is passed on
    ],
)
def test_a_job_is_started_again_while_it_is_incomplete(tmp_path, codes, attempts, code, starts):
    log = tmp_path / "log"
    job = [sys.executable, "-c", JOB, log, *codes.split()]
    done = _run("--attempts", attempts, "--pause", 0, *job)
    assert done.returncode == code, done.stderr
    assert log.read_text(encoding="utf-8").count("started") == starts
    assert f"attempt {starts} of {attempts} ended with {code}" in done.stderr


def test_a_job_that_a_signal_ends(tmp_path):
    done = _run(sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 128 + signal.SIGKILL


def test_a_stopped_job_is_not_started_again(tmp_path):
    """The job ends in good order with 3, as on `ray job stop`, which signals every process."""
    log = tmp_path / "log"
    stops = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
    stops += "open(sys.argv[1], 'a').write('started\\n'); time.sleep(60)"
    command = [sys.executable, ENTRYPOINT, "--pause", "0", sys.executable, "-c", stops, log]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (log.exists() and log.read_text(encoding="utf-8")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 3
    assert log.read_text(encoding="utf-8").count("started") == 1


def test_a_pause_ends_when_the_job_is_stopped():
    command = [sys.executable, ENTRYPOINT, "--pause", "600", sys.executable, "-c", "raise SystemExit(3)"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "the next begins in 600 s" in process.stderr.readline()
    process.terminate()
    assert process.wait(20) == 3


@pytest.mark.parametrize("words", [["--attempts", 0, "x"], [], ["--gpus", 1, "x"]])
def test_bad_options(words):
    done = _run(*words)
    assert done.returncode == 2
    assert "usage" in done.stderr
