"""Temporary folders go with their owner or with its successor, and a full disk is a sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmt_ray.storage import files, scratch
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.scratch import allocate, scratch_folder, sweep_folders


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder of temporary files of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def small_disk(monkeypatch) -> Iterator[Path]:
    """A file system in memory with room for 2 MiB, as the folder of temporary files."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as disk:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        monkeypatch.setattr(tempfile, "tempdir", disk)
        yield Path(disk)
        subprocess.run(["umount", "--lazy", disk], check=True)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


def test_a_folder_goes_with_its_block_and_with_its_object(place):
    with scratch_folder("plan") as folder:
        assert folder.parent == place
        assert folder.name.startswith(f"dmt-ray-plan-{os.getpid()}-")
        (folder / "file").write_bytes(b"x")
    assert list(place.iterdir()) == []
    owned = scratch_folder("plan")
    assert owned.path.is_dir()
    del owned
    assert list(place.iterdir()) == []
    with pytest.raises(KeyError), scratch_folder("plan"):
        raise KeyError
    assert list(place.iterdir()) == []


KILLED = """
import os
from dmt_ray.storage.scratch import scratch_folder
folder = scratch_folder("plan")
(folder.path / "file").write_bytes(b"x")
print(folder.path, flush=True)
"""


def test_what_a_killed_process_left_goes_with_the_next_ones_first_folder(place):
    child = run(KILLED + "os.kill(os.getpid(), 9)")
    assert child.returncode == -signal.SIGKILL
    left = Path(child.stdout.strip())
    assert (left / "file").exists()
    assert run("import dmt_ray.storage.scratch").returncode == 0
    assert left.exists()
    assert run(KILLED).returncode == 0
    assert list(place.iterdir()) == []


def test_only_folders_of_this_programs_dead_processes_are_swept(place):
    with subprocess.Popen([sys.executable, "-c", KILLED + "input()"], stdin=-1, stdout=-1, text=True) as living:
        kept = {Path(living.stdout.readline().strip()).name}
        child = run(KILLED + "os.kill(os.getpid(), 9)")
        dead, machine, random = Path(child.stdout.strip()).name.split("-")[3:]
        for name in (
            f"dmt-ray-crash-{dead}-0123456789abcdef",
            f"dmt-ray-plan-{dead}-{'0' * 8}-{random}",  # of another machine
            f"dmt-ray-plan-{random}",
            f"dmt-ray-{dead}",
            f"other-plan-{dead}-{machine}-{random}",
            f"dmt-ray-plan-1-{machine}-{random}",  # init is always alive
        ):
            (place / name).mkdir()
            kept.add(name)
        (place / f"dmt-ray-file-{dead}-{machine}-{random}").write_bytes(b"")
        (place / "elsewhere").mkdir()
        (place / f"dmt-ray-link-{dead}-{machine}-{random}").symlink_to(place / "elsewhere")
        kept |= {f"dmt-ray-file-{dead}-{machine}-{random}", f"dmt-ray-link-{dead}-{machine}-{random}", "elsewhere"}
        if os.geteuid() == 0:
            foreign = place / f"dmt-ray-foreign-{dead}-{machine}-{random}"
            foreign.mkdir()
            os.chown(foreign, 12345, 12345)
            kept.add(foreign.name)
        assert sweep_folders() == 1
        assert {path.name for path in place.iterdir()} == kept
        living.communicate("\n")
    assert sweep_folders() == 0


def test_a_large_array_is_mapped_from_a_file_without_a_name(place, monkeypatch):
    monkeypatch.setattr(scratch, "MAPPED_BYTES", 1000)
    small, large = allocate((10, 50), np.float16), allocate((10, 51), np.float16)
    assert not isinstance(small.base, np.memmap)
    assert isinstance(large.base, np.memmap)
    assert (large.shape, large.dtype) == ((10, 51), np.float16)
    large[:] = np.arange(510).reshape(10, 51)
    assert large[9, 50] == 509
    assert list(place.iterdir()) == []


def test_an_array_that_does_not_fit_on_the_disk_is_a_sentence(small_disk, monkeypatch):
    monkeypatch.setattr(scratch, "MAPPED_BYTES", 1000)
    assert allocate((1000,), np.float64).nbytes == 8000
    with pytest.raises(StorageError, match=f"^{small_disk}: has no space left; make room, or let TMPDIR"):
        allocate((2**32, 2**10), np.float64)
    assert list(small_disk.iterdir()) == []


def test_a_block_that_fills_the_disk_is_a_sentence(small_disk):
    with pytest.raises(StorageError, match=f"^{small_disk}: has no space left"), scratch_folder("plan") as folder:
        (folder / "file").write_bytes(bytes(3 * 2**20))
    with (
        pytest.raises(StorageError, match=f"^{small_disk}: has no space left"),
        files.staged("memory://scratch/x") as path,
    ):
        path.write_bytes(bytes(3 * 2**20))
    assert list(small_disk.iterdir()) == []
    assert not files.exists("memory://scratch/x")
    with pytest.raises(IsADirectoryError), scratch_folder("plan") as folder:
        folder.read_bytes()


def test_a_download_that_fills_the_disk_is_told_once(small_disk, bucket, faulty_s3):
    files.write_atomic(f"{bucket}/large", bytes(3 * 2**20))
    faulty_s3.clear()
    with pytest.raises(StorageError, match=f"^{small_disk}: has no space left"):
        files.fetch(f"{bucket}/large", small_disk / "large")
    assert faulty_s3.requests("GET") <= 2


def test_a_disk_that_cannot_reserve_room_still_maps(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(scratch, "MAPPED_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    array = allocate((1000,), np.float64)
    array[:] = 1
    assert array.sum() == 1000
