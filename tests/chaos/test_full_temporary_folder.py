"""A temporary folder that is full: while the run is planned, and while a local Ray starts."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from chaos.conftest import PATIENCE, command_line

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture
def small_disk():
    """A file system in memory with room for 64 kB, at a short path: Ray's sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as disk:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        yield Path(disk)
        subprocess.run(["umount", "--lazy", disk], check=True)


def run(options, out, **environment):
    return subprocess.run(
        command_line(options, out),
        env={**os.environ, "RAY_ADDRESS": "local", **environment},
        **{"capture_output": True, "text": True, "timeout": PATIENCE},
    )


def test_the_plan_does_not_fit(options, small_disk, tmp_path):
    table = tmp_path / "many.csv"
    lines = (f"photo-{os.urandom(12).hex()},/nowhere/{os.urandom(12).hex()}.jpg" for _ in range(5000))
    table.write_text("\n".join(["id,uri", *lines]) + "\n")
    done = run({**options, "input": str(table)}, tmp_path / "out", TMPDIR=str(small_disk))
    assert done.returncode == 2, done.stderr
    assert f"error: There is no space left in {small_disk}, where the plan of this run is made." in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(small_disk.iterdir())
    assert not (tmp_path / "out").exists()


def test_a_local_ray_does_not_fit(options, small_disk, tmp_path):
    done = run(options, tmp_path / "out", RAY_TMPDIR=str(small_disk))
    assert done.returncode == 2, done.stderr
    assert f"error: No local Ray can be started: there is no space left in {small_disk}/ray." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()
