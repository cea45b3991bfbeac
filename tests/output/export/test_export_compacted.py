"""What is exported from a compaction is what is exported from its run."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.output.compact import compact
from dmt_ray.output.export import image_files
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions

IDS = ["a.jpg", "a.png", "b/bad.jpg", "b/c.png", "b/d.jpg", "e.jpg", "f.jpg"]


@pytest.fixture
def compacted(make_output, tmp_path):
    """A run of several shards with two steps and animations, and its compaction into several files."""
    made = make_output(IDS, strengths=(1.0, 2.0), errors=["b/bad.jpg"], shard_size=2, animated=True)
    place = str(tmp_path / "compacted")
    assert compact(made.place, place, 4_000).parts > 1
    return made.place, place


def content(dest):
    return {
        str(path.relative_to(dest)): path.read_bytes()
        for path in Path(dest).rglob("*")
        if path.is_file() and path.suffix in (".png", ".webp")
    }


def rows(dest):
    return pq.read_table(Path(dest, "manifest")).to_pylist()


def test_the_files_are_those_of_the_run(compacted, tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "UNIT_ROWS", 3)
    out, place = compacted
    options = ExportOptions(only="id <> 'f.jpg'")
    dests = [str(tmp_path / name) for name in ("of-run", "of-parts")]
    reports = [export(*pair, options) for pair in zip((out, place), dests, strict=True)]
    assert reports[0] == reports[1]
    assert (reports[0].pictures, reports[0].files, reports[0].errors, reports[0].left_out) == (10, 20, 2, 2)
    assert content(dests[0]) == content(dests[1])
    assert rows(dests[0]) == rows(dests[1])
    # The one goes on with the other's export, and leaves nothing of its manifest.
    assert export(place, dests[0], options).created == 0
    assert rows(dests[0]) == rows(dests[1])
    parts = [sorted(path.name for path in Path(dest, "manifest").iterdir()) for dest in dests]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("form", ["webdataset", "huggingface"])
def test_archives_have_the_same_rows(compacted, tmp_path, form):
    out, place = compacted
    dests = [str(tmp_path / name) for name in ("of-run", "of-parts")]
    for source, dest in zip((out, place), dests, strict=True):
        assert cli.main(["export", source, dest, "--format", form]) == 0
    (first,), (second,) = ([row for row in rows(dest) if row["id"] is None] for dest in dests)
    assert first["path"] == second["path"]
    if form == "webdataset":
        assert first == second
    else:
        tables = [pq.read_table(Path(dest, "data")) for dest in dests]
        assert tables[0].equals(tables[1])
        cards = [Path(dest, "README.md").read_text() for dest in dests]
        assert cards[0] == cards[1]
        assert "animation" in tables[0].column_names


def test_compactions_that_cannot_be_exported(compacted, make_output, tmp_path, capsys):
    _, place = compacted
    dest = str(tmp_path / "dest")
    moves = make_output(["a.jpg"], place=str(tmp_path / "moves"), traversal_only=True).place
    compact(moves, f"{moves}-compacted", 4_000)
    assert cli.main(["export", f"{moves}-compacted", dest]) == 2
    assert "displacements and no pictures" in capsys.readouterr().err
    record = Path(place, "compaction.json")
    said = json.loads(record.read_text())
    del said["job"]  # as earlier versions wrote it
    record.write_text(json.dumps(said))
    export(place, f"{dest}-hub", ExportOptions(format="huggingface"))
    assert "photos edited by deep manifold traversal. `id`" in Path(f"{dest}-hub", "README.md").read_text()
    part = Path(place, "part-000001.parquet")
    data = bytearray(part.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    picture, place_of = pq.read_table(part, columns=["image"])["image"][-1].as_py(), -1
    while (place_of := data.find(picture, place_of + 1, footer)) >= 0:  # also in the page's statistics
        data[place_of + 60] ^= 1
    part.write_bytes(data)
    with pytest.raises(SettingsError, match=r"part-000001\.parquet is damaged: .*Run dmt-ray compact again"):
        export(place, dest, ExportOptions())
    part.unlink()
    with pytest.raises(SettingsError, match="is not complete, so it cannot be exported"):
        export(place, dest, ExportOptions())
    record.write_text(json.dumps({"program": said["program"], "fingerprint": said["fingerprint"]}))
    with pytest.raises(SettingsError, match="never finished"):
        export(place, dest, ExportOptions())
