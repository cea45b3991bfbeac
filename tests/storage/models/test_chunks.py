"""Arrays in chunks: gone on with, opened in part, and never taken for what they are not."""

from pathlib import Path

import numpy as np
import pytest

from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import list_names
from dmt_ray.storage.models.chunks import ChunkWriter
from dmt_ray.storage.models.manifolds import delete_arrays, open_arrays, open_chunks, save_arrays

ROWS = np.arange(70, dtype=np.float16).reshape(10, 7)
PARTS = [ROWS[:4], ROWS[4:4], ROWS[4:8], ROWS[8:]]


@pytest.fixture(params=["local", "store"])
def folder(request, tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("DMT_RAY_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "m") if request.param == "local" else request.getfixturevalue("bucket")


def saved(folder: str) -> None:
    writer = ChunkWriter(folder, "patches", "abc0")
    entries = {writer.chunk(number): writer.write(number, part) for number, part in enumerate(PARTS)}
    save_arrays(folder, {}, {"scenes": np.ones(3)}, entries, "abc0")


def test_rows_are_those_of_all_chunks_together(folder):
    saved(folder)
    assert list(open_arrays(folder)[1]) == ["scenes"]
    rows = open_chunks(folder, "patches")
    assert len(rows) == 10
    found = rows.rows([9, 0, 3, 4, 4])
    np.testing.assert_array_equal(found, ROWS[[9, 0, 3, 4, 4]])
    again = rows.rows([1, 8])  # memory is used again: a process that asks often does not grow
    np.testing.assert_array_equal(again, ROWS[[1, 8]])
    assert np.shares_memory(found, again)
    assert rows.rows([]).shape[0] == 0
    with pytest.raises(StorageError, match="10 rows"):
        rows.rows([10])


def test_only_the_chunks_that_are_asked_for_are_opened(tmp_path):
    saved(str(tmp_path))
    Path(tmp_path, "patches_000002-abc0.safetensors").write_bytes(b"damaged")
    rows = open_chunks(str(tmp_path), "patches")
    np.testing.assert_array_equal(rows.rows([0, 9]), ROWS[[0, 9]])
    with pytest.raises(StorageError, match="patches_000002"):
        rows.rows([5])


def test_a_writer_finds_the_chunks_of_an_earlier_one(folder):
    first = ChunkWriter(folder, "patches", "abc0")
    entries = [first.write(number, PARTS[number]) for number in (0, 2)]
    second = ChunkWriter(folder, "patches", "abc0")
    assert [second.has(number) for number in range(4)] == [True, False, True, False]
    assert [second.entry(0), second.entry(2)] == entries
    assert not ChunkWriter(folder, "patches", "def1").has(0)


def test_chunks_of_a_build_that_was_given_up_are_deleted(tmp_path):
    ChunkWriter(str(tmp_path), "patches", "0123").write(5, ROWS)
    Path(tmp_path, "mine_000001-0123.safetensors").touch()
    saved(str(tmp_path))
    ChunkWriter(str(tmp_path), "patches", "abc0").delete_others()
    names = list_names(str(tmp_path))
    assert "patches_000005-0123.safetensors" not in names
    assert "mine_000001-0123.safetensors" in names
    np.testing.assert_array_equal(open_chunks(str(tmp_path), "patches").rows(range(10)), ROWS)
    saved(str(tmp_path))  # again: the same names
    assert list_names(str(tmp_path)) == names
    delete_arrays(str(tmp_path))
    assert not list_names(str(tmp_path))


def test_a_file_that_is_no_chunk_is_told(tmp_path):
    writer = ChunkWriter(str(tmp_path), "patches", "abc0")
    Path(tmp_path, "patches_000000-abc0.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(StorageError, match="safetensors"):
        writer.entry(0)
    save_arrays(str(tmp_path), {}, {"scenes": np.ones(3)})
    with pytest.raises(StorageError, match="names no patches"):
        open_chunks(str(tmp_path), "patches")
