"""Crash files of processes that end in order, that are killed, that live, and of others."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmt_ray.storage import crash_files

OPEN = """
import faulthandler, sys
from dmt_ray.storage.crash_files import open_crash_file
file = open_crash_file()
faulthandler.enable(file)
print(file.name, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def open_elsewhere(tmp_path):
    """Start processes that open a crash file and wait; they end with the test."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        processes.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_an_orderly_end_leaves_no_file(open_elsewhere):
    process, path = open_elsewhere()
    assert path.exists()
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert not path.exists()


def test_a_crash_is_read_once(open_elsewhere):
    process, path = open_elsewhere()
    process.send_signal(signal.SIGSEGV)
    process.wait(60)
    assert "Fatal Python error: Segmentation fault" in crash_files.take_crash_file(str(path))
    assert not path.exists()
    assert crash_files.take_crash_file(str(path)) == ""


def test_the_next_process_deletes_what_dead_ones_left_long_ago(open_elsewhere, tmp_path):
    killed, lives, just_killed = open_elsewhere(), open_elsewhere(), open_elsewhere()
    foreign = tmp_path / "dmt-ray-crash-notes"
    foreign.touch()
    for process, _ in (killed, just_killed):
        process.kill()
        process.wait(60)
    long_ago = time.time() - 2 * crash_files.KEEP_S
    for path in (killed[1], lives[1], foreign):
        os.utime(path, (long_ago, long_ago))
    _, new = open_elsewhere()
    assert set(tmp_path.iterdir()) == {lives[1], just_killed[1], foreign, new}
