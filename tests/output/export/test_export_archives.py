"""Pictures as WebDataset archives, read with the library and with tarfile."""

import datetime
import decimal
import hashlib
import json
import math
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from dmt_ray.errors import SettingsError
from dmt_ray.output.export import units
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.storage.hashing import file_sha256

IDS = ["a.jpg", "b/a.jpeg", "b/v1.5/c.png", "bad.jpg", "..", "v1_5.c.tif"]


@pytest.fixture
def dest(tmp_path):
    return str(tmp_path / "dest")


def test_samples_as_the_library_reads_them(make_output, dest):
    columns = pa.table(
        {
            "caption": ["größe", None, "x", "y", "z", "w"],
            "score": [math.nan, math.inf, 0.5, 1.0, 2.0, 3.0],
            "taken": [datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)] * 6,
            "price": [decimal.Decimal("1.50")] * 6,
            "raw": [b"\x00\xff"] * 6,
            "tags": pa.array([[{"k": 1.5, "d": datetime.timedelta(seconds=2)}]] * 6),
            "m": pa.array([[("k", b"v")]] * 6, pa.map_(pa.string(), pa.binary())),
        }
    )
    made = make_output(IDS, strengths=(0.5, 2.0), errors=["bad.jpg"], columns=columns, animated=True)
    report = export(made.place, dest, ExportOptions(format="webdataset"))
    assert (report.pictures, report.files, report.errors) == (10, 1, 2)
    (archive,) = Path(dest).glob("*.tar")
    samples = list(webdataset.WebDataset(str(archive), shardshuffle=False).decode("rgb8"))
    assert len(samples) == 10
    assert len({sample["__key__"] for sample in samples}) == 10
    for sample in samples:
        row = sample["json"]
        assert not set("./") & set(sample["__key__"])
        assert sample["__key__"].endswith(f"_strength-{row['strength']:g}".replace(".", "_"))
        assert sample["png"].shape == (6, 8, 3)
        assert sample["animation.webp"].shape == (6, 8, 3)
        assert "image" not in row
        assert "animation" not in row
        assert row["image_sha256"] == hashlib.sha256(made.pictures[row["id"], row["step"]]).hexdigest()
    first = next(sample["json"] for sample in samples if sample["json"]["id"] == "a.jpg")
    assert first["caption"] == "größe"
    assert first["score"] is None
    assert (first["taken"], first["price"], first["raw"]) == ("2020-01-02T03:04:05+00:00", "1.50", "AP8=")
    assert first["tags"] == [{"k": 1.5, "d": 2.0}]
    assert first["m"] == [["k", "dg=="]]
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        contents = {member.name: tar.extractfile(member).read() for member in members}
    assert {(member.mtime, member.uid, member.mode) for member in members} == {(0, 0, 0o644)}
    rows = pq.read_table(Path(dest, "manifest")).to_pylist()
    whole, *entries = rows
    moving = [entry for entry in entries if entry["animation"]]
    assert [entry["member"].partition(".")[2] for entry in moving] == ["animation.webp"] * 10
    assert all(hashlib.sha256(contents[entry["member"]]).hexdigest() == entry["sha256"] for entry in moving)
    entries = [entry for entry in entries if not entry["animation"]]
    assert (whole["path"], whole["id"], whole["member"]) == (archive.name, None, None)
    assert (whole["sha256"], whole["size"]) == (file_sha256(str(archive)), archive.stat().st_size)
    assert {entry["member"]: contents[entry["member"]] for entry in entries} == {
        entry["member"]: made.pictures[entry["id"], entry["step"]] for entry in entries
    }
    assert len(entries) == 10


def test_archives_are_cut_by_size_and_only_missing_ones_are_made_again(make_output, dest, monkeypatch, tmp_path):
    cut = units.cut

    def small(run, sizes, limit):
        return cut(run, sizes, 1)

    monkeypatch.setattr(units, "cut", small)
    ids = [f"{number}.jpg" for number in range(8)]
    make_output(ids, errors=ids[3:6])  # the second shard has no picture
    out = str(tmp_path / "out")
    options = ExportOptions(format="webdataset", only="id < '7'")
    export(out, dest, options)
    archives = sorted(Path(dest).glob("*.tar"))
    assert [archive.name for archive in archives] == ["shard-000000.tar", "shard-000001.tar"]
    with tarfile.open(archives[1]) as tar:
        assert tar.getnames() == ["6.png", "6.json"]
        assert json.load(tar.extractfile("6.json"))["id"] == "6.jpg"
    before = [archive.stat().st_mtime_ns for archive in archives]
    data = archives[1].read_bytes()
    archives[1].unlink()
    assert export(out, dest, options).created == 1
    assert archives[1].read_bytes() == data
    assert archives[0].stat().st_mtime_ns == before[0]
    Path(dest, "manifest", "part-000001.parquet").unlink()  # stopped between the archive and its part
    export(out, dest, options)
    assert archives[1].read_bytes() == data
    archives[1].write_bytes(b"mine")
    Path(dest, "manifest", "part-000001.parquet").unlink()
    with pytest.raises(SettingsError, match=r"shard-000001\.tar is there already, and this export did not write it"):
        export(out, dest, options)
    assert archives[1].read_bytes() == b"mine"
    make_output(ids, errors=ids[:6])
    with pytest.raises(SettingsError, match="of this run as it was before"):
        export(out, dest, options)


def test_archives_in_a_store(make_output, bucket):
    made = make_output(["a.jpg", "b.jpg"], place=f"{bucket}/out")
    options = ExportOptions(format="webdataset")
    assert export(made.place, f"{bucket}/dest", options).created == 2
    assert export(made.place, f"{bucket}/dest", options).created == 0
