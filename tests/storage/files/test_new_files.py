"""A new file is created by one writer alone; a moved one is in one place; what killed writers leave is swept."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, join, remote, retry


def test_a_new_file_is_created_once_and_whole(folder):
    uri = join(folder, "deep/run.json")
    assert files.write_new(uri, b"first")
    assert not files.write_new(uri, b"second")
    assert files.read_bytes(uri) == b"first"
    assert files.list_names(join(folder, "deep")) == {"run.json"}
    files.delete(uri)
    assert files.write_new(uri, b"third")


def test_one_of_many_writers_creates_the_file(tmp_path):
    uri = str(tmp_path / "run.json")
    for _ in range(20):
        start, won = threading.Barrier(8), []

        def write(name: int, start=start, won=won) -> None:
            start.wait()
            if files.write_new(uri, b"%d" % name * 1000):
                won.append(name)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert files.read_bytes(uri) == b"%d" % won[0] * 1000
        assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
        files.delete(uri)


def test_a_store_refuses_the_second_of_two_writers_that_both_saw_no_file(folder, monkeypatch):
    uri = join(folder, "run.json")
    monkeypatch.setattr(remote, "info", lambda fs, path: None)  # both asked before either wrote
    assert files.write_new(uri, b"first")
    assert not files.write_new(uri, b"second")
    assert files.read_bytes(uri) == b"first"


@pytest.mark.parametrize("asked", [True, False])
def test_a_large_file_gets_its_name_only_if_that_is_free(folder, monkeypatch, asked):
    if not asked:
        monkeypatch.setattr(remote, "info", lambda fs, path: None)  # both asked before either wrote
    uri = join(folder, "deep/part.tar")
    for data, free in ((b"first", True), (b"second", False)):
        with files.create_new(uri) as made:
            made.file.write(data)
        assert made.created is free
    monkeypatch.undo()
    assert files.read_bytes(uri) == b"first"
    with contextlib.suppress(ZeroDivisionError), files.create_new(join(folder, "deep/half.tar")) as made:
        made.file.write(b"half")
        raise ZeroDivisionError
    assert files.list_names(join(folder, "deep")) == {"part.tar"}
    if files.is_local(folder):
        assert [path.name for path in Path(folder, "deep").iterdir()] == ["part.tar"]


@pytest.mark.parametrize("kind", ["drop-upload", "error-500", "drop-answer"])
def test_a_writer_whose_answer_is_lost_knows_that_the_file_is_its_own(kind, bucket, faulty_s3, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    fault = faulty_s3.inject(kind, times=2, method="PUT")
    assert files.write_new(f"{bucket}/run.json", b"mine" * 1000)
    assert fault.done == 2
    assert not files.write_new(f"{bucket}/run.json", b"other")
    assert files.read_bytes(f"{bucket}/run.json") == b"mine" * 1000


def test_a_disk_without_hard_links_still_has_one_winner(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert files.write_new(str(tmp_path / "run.json"), b"first")
    assert not files.write_new(str(tmp_path / "run.json"), b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_new_file_where_none_can_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        files.write_new(str(tmp_path / "file/run.json"), b"")
    with pytest.raises(StorageError, match="is a folder"):
        files.write_new(str(tmp_path), b"")


def test_a_writer_killed_before_the_name_is_given_leaves_the_name_free(tmp_path):
    code = """
import os, sys
from dmt_ray.storage import files
os.link = lambda *_: os.kill(os.getpid(), 9)
files.write_new(sys.argv[1], b"half")
"""
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.json")], check=False)
    assert child.returncode == -9
    assert files.list_names(str(tmp_path)) == set()
    assert files.write_new(str(tmp_path / "run.json"), b"whole")
    assert files.sweep_temporary(str(tmp_path), older_than_s=-1) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_moved_file_is_under_its_new_name_alone(folder):
    files.write_atomic(join(folder, "shards/0"), b"new")
    files.write_atomic(join(folder, "discarded/0"), b"old")
    files.move(join(folder, "shards/0"), join(folder, "discarded/0"))
    assert files.read_bytes(join(folder, "discarded/0")) == b"new"
    assert files.list_names(join(folder, "shards")) == set()
    files.move(join(folder, "discarded/0"), join(folder, "other/deep/0"))
    assert files.read_bytes(join(folder, "other/deep/0")) == b"new"
    files.move(join(folder, "other/deep/0"), join(folder, "other/deep/0"))
    assert files.read_bytes(join(folder, "other/deep/0")) == b"new"
    with pytest.raises(StorageError, match="does not exist"):
        files.move(join(folder, "gone"), join(folder, "other/deep/0"))
    assert files.read_bytes(join(folder, "other/deep/0")) == b"new"


def test_a_file_moves_between_disks_and_stores(folder, tmp_path):
    files.write_atomic(join(folder, "a"), b"data")
    files.move(join(folder, "a"), str(tmp_path / "elsewhere/a"))
    assert (tmp_path / "elsewhere/a").read_bytes() == b"data"
    assert not files.exists(join(folder, "a"))
    files.move(str(tmp_path / "elsewhere/a"), join(folder, "b"))
    assert files.read_bytes(join(folder, "b")) == b"data"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    shared = Path("/dev/shm")
    if files.is_local(folder) and shared.is_dir() and shared.stat().st_dev != tmp_path.stat().st_dev:
        other = shared / f"dmt-ray-test-{os.getpid()}"
        try:
            files.move(join(folder, "b"), str(other))
            assert other.read_bytes() == b"data"
            assert not files.exists(join(folder, "b"))
        finally:
            other.unlink(missing_ok=True)


def test_only_old_files_of_killed_writers_are_swept(tmp_path):
    mine = [f".tmp-{number:024x}" for number in range(3)]
    others = [".tmp-1", ".tmp-" + "g" * 24, ".tmp-" + "0" * 25, "x.tmp-" + "0" * 24, "0.parquet", ".hidden"]
    for name in (*mine, *others):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, time.time() - 7200))
    os.utime(tmp_path / mine[2])
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / mine[0]).write_bytes(b"")
    os.utime(tmp_path / "sub" / mine[0], (0, 0))
    folder_name, link_name = ".tmp-" + "a" * 24, ".tmp-" + "b" * 24
    (tmp_path / folder_name).mkdir()
    os.utime(tmp_path / folder_name, (0, 0))
    (tmp_path / link_name).symlink_to(tmp_path / "0.parquet")
    assert files.sweep_temporary(str(tmp_path)) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine[2], *others, "sub", folder_name, link_name}
    assert (tmp_path / "sub" / mine[0]).exists()
    assert files.sweep_temporary(str(tmp_path)) == 0


def test_a_missing_folder_and_a_store_have_nothing_to_sweep(folder, tmp_path):
    assert files.sweep_temporary(join(folder, "gone")) == 0
    if not files.is_local(folder):
        files.write_atomic(join(folder, f".tmp-{'0' * 24}"), b"")
        assert files.sweep_temporary(folder, older_than_s=-1) == 0
        assert files.exists(join(folder, f".tmp-{'0' * 24}"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        files.sweep_temporary(str(tmp_path / "file"))
