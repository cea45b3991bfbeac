"""The card of an output: ``load_dataset`` and every other reader take the folder as it is."""

import datetime
import decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml
from older import make_older

from dmt_ray import cli
from dmt_ray.output.claim import find_run
from dmt_ray.output.compact import compact
from dmt_ray.output.dataset_card import CARD_FILE, write_card
from dmt_ray.output.dataset_features import features_of, features_yaml
from dmt_ray.storage import files

IDS = ["a.jpg", "bad.jpg", "b/c.png"]


def load(datasets, folder):
    return datasets.load_dataset(folder, split="train", cache_dir=str(Path(folder).parent / "cache"))


def columns():
    return pa.table(
        {
            "caption": ["x", None, "y"],
            "path": ["1", "2", "3"],
            "m": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        }
    )


def test_load_dataset_shows_pictures(make_output, datasets, tmp_path):
    made = make_output(IDS, strengths=(1.0, 2.0), errors=["bad.jpg"], columns=columns(), animated=True)
    compaction = str(tmp_path / "dest")
    assert compact(made.place, compaction, 10**6).complete
    for folder in (made.place, compaction):
        rows = load(datasets, folder)
        assert rows.features["image"] == rows.features["animation"] == datasets.Image()
        assert len(rows) == 6
        shown = [row["image"] and row["image"].size for row in rows]
        assert shown == [(8, 6), (8, 6), None, None, (8, 6), (8, 6)]
        assert rows[0]["animation"].n_frames == 2
        assert (rows[0]["caption"], rows[5]["path"]) == ("x", "3")
        assert "m" not in rows.features  # datasets has no maps; the card leaves the column out
        assert cli.main(["verify", folder, "--deep"]) == 0
    card = Path(made.place, CARD_FILE).read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["configs"][0]["data_files"] == "shards/*.parquet"


def test_an_older_output_shows_its_pictures_as_a_compaction(make_output, datasets, tmp_path):
    made = make_output(IDS, columns=pa.table({"animation_of": ["x", "y", "z"]}), animated=True)
    make_older(made.place, 4)
    dest = str(tmp_path / "dest")
    assert compact(made.place, dest, 10**6).complete
    rows = load(datasets, dest)
    assert rows.features["path"] == datasets.Image()
    assert rows[0]["path"].n_frames == 2


def test_every_reader_takes_the_shards(make_output):
    made = make_output(IDS, errors=["bad.jpg"], columns=columns())
    pattern = f"{made.place}/shards/*.parquet"
    want = [(id_, made.pictures.get((id_, 0))) for id_ in IDS]
    frame = pd.read_parquet(f"{made.place}/shards")
    assert [(id_, None if image is None else image) for id_, image in zip(frame.id, frame.image, strict=True)] == want
    table = ds.dataset(f"{made.place}/shards").to_table()
    assert list(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True)) == want
    assert duckdb.sql(f"SELECT id, image FROM '{pattern}' ORDER BY id").fetchall() == sorted(want)
    assert polars.read_parquet(pattern, columns=["id", "image"]).rows() == want


def test_somebodys_own_readme_is_left_alone(make_output, tmp_path):
    made = make_output(IDS)
    card = Path(made.place, CARD_FILE)
    text = card.read_bytes()
    write_card(made.place, b"other: " + text)
    assert card.read_bytes() == b"other: " + text  # its own is replaced
    card.write_text("mine")
    write_card(made.place, text)
    assert card.read_text() == "mine"
    Path(made.place, "run.json").unlink()
    Path(made.place, "plan.parquet").unlink()
    files.delete(f"{made.place}/shards/shard-000000.parquet")
    with pytest.raises(Exception, match=r"holds 'README\.md'"):
        find_run(made.place, "resume")
    card.write_bytes(text)
    assert not find_run(made.place, "resume").written


def test_features_are_those_of_the_library(datasets):
    when = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "image": pa.array([b"x"], pa.large_binary()),
            "text": ["x"],
            "large": pa.array(["x"], pa.large_string()),
            "yes": [True],
            **{str(kind): pa.array([1], kind) for kind in (pa.int8(), pa.uint16(), pa.int32(), pa.uint64())},
            "half": np.array([1], np.float16),
            "single": np.array([1], np.float32),
            "double": [1.0],
            "day": [when.date()],
            "ms day": pa.array([when.date()], pa.date64()),
            "time": pa.array([when.time()], pa.time64("us")),
            "short time": pa.array([when.time()], pa.time32("s")),
            "when": pa.array([when], pa.timestamp("us", "UTC")),
            "naive": pa.array([when.replace(tzinfo=None)], pa.timestamp("ns")),
            "for": pa.array([1], pa.duration("ms")),
            "price": [decimal.Decimal("1.50")],
            "bytes": [b"x"],
            "two": pa.array([b"xy"], pa.binary(2)),
            "nothing": pa.nulls(1),
            "on": [["x"]],  # a word that YAML takes for true
            "pair": pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
            "long": pa.array([[1]], pa.large_list(pa.int8())),
            "inner": [{"a": 1, "b": [{"c": "x"}]}],
            "lists": [[[1.5]]],
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    features = features_of(table.schema, ["image"])
    library = datasets.Features.from_arrow_schema(table.schema) | {"image": datasets.Image()}
    assert list(features) == table.column_names
    assert datasets.Features.from_dict(features) == library
    dumped = yaml.safe_load(yaml.safe_dump(features_yaml(features), sort_keys=False))
    assert datasets.Features._from_yaml_list(dumped) == library
    map_ = pa.map_(pa.string(), pa.int8())
    unknown = pa.schema([("m", map_), ("s", pa.struct([("m", map_)])), ("l", pa.list_(map_))])
    assert features_of(unknown, []) == {}
