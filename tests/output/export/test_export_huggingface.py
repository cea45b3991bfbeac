"""Pictures as a Hugging Face dataset, read with the library itself."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from older import make_older

from dmt_ray.output.export import huggingface, units
from dmt_ray.output.export.exporting import export
from dmt_ray.output.export.options import ExportOptions

IDS = ["a.jpg", "b/a.jpeg", "bad.jpg", "b/c.png"]


@pytest.fixture
def dest(tmp_path):
    return str(tmp_path / "dest")


def load(datasets, folder, **options):
    """The rows of a dataset, by the library, and the features that it has."""
    rows = datasets.load_dataset(folder, split="train", cache_dir=str(Path(folder).parent / "cache"), **options)
    return list(rows), rows.features


def test_the_library_shows_the_pictures(make_output, dest, datasets):
    columns = pa.table({"m": pa.array([[("k", 1)]] * 4, pa.map_(pa.string(), pa.int8())), "year": [1, 2, 3, 4]})
    columns = columns.append_column("kind", pa.array(["x", "y", "x", "y"]).dictionary_encode())
    made = make_output(IDS, strengths=(1.0, 2.0), errors=["bad.jpg"], columns=columns, animated=True)
    report = export(made.place, dest, ExportOptions(format="huggingface"))
    assert (report.pictures, report.files, report.errors) == (6, 1, 2)
    rows, features = load(datasets, dest)
    assert features["image"] == features["animation"] == datasets.Image()
    assert "displacement" not in features
    assert "m" not in features  # datasets has no maps
    assert features["kind"].dtype == "string"
    assert [(row["id"], row["step"]) for row in rows] == list(made.pictures)
    assert {row["image"].size for row in rows} == {(8, 6)}
    assert rows[0]["animation"].n_frames == 2
    assert [row["kind"] for row in rows[::2]] == ["x", "y", "y"]
    streamed = datasets.load_dataset(dest, split="train", streaming=True)
    assert next(iter(streamed))["image"].size == (8, 6)
    (path,) = Path(dest, "data").iterdir()
    assert path.name == "train-00000-of-00001.parquet"
    file = pq.read_table(path)
    assert file.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert file["image"].to_pylist() == [
        {"bytes": data, "path": f"{Path(id_).stem}_strength-{step + 1}.png"}
        for (id_, step), data in made.pictures.items()
    ]
    features_in_file = datasets.Features.from_arrow_schema(file.schema)
    assert features_in_file == features
    assert (pd.read_parquet(path).year == [1, 1, 2, 2, 4, 4]).all()


def test_without_animations_there_is_no_column_of_them(make_output, dest, datasets):
    made = make_output(["a.jpg"], columns=pa.table({"path": ["own"], "animation": ["own too"]}))
    export(made.place, dest, ExportOptions(format="huggingface"))
    rows, features = load(datasets, dest)
    assert "animation" not in features
    assert (rows[0]["path"], rows[0]["input_animation"]) == ("own", "own too")


@pytest.mark.parametrize("version", [1, 4])
def test_an_older_output_with_its_own_names(make_output, dest, datasets, version):
    made = make_output(["a.jpg", "b.jpg"], columns=pa.table({"year": [1, 2]}), animated=True)
    make_older(made.place, version)
    report = export(made.place, dest, ExportOptions(format="huggingface", only="year > 1"))
    rows, features = load(datasets, dest)
    assert (report.pictures, rows[0]["id"], rows[0]["animation"].n_frames) == (1, "b.jpg", 2)
    assert "path" not in features
    for name in ("files", "webdataset"):
        assert export(made.place, f"{dest}-{name}", ExportOptions(format=name)).pictures == 2


def test_shards_row_groups_and_what_is_done(make_output, dest, datasets, monkeypatch):
    cut = units.cut
    monkeypatch.setattr(units, "cut", lambda run, sizes, limit: cut(run, sizes, 400))
    monkeypatch.setattr(huggingface, "_GROUP_BYTES", 1)
    ids = [f"{number:02d}.jpg" for number in range(20)]
    made = make_output(ids, shard_size=4)
    options = ExportOptions(format="huggingface")
    report = export(made.place, dest, options)
    paths = sorted(Path(dest, "data").iterdir())
    assert [path.name for path in paths] == [f"train-{n:05d}-of-{len(paths):05d}.parquet" for n in range(len(paths))]
    assert report.files == len(paths) > 1
    assert pq.ParquetFile(paths[0]).num_row_groups > 0
    assert pq.ParquetFile(paths[0]).metadata.row_group(0).column(0).has_offset_index
    rows, _ = load(datasets, dest)
    assert [row["id"] for row in rows] == ids
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert export(made.place, dest, options).created == 0
    assert before == {path: path.stat().st_mtime_ns for path in paths}
    paths[0].unlink()
    assert export(made.place, dest, options).created > 0
    assert load(datasets, dest)[0][0]["id"] == "00.jpg"
    assert json.loads(Path(dest, "export.json").read_text())["finished"]


def test_only_what_the_condition_wants(make_output, dest, datasets):
    made = make_output(IDS, strengths=(1.0, 2.0))
    export(made.place, dest, ExportOptions(format="huggingface", only="strength > 1 AND id LIKE 'b/%'"))
    rows, _ = load(datasets, dest)
    assert [(row["id"], row["strength"]) for row in rows] == [("b/a.jpeg", 2.0), ("b/c.png", 2.0)]
