"""Pictures as files: where they lie, what is never overwritten, how a stopped export goes on."""

import hashlib
import json
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.output.export import exporting, image_files
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.output.export.writing import Destination
from dmt_ray.storage import files

IDS = ["a.jpg", "b/a.jpeg", "b/c.png", "b/bad.jpg", "z.tif"]


def pictures_in(dest):
    """The exported files by relative path, with their bytes."""
    found = files.list_files(dest, {".png", ".jpg", ".webp"})
    return {uri[len(dest) + 1 :]: files.read_bytes(uri) for uri in found}


def manifest(dest):
    return pq.read_table(sorted(Path(dest, "manifest").iterdir())).to_pylist()


def stamps(dest):
    return {path: path.stat().st_mtime_ns for path in Path(dest).rglob("*.p*") if path.is_file()}


@pytest.fixture
def dest(tmp_path):
    return str(tmp_path / "dest")


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(image_files, "UNIT_ROWS", 3)


def test_folders_and_names_of_the_input(make_output, dest, capsys):
    made = make_output(IDS, errors=["b/bad.jpg"])
    assert cli.main(["export", made.place, dest]) == 0
    said = capsys.readouterr().out
    assert "4 pictures in 4 files" in said
    assert "4 of them were written now" in said
    assert "1 error row has no picture" in said
    names = {"a.png": "a.jpg", "b/a.png": "b/a.jpeg", "b/c.png": "b/c.png", "z.png": "z.tif"}
    want = {path: made.pictures[id_, 0] for path, id_ in names.items()}
    assert pictures_in(dest) == want
    for entry in manifest(dest):
        data = want[entry["path"]]
        assert entry["id"].startswith(entry["path"][:-4])
        assert (entry["sha256"], entry["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert (entry["step"], entry["strength"], entry["member"]) == (0, 2.0, None)
    assert len(manifest(dest)) == 4
    record = json.loads(Path(dest, "export.json").read_text())
    assert (record["finished"], record["pictures"], record["errors"], record["left_out"]) == (True, 4, 1, 0)
    before = stamps(dest)
    assert cli.main(["export", made.place, dest]) == 0
    assert "0 of them were written now" in capsys.readouterr().out
    assert stamps(dest) == before
    assert cli.main(["verify", made.place]) == 0


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, ["a_strength-0.5.png", "a_strength-2.png", "b/a_strength-0.5.png", "b/a_strength-2.png"]),
        ({"flat": True}, ["a_strength-0.5.png", "a_strength-2.png", "b__a_strength-0.5.png", "b__a_strength-2.png"]),
        (
            {"strengths": "folder"},
            ["strength-0.5/a.png", "strength-0.5/b/a.png", "strength-2/a.png", "strength-2/b/a.png"],
        ),
        ({"flat": True, "only": "step = 1 and id like 'b%'"}, ["b__a_strength-2.png"]),
    ],
)
def test_strengths_and_flat_folders(make_output, dest, options, paths):
    made = make_output(["a.jpg", "b/a.jpg"], strengths=(0.5, 2.0))
    report = export(made.place, dest, ExportOptions(**options))
    found = pictures_in(dest)
    assert sorted(found) == paths
    assert (report.pictures, report.left_out) == (len(paths), 4 - len(paths))
    assert found[paths[-1]] == made.pictures["b/a.jpg", 1]


def test_names_that_would_be_the_same_and_names_that_lead_away(make_output, dest):
    ids = ["a.jpg", "a.png", "A.gif", "../../../escape.png", "nul", "x" * 400]
    made = make_output(ids, shard_size=2)
    export(made.place, dest, ExportOptions())
    found = pictures_in(dest)
    assert len(found) == len({path.lower() for path in found}) == len(ids)
    assert found["a.png"] == made.pictures["a.jpg", 0]
    assert {"_/_/_/escape.png", "_nul.png"} <= found.keys()
    assert set(Path(dest).parent.iterdir()) == {Path(dest), Path(made.place)}
    told = {entry["id"]: found[entry["path"]] for entry in manifest(dest)}
    assert told == {id_: data for (id_, _), data in made.pictures.items()}


def test_animations_lie_beside_their_pictures(make_output, dest):
    ids = ["b/a.jpg", "b/a.animation.jpg", "b/A.Animation.webp"]
    made = make_output(ids, strengths=(1.0, 2.0), animated=True)
    rows = {(row["id"], row["step"]): row for row in made.rows.select(["id", "step", "animation"]).to_pylist()}
    report = export(made.place, dest, ExportOptions(strengths="folder"))
    assert (report.pictures, report.files, report.created) == (6, 12, 6)
    found = pictures_in(dest)
    assert len({path.lower() for path in found}) == 12
    assert found["strength-2/b/a.png"] == made.pictures["b/a.jpg", 1]
    assert found["strength-2/b/a.animation.webp"] == rows["b/a.jpg", 1]["animation"]
    assert found["strength-1/b/a_animation.animation.webp"] == rows["b/a.animation.jpg", 0]["animation"]
    for entry in manifest(dest):
        row = rows[entry["id"], entry["step"]]["animation"]
        want = row if entry["animation"] else made.pictures[entry["id"], entry["step"]]
        assert found[entry["path"]] == want
        assert entry["sha256"] == hashlib.sha256(want).hexdigest()
    assert export(made.place, dest, ExportOptions(strengths="folder")).created == 0
    other = f"{dest}-other"
    assert export(made.place, other, ExportOptions(flat=True)).created == 6
    assert "b__a_strength-1.animation.webp" in pictures_in(other)


def test_a_condition_over_the_rows_columns(make_output, dest, tmp_path):
    columns = pa.table({"year": [2000 + number for number in range(7)], "raw": [b"x"] * 7})
    made = make_output([f"{number}.jpg" for number in range(7)], columns=columns, errors=["6.jpg"])
    report = export(made.place, dest, ExportOptions(only="year >= 2003 AND status IN ('ok', 'error')"))
    assert sorted(pictures_in(dest)) == ["3.png", "4.png", "5.png"]
    assert (report.pictures, report.errors, report.left_out) == (3, 1, 3)
    other = str(tmp_path / "other")
    for only, reason in (
        ("year > 3000", "leaves no picture"),
        ("nothing = 1", "nothing.*Columns: .*year"),
        ("raw = 'x'", "raw"),  # bytes are not loaded
        ("true; DROP TABLE x", "one SQL expression"),
        (f"exists(FROM read_parquet('{made.place}/plan.parquet'))", "one SQL expression"),
        (f"year = (SELECT count(*) FROM read_text('{__file__}'))", "one SQL expression"),
    ):
        with pytest.raises(SettingsError, match=reason):
            export(made.place, other, ExportOptions(only=only))
    assert not Path(other).exists()


def test_nothing_of_somebody_elses_is_overwritten(make_output, dest, small_units, capsys):
    made = make_output(IDS)
    Path(dest, "b").mkdir(parents=True)
    own = Path(dest, "b", "c.png")
    own.write_bytes(b"mine")
    assert cli.main(["export", made.place, dest]) == 2
    assert "holds 'b' and is no export" in capsys.readouterr().err
    own.rename(Path(dest).parent / "c.png")
    own.parent.rmdir()
    export(made.place, dest, ExportOptions())
    own.write_bytes(b"mine")  # changed since
    Path(dest, "manifest", "part-000000.parquet").unlink()
    assert cli.main(["export", made.place, dest]) == 2
    err = capsys.readouterr().err
    assert f"{own} is there already, and this export did not write it" in err
    assert own.read_bytes() == b"mine"
    own.unlink()
    assert cli.main(["export", made.place, dest]) == 0
    assert own.read_bytes() == made.pictures["b/c.png", 0]
    Path(dest, "z.png").unlink()
    Path(dest, "z.png").mkdir()
    Path(dest, "manifest", "part-000001.parquet").unlink()
    assert cli.main(["export", made.place, dest]) == 2
    assert "z.png" in capsys.readouterr().err


def test_a_stopped_export_goes_on(make_output, dest, small_units, monkeypatch):
    ids = [f"{number:02d}.jpg" for number in range(20)]
    made = make_output(ids)
    put, calls, lock = Destination.put, [], threading.Lock()

    def dying(self, path, *rest):
        with lock:
            calls.append(path)
            if len(calls) > 8:
                raise KeyboardInterrupt
        return put(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            export(made.place, dest, ExportOptions(threads=2))
    first = stamps(dest)
    written = pictures_in(dest)
    assert 0 < len(written) < 20
    assert json.loads(Path(dest, "export.json").read_text())["finished"] is False
    Path(dest, "00.png").unlink()  # and somebody deleted one
    report = export(made.place, dest, ExportOptions(threads=3))
    assert (report.pictures, report.created) == (20, 20 - len(written) + 1)
    assert pictures_in(dest) == {f"{id_[:2]}.png": made.pictures[id_, 0] for id_ in ids}
    kept = {path for path in first if path.suffix == ".png" and path.name != "00.png"}
    assert {path: first[path] for path in kept} == {path: stamps(dest)[path] for path in kept}
    assert len(manifest(dest)) == 20
    assert not list(Path(dest).rglob(".*"))


def test_a_run_that_has_changed_since(make_output, dest, small_units):
    ids = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    make_output(ids, errors=["b.jpg"])
    out = str(Path(dest).parent / "out")
    export(out, dest, ExportOptions())
    before = stamps(dest)
    made = make_output(ids)  # b was done again
    report = export(out, dest, ExportOptions())
    assert (report.pictures, report.created) == (5, 1)
    kept = [path for path in before if path.suffix == ".png"]
    assert all(stamps(dest)[path] == before[path] for path in kept)
    made = make_output(ids, errors=["e.jpg"], seed=7)  # all of them, with other bytes
    assert export(out, dest, ExportOptions()).created == 4
    assert pictures_in(dest) == {f"{id_[0]}.png": data for (id_, _), data in made.pictures.items()}
    for options in (ExportOptions(flat=True), ExportOptions(only="step = 0")):
        with pytest.raises(SettingsError, match=r"an export with other options \(--(flat|only)\)"):
            export(out, dest, options)
    record = json.loads(Path(dest, "export.json").read_text())
    Path(dest, "export.json").write_text(json.dumps(record | {"fingerprint": "0"}))
    with pytest.raises(SettingsError, match="an export of another run; name another DEST"):
        export(out, dest, ExportOptions())
    Path(dest, "export.json").write_text("{}")
    with pytest.raises(SettingsError, match="not written by this program"):
        export(out, dest, ExportOptions())


def test_runs_that_cannot_be_exported(make_output, dest, tmp_path, capsys):
    moves = make_output(["a.jpg"], place=str(tmp_path / "moves"), traversal_only=True)
    assert cli.main(["export", moves.place, dest]) == 2
    assert "displacements and no pictures" in capsys.readouterr().err
    failed = make_output(["a.jpg"], place=str(tmp_path / "failed"), errors=["a.jpg"])
    assert cli.main(["export", failed.place, dest]) == 2
    assert "no picture to export: its only row is an error row" in capsys.readouterr().err
    made = make_output(IDS)
    assert cli.main(["export", str(tmp_path), dest]) == 2
    assert "is it the --output of a run?" in capsys.readouterr().err
    shard = Path(made.place, "shards", "shard-000000.parquet")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    shard.write_bytes(data)
    assert cli.main(["export", made.place, dest]) == 2
    assert "shard-000000.parquet is damaged: " in capsys.readouterr().err
    shard.unlink()
    assert cli.main(["export", made.place, str(tmp_path / "dest2")]) == 2
    assert "is not complete, so it cannot be exported" in capsys.readouterr().err
    for options in (["--format", "webdataset", "--flat"], ["--only", " "], ["--threads", "0"], ["--file-size", "0"]):
        assert cli.main(["export", made.place, dest, *options]) == 2
        assert options[-2 if len(options) == 2 else -1] in capsys.readouterr().err


def test_from_one_store_to_another(make_output, bucket, s3_server, small_units):
    made = make_output([*IDS, "faces.parquet#12", "100% [ü]+&.jpg"], place=f"{bucket}/out", errors=["b/bad.jpg"])
    dest = f"{bucket}/dest"
    report = export(made.place, dest, ExportOptions())
    found = pictures_in(dest)
    assert found["b/c.png"] == made.pictures["b/c.png", 0]
    assert found["faces.parquet#12.png"] == made.pictures["faces.parquet#12", 0]
    assert found["100% [ü]+&.png"] == made.pictures["100% [ü]+&.jpg", 0]
    assert (len(found), report.created) == (6, 6)
    assert export(made.place, dest, ExportOptions()).created == 0
    files.delete(f"{dest}/z.png")
    files.write_atomic(f"{dest}/b/c.png", b"mine")
    files.delete(f"{dest}/manifest/part-000000.parquet")
    with pytest.raises(SettingsError, match=r"/dest/b/c\.png is there already, and this export did not write it"):
        export(made.place, dest, ExportOptions())
    assert files.read_bytes(f"{dest}/b/c.png") == b"mine"


def test_the_manifest_is_read_with_sql(make_output, dest):
    made = make_output(IDS, strengths=(1.0, 2.0))
    export(made.place, dest, ExportOptions())
    sql = f"SELECT count(*), count(DISTINCT path), max(strength) FROM '{dest}/manifest/*.parquet'"
    assert duckdb.sql(sql).fetchall() == [(10, 10, 2.0)]
    assert exporting.EXPORT_FILE in files.list_names(dest)
