"""The input's own columns in the output, on a real Ray."""

from __future__ import annotations

import datetime
import io
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.output.input_columns import InputColumns, output_fields
from dmt_ray.output.schema import RESULT_COLUMNS, ROW_SCHEMA, row_schema, rows_table
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.run import run_job
from dmt_ray.storage.inputs.registry import open_listing

UTC = datetime.UTC


def columns(photos) -> dict[str, pa.Array]:
    names = ["photo-0", "photo-1", "empty", "photo-2"]
    return {
        "image": pa.array([(photos / "inputs" / f"{name}.jpg").read_bytes() for name in names]),
        "ID": pa.array([7, 8, None, 7], pa.int16()),
        "caption": pa.array(["a", "ü", None, ""], pa.string()).dictionary_encode(),
        "score": pa.array([0.5, None, float("inf"), -1.0], pa.float32()),
        "tags": pa.array([["x", "y"], [], None, [None]], pa.list_(pa.string())),
        "taken": pa.array([1, 2, None, 1_700_000_000_123_456_789], pa.timestamp("ns", "UTC")),
        "where": pa.array([{"lat": 1.5, "lon": 2}, None, {"lat": None, "lon": 3}, {"lat": 0.0, "lon": 4}]),
        "nothing": pa.nulls(4),
        "status": pa.array(["draft", "final", "draft", "final"]),
        "input_status": pa.array([True, False, None, True]),
        "mask": pa.array([b"\0\1", b"", None, b"\xff"]),
    }


def read(out) -> pa.Table:
    return pa.dataset.dataset(out / "shards").to_table().sort_by("id")


@pytest.mark.usefixtures("local_ray")
def test_columns_of_every_type_come_through(configure, photos, tmp_path):
    given = columns(photos)
    pq.write_table(pa.table(given), tmp_path / "t.parquet", row_group_size=3)
    config = configure(input=str(tmp_path / "t.parquet"), max_error_rate=0.5, shard_size=1)
    assert run_job(config) == 0
    assert verify_output(str(tmp_path / "out")).complete
    rows = read(tmp_path / "out")
    assert rows["id"].to_pylist() == [f"t.parquet#{row}" for row in range(4)]
    assert rows["status"].to_pylist() == ["ok", "ok", "error", "ok"]
    expected = {
        "input_ID": given["ID"],
        "caption": given["caption"].dictionary_decode(),
        "score": given["score"],
        "tags": given["tags"],
        "taken": given["taken"],
        "where": given["where"],
        "nothing": given["nothing"],
        "input_status": given["status"],
        "input_input_status": given["input_status"],
        "mask": given["mask"],
    }
    assert rows.column_names == [*ROW_SCHEMA.names, *expected]
    for name, values in expected.items():
        assert rows[name].combine_chunks().equals(values), name
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out" / "shards").iterdir())]
    assert len(schemas) == 4
    frozen = row_schema(output_fields(open_listing(str(tmp_path / "t.parquet")).input_columns))
    assert all(schema.equals(frozen, check_metadata=True) for schema in schemas)
    # Resumed later, when the table is another one: its rows may be of other images.
    (tmp_path / "out" / "shards" / "shard-000001.parquet").unlink()
    changed = {name: values for name, values in given.items() if name != "tags"} | {"new": pa.array([1, 2, 3, 4])}
    pq.write_table(pa.table(changed | {"score": pa.array([1, 2, 3, 4])}), tmp_path / "t.parquet")
    with pytest.raises(SettingsError, match=r"t\.parquet has changed since"):
        run_job(config)
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3


@pytest.mark.usefixtures("local_ray")
def test_members_of_samples_come_through(configure, photos, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for number in range(2):
            picture = (photos / "inputs" / f"photo-{number}.jpg").read_bytes()
            members = [("jpg", picture), ("json", json.dumps({"n": number}).encode()), ("cls", b"3")]
            for ending, data in members[: 3 - number]:
                info = tarfile.TarInfo(f"../{number}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    assert run_job(configure(input=str(tmp_path / "t.tar"))) == 0
    rows = read(tmp_path / "out")
    assert rows["id"].to_pylist() == ["t.tar#../0", "t.tar#../1"]
    assert rows["json"].to_pylist() == ['{"n": 0}', '{"n": 1}']
    assert rows["cls"].to_pylist() == ["3", None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.tar"]


@pytest.mark.usefixtures("local_ray")
def test_a_caption_that_cannot_be_stored_costs_the_caption_alone(configure, photos, tmp_path):
    captions = ["fine", b"caf\xe9", "fine too"]
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for number, caption in enumerate(captions):
            picture = (photos / "inputs" / f"photo-{number}.jpg").read_bytes()
            data = caption if isinstance(caption, bytes) else caption.encode()
            for ending, content in (("jpg", picture), ("txt", data), ("json", b'"\xff"' if number == 1 else b"{}")):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert run_job(configure(input=str(tmp_path / "t.tar"))) == 0
    assert verify_output(str(tmp_path / "out"), deep=True).complete
    rows = read(tmp_path / "out")
    assert rows["status"].to_pylist() == ["ok"] * 3
    assert rows["image"].null_count == 0
    assert rows["txt"].to_pylist() == ["fine", None, "fine too"]
    assert rows["json"].to_pylist() == ["{}", None, "{}"]
    first, warning, last = rows["warning"].to_pylist()
    assert first is last is None
    assert re.fullmatch(
        r"Column json is null: it is not UTF-8 text \(.*\)\. Column txt is null: it is not UTF-8 text \(.*\)\.",
        warning,
    )


def test_values_that_do_not_fit_are_null_and_said_so(tmp_path, caplog):
    """In each step's row of the image; the rows of other images, and its other columns, are as they were."""
    text = pa.array([b"a", b"\xff"]).view(pa.string())
    pq.write_table(
        pa.table({"uri": ["a", "b"], "n": [1, 2], "m": [3.0, 4.5], "caption": text}), tmp_path / "t.parquet"
    )
    (tmp_path / "t.csv").write_bytes("uri,n,m,caption\na,1,3,a\nb,x,4,\u00e9\n".encode("latin-1"))
    schema = output_fields(pa.schema([("n", pa.int64()), ("m", pa.int64()), ("caption", pa.string())]))
    for name, faulty, kept in (("t.parquet", ["m", "caption"], {"n": 2}), ("t.csv", ["n", "caption"], {"m": 4})):
        caplog.clear()
        listing = open_listing(str(tmp_path / name))
        items = list(listing)
        rows = rows_table(
            {"id": item.id, "step": step, "status": "ok", "image": b"x"} for item in items for step in range(2)
        )
        added = InputColumns(schema, listing.containers).add(rows, items)
        assert added["status"].to_pylist() == ["ok"] * 4
        assert added["image"].null_count == 0
        assert added.select(["n", "m", "caption"]).slice(0, 1).to_pylist() == [{"n": 1, "m": 3, "caption": "a"}]
        for step in (2, 3):
            row = added.slice(step, 1).to_pylist()[0]
            assert {column: row[column] for column in kept} == kept
            assert [row[column] for column in faulty] == [None, None]
            assert re.findall(r"Column (\w+) is null: ", row["warning"]) == faulty
        assert added["warning"].to_pylist()[:2] == [None, None]
        assert caplog.messages == [f"{items[1].id}: {added['warning'][2].as_py()}"]


def test_each_step_of_an_image_gets_its_columns(tmp_path):
    pq.write_table(pa.table({"uri": ["a", "b"], "n": [1, 2]}), tmp_path / "t.parquet")
    listing = open_listing(str(tmp_path / "t.parquet"))
    carrier = InputColumns(output_fields(listing.input_columns))
    ids = [item.id for item in listing]
    rows = rows_table({"id": id_, "step": step} for id_ in reversed(ids) for step in range(3))
    assert carrier.add(rows, list(listing))["n"].to_pylist() == [2, 2, 2, 1, 1, 1]
    assert InputColumns(pa.schema([])).add(rows, list(listing)) is rows


def test_a_record_that_cannot_be_read_makes_error_rows(tmp_path):
    pq.write_table(pa.table({"uri": ["a", "b"], "n": [1, 2]}), tmp_path / "t.parquet")
    listing = open_listing(str(tmp_path / "t.parquet"))
    carrier = InputColumns(output_fields(listing.input_columns))
    items = list(listing)
    pq.write_table(pa.table({"uri": ["a"], "n": [1]}), tmp_path / "t.parquet")
    rows = rows_table({"id": item.id, "status": "ok", "image": b"x"} for item in items)
    added = carrier.add(rows, items)
    assert added["n"].to_pylist() == [1, None]
    assert added["status"].to_pylist() == ["ok", "error"]
    assert added["error_type"].to_pylist() == [None, "storage"]
    assert added["image"].to_pylist() == [b"x", None]
    assert "other columns cannot be read" in added["error"][1].as_py()


def test_an_image_that_failed_already_keeps_its_own_error(tmp_path):
    pq.write_table(pa.table({"uri": ["a", "b"], "n": [1, 2]}), tmp_path / "t.parquet")
    listing = open_listing(str(tmp_path / "t.parquet"))
    pq.write_table(pa.table({"uri": ["b", "a"], "n": [2, 1]}), tmp_path / "t.parquet")
    items = list(listing)
    results = {
        "image": b"x",
        "image_sha256": "0",
        "width": 1,
        "height": 1,
        "displacement_norm": 1.0,
        "animation": b"x",
    }
    rows = rows_table(
        {"id": item.id, "step": step, "status": status, "error_type": kind, **values}
        for item, status, kind, values in zip(items, ["ok", "error"], [None, "truncated"], [results, {}], strict=True)
        for step in range(2)
    )
    added = InputColumns(output_fields(listing.input_columns), listing.containers).add(rows, items)
    assert added["status"].to_pylist() == ["error"] * 4
    assert added["error_type"].to_pylist() == ["changed", "changed", "truncated", "truncated"]
    for name in ("n", *RESULT_COLUMNS):
        assert added[name].null_count == 4, name


def test_files_whose_columns_differ(tmp_path):
    folder = str(tmp_path)
    pq.write_table(pa.table({"uri": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"uri": ["b"], "n": pa.array([2**40]), "m": ["x"]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"uri": ["c"]}), tmp_path / "3.parquet")
    listing = open_listing(folder)
    assert listing.input_columns.equals(pa.schema([("n", pa.int64()), ("m", pa.string())]))
    items = list(listing)
    added = InputColumns(output_fields(listing.input_columns)).add(
        rows_table({"id": item.id} for item in items), items
    )
    assert added.select(["n", "m"]).to_pydict() == {"n": [1, 2**40, None], "m": [None, "x", None]}
    pq.write_table(pa.table({"uri": ["c"], "n": ["text"]}), tmp_path / "3.parquet")
    with pytest.raises(SettingsError, match=r"3\.parquet has a column of another type"):
        open_listing(folder)
    assert np.all([item.record is not None for item in items])
