"""Shards merged into large files: the same rows, again and again, and nothing else touched."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.output import compact as module
from dmt_ray.output.commit import commit_shard, shard_uri
from dmt_ray.output.compact import compact, verify_compaction
from dmt_ray.output.schema import SCHEMA_VERSION, rows_table
from dmt_ray.pipeline.prepare import prepare_run, write_run
from dmt_ray.storage.images import encode_image

SHARDS, EACH = 9, 3


def rows(items, seed):
    random = np.random.default_rng(seed)
    for item in items:
        picture = random.integers(0, 256, (40, 50, 3), np.uint8)
        yield {
            **{
                "id": item.id,
                "uri": item.uri,
                "step": 0,
                "status": "ok",
                "displacement_norm": 1.0,
                "image_format": "png",
            },
            **{"image": encode_image(picture, "png", 95), "width": 50, "height": 40},
            "digital_source_type": "algorithmicallyEnhanced",
        }


@pytest.fixture
def out(configure, photos, tmp_path):
    """A finished run of nine shards of about 18 kB, with a column of the input's."""
    uri = str(photos / "inputs" / "photo-0.jpg")
    ids = [f"i{index:02d}" for index in range(SHARDS * EACH)]
    table = pa.table({"id": ids, "uri": [uri] * len(ids), "year": list(range(len(ids)))})
    pq.write_table(table, tmp_path / "inputs.parquet")
    run = prepare_run(configure(input=str(tmp_path / "inputs.parquet"), shard_size=EACH))
    write_run(run)
    for shard in run.shards:
        table = rows_table(rows(shard.items, shard.number))
        years = [int(item.id[1:]) for item in shard.items]
        commit_shard(shard, table.append_column("year", pa.array(years)), run.expected)
    return str(tmp_path / "out")


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("part-*")}


def read(folder, pattern):
    return ds.dataset(sorted(map(str, Path(folder).glob(pattern)))).to_table()


def test_the_same_rows_in_fewer_files(out, tmp_path):
    dest = str(tmp_path / "dest")
    before = stamps(tmp_path / "out")
    report = compact(out, dest, 50_000)
    assert report.complete
    assert (report.rows, report.parts, report.written) == (27, 3, 3)
    assert read(dest, "part-*").equals(read(out, "shards/*"))
    assert pq.ParquetFile(Path(dest, "part-000000.parquet")).num_row_groups == 3
    assert stamps(tmp_path / "out") == before
    made = stamps(dest)
    assert compact(out, dest, 50_000).written == 0
    assert stamps(dest) == made
    assert compact(out, dest, 10**9).parts == 1  # another size replaces the files
    assert list(stamps(dest)) == ["part-000000.parquet"]
    assert read(dest, "part-*").equals(read(out, "shards/*"))


def test_an_interrupted_compaction_goes_on(out, tmp_path, monkeypatch, capsys):
    dest = str(tmp_path / "dest")
    write, calls = module._write, []

    def dying(uri, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(uri)
        write(uri, *rest)

    monkeypatch.setattr(module, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        compact(out, dest, 50_000)
    assert cli.main(["verify", dest]) == 2
    assert "never finished" in capsys.readouterr().err
    made = stamps(dest)
    assert len(made) == 2
    monkeypatch.undo()
    assert compact(out, dest, 50_000).written == 1
    assert made.items() <= stamps(dest).items()
    assert read(dest, "part-*").equals(read(out, "shards/*"))


def test_a_part_that_is_damaged_is_found_and_made_again(out, tmp_path, capsys):
    dest = str(tmp_path / "dest")
    compact(out, dest, 50_000)
    assert cli.main(["verify", dest, "--deep"]) == 0
    path = Path(dest, "part-000001.parquet")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 50] ^= 1
    path.write_bytes(data)
    assert cli.main(["verify", dest]) == 0
    assert cli.main(["verify", dest, "--deep"]) == 3
    assert "part-000001.parquet" in capsys.readouterr().out
    assert compact(out, dest, 50_000).written == 1
    assert cli.main(["verify", dest, "--deep"]) == 0
    os.truncate(path, 1000)
    assert list(verify_compaction(dest).damaged) == ["part-000001.parquet"]
    assert compact(out, dest, 50_000).written == 1
    path.unlink()
    assert verify_compaction(dest).damaged == {"part-000001.parquet": "it is missing"}
    assert cli.main(["compact", out, dest]) == 0
    assert read(dest, "part-*").equals(read(out, "shards/*"))


def test_what_cannot_be_compacted(out, tmp_path, configure, photos):
    with pytest.raises(SettingsError, match="is no compaction"):
        compact(out, out, 50_000)
    dest = str(tmp_path / "dest")
    compact(out, dest, 50_000)
    Path(shard_uri(out, 4)).unlink()
    with pytest.raises(SettingsError, match="is not complete"):
        compact(out, dest, 50_000)
    other = prepare_run(configure(output=str(tmp_path / "other"), iterations=3))
    write_run(other)
    for shard in other.shards:
        commit_shard(shard, rows_table(rows(shard.items, 0)), other.expected)
    with pytest.raises(SettingsError, match="of another run"):
        compact(str(tmp_path / "other"), dest, 50_000)


def test_memory_stays_that_of_one_shard(out, tmp_path, monkeypatch):
    """The largest table that is ever handed to the writer is one shard."""
    largest = []
    write = pq.ParquetWriter.write_table

    def noting(self, table, *rest, **options):
        largest.append(table.num_rows)
        write(self, table, *rest, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", noting)
    compact(out, str(tmp_path / "dest"), 10**9)
    assert max(largest) == EACH
    assert len(largest) == SHARDS


def test_the_parts_say_their_version_and_errors(out, tmp_path):
    dest = tmp_path / "dest"
    compact(out, str(dest), 50_000)
    keys = pq.ParquetFile(dest / "part-000000.parquet").metadata.metadata
    assert keys[b"dmt_ray.schema_version"] == str(SCHEMA_VERSION).encode()
    assert keys[b"dmt_ray.errors"] == b"0"


def test_strangers_in_a_compaction_are_named(out, tmp_path, capsys):
    dest = tmp_path / "dest"
    compact(out, str(dest), 50_000)
    for name in ("part-000000 (1).parquet", "part-000007.parquet", "notes.txt", ".hidden"):
        (dest / name).write_bytes((dest / "part-000000.parquet").read_bytes())
    report = verify_compaction(str(dest))
    assert report.strangers == ["notes.txt", "part-000000 (1).parquet", "part-000007.parquet"]
    assert cli.main(["verify", str(dest)]) == 3
    assert "part-000000 (1).parquet" in capsys.readouterr().out
    assert cli.main(["compact", out, str(dest)]) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 200_000,
        b"\xff",
        b"[]",
        {"parts": 3},
        {"parts": [7]},
        {"parts": [{"name": "../out/run.json", "rows": 1, "stamp": "s"}]},
        {"parts": [{"name": "part-000000.parquet", "rows": "1", "stamp": "s"}]},
        {"fingerprint": []},
    ],
)
def test_a_damaged_record_is_one_sentence(out, tmp_path, capsys, content):
    dest = tmp_path / "dest"
    compact(out, str(dest), 50_000)
    record = dest / "compaction.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(record.read_bytes()) | content).encode()
    record.write_bytes(content)
    for command in (["verify", str(dest)], ["compact", out, str(dest)]):
        assert cli.main(command) == 2
        assert "compaction.json" in capsys.readouterr().err
