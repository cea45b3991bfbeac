"""A disk that is full in the middle of a run, and has room again for the next one."""

import subprocess

import pytest

from chaos.conftest import PATIENCE, attached, command_line, shard_files
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory with room for about two shards."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_what_does_not_fit_is_done_when_there_is_room(options, same, small_disk):
    out = small_disk / "out"
    full = subprocess.run(
        command_line(options, out), env=attached(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert full.returncode == 3, full.stdout + full.stderr
    assert "No space left on device" in full.stderr
    report = verify_output(str(out))
    assert 0 < report.rows < 10
    assert not report.damaged
    assert not [path for path in (out / "shards").iterdir() if path.name.startswith(".")]
    kept = shard_files(out)
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE).returncode == 0
    assert kept.items() <= shard_files(out).items()
    same(out)
