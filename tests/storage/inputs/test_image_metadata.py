"""The columns of ``metadata.jsonl``, ``.csv`` and ``.parquet`` beside images, as Hugging Face's ImageFolder has."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.output.input_columns import InputColumns, output_fields
from dmt_ray.output.schema import rows_table
from dmt_ray.storage import files
from dmt_ray.storage.files import join
from dmt_ray.storage.inputs import json_lines
from dmt_ray.storage.inputs.exemplar_tables import list_exemplars
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import open_listing


def put(folder: str, name: str, data: bytes | str) -> None:
    files.write_atomic(join(folder, name), data.encode() if isinstance(data, str) else data)


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def carried(place: str, **options) -> pa.Table:
    listing = open_listing(place, **options)
    items = list(listing)
    columns = InputColumns(output_fields(listing.input_columns), listing.containers)
    return columns.add(rows_table({"id": item.id, "status": "ok"} for item in items), items)


def test_columns_are_carried_with_their_types(folder):
    for name in ("a.jpg", "b/c.jpg", "d.jpg"):
        put(folder, name, name)
    rows = [
        {"file_name": "d.jpg", "caption": "ü", "n": 1, "boxes": {"bbox": [[1, 2.5]], "id": ["x"]}},
        {"file_name": "./b/c.jpg", "caption": None, "n": 2.5, "taken": "2020-01-01T10:00:00"},
        {"file_name": "gone.jpg", "caption": "lost"},
    ]
    put(folder, "metadata.jsonl", "\ufeff" + lines(*rows[:2]) + "\n" + lines(rows[2]))
    table = carried(folder)
    assert table["id"].to_pylist() == ["a.jpg", "b/c.jpg", "d.jpg"]
    assert table["status"].to_pylist() == ["ok"] * 3
    assert table.select(["caption", "n", "boxes", "taken"]).to_pylist() == [
        {"caption": None, "n": None, "boxes": None, "taken": None},
        {"caption": None, "n": 2.5, "boxes": None, "taken": "2020-01-01T10:00:00"},
        {"caption": "ü", "n": 1.0, "boxes": {"bbox": [[1.0, 2.5]], "id": ["x"]}, "taken": None},
    ]
    place = f"{files.absolute(folder)}/metadata.jsonl"
    assert open_listing(folder).passed_over.remarks == (
        f"Images without a row in {place}: 1; its columns are null for them.",
        f"Rows of {place} that name no listed image, or one that has a row already: 1.",
    )
    assert open_listing(folder).passed_over.sidecars == {}
    items = list(open_listing(folder))
    with InputReader() as reader:
        assert [reader.read_item(item) for item in items] == [b"a.jpg", b"b/c.jpg", b"d.jpg"]
        assert reader.read_record(items[2], ["caption"]) == {"caption": "ü"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_same_from_other_tables_in_any_order(tmp_path, kind):
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        put(str(tmp_path), name, name)
    table = pa.table({"file_name": names[::-1], "label": [name[0] for name in names[::-1]]})
    if kind == "csv":
        text = "file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in table.to_pylist())
        put(str(tmp_path), "metadata.csv", text)
    else:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=2)
        put(str(tmp_path), "metadata.parquet", buffer.getvalue())
    assert carried(str(tmp_path))["label"].to_pylist() == list("01234")
    assert carried(str(tmp_path), limit=2)["label"].to_pylist() == list("01")
    assert open_listing(str(tmp_path)).passed_over.sentences() == []


def test_the_nearest_table_counts_and_a_table_of_something_else_does_not(tmp_path):
    for name in ("x/a.png", "y/a.png"):
        put(str(tmp_path), name, "")
    put(str(tmp_path), "metadata.csv", "file_name,split\nx/a.png,far\ny/a.png,far\n")
    put(str(tmp_path), "x/metadata.jsonl", lines({"file_name": "a.png", "split": "near"}))
    put(str(tmp_path), "y/metadata.jsonl", lines({"name": "a.png", "split": "unmeant"}))
    assert carried(str(tmp_path))["split"].to_pylist() == ["near", "far"]
    assert open_listing(str(tmp_path)).passed_over.sidecars == {".jsonl": 1}


def test_a_table_that_changes_or_cannot_be_read(tmp_path):
    put(str(tmp_path), "a.png", "")
    put(str(tmp_path), "metadata.jsonl", lines({"file_name": "a.png", "n": 1}))
    listing = open_listing(str(tmp_path))
    put(str(tmp_path), "metadata.jsonl", lines({"file_name": "b.png", "n": 1}))
    with pytest.raises(ImageError, match="has changed since the plan"):
        InputReader(containers=listing.containers).read_fields(next(iter(listing)), listing.input_columns)
    with pytest.raises(ImageError, match=r"Row 0 of .* is not 'a\.png' any more"):
        InputReader().read_fields(next(iter(listing)), listing.input_columns)
    for text in ('{"file_name": "a.png"', "[1]\n", lines({"file_name": "a"}, {"file_name": 1})):
        put(str(tmp_path), "metadata.jsonl", text)
        with pytest.raises(
            SettingsError, match=r"metadata\.jsonl cannot be read as JSON Lines.*give it another name"
        ):
            open_listing(str(tmp_path))


def test_long_files_are_read_in_blocks(monkeypatch):
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 100)
    rows = [{"n": number, "text": "x" * (number % 50)} for number in range(200)]
    rows[150]["late"] = True
    data = lines(*rows).rstrip("\n").encode()
    schema = json_lines.read_schema(io.BytesIO(data))
    assert schema.names == ["n", "text", "late"]
    batches = list(json_lines.read_batches(io.BytesIO(data), schema, ["late", "n"]))
    assert len(batches) > 20
    table = pa.Table.from_batches(batches)
    assert table["n"].to_pylist() == list(range(200))
    assert table["late"].to_pylist() == [True if number == 150 else None for number in range(200)]


def test_what_no_table_can_hold_is_left_out():
    data = lines({"a": {}, "b": [{}], "c": {"d": "2020-01-01"}}).encode()
    assert json_lines.read_schema(io.BytesIO(data)) == pa.schema([("c", pa.struct([("d", pa.string())]))])


def test_conditions_choose_images_by_their_rows(folder):
    for name in ("a.jpg", "b/c.jpg", "d.jpg", "e.jpg", "x/f.jpg"):
        put(folder, name, name)
    rows = [
        {"file_name": "d.jpg", "n": 1, "t": "y"},
        {"file_name": "gone.jpg", "n": 9},
        {"file_name": "a.jpg", "n": 3},
    ]
    put(folder, "metadata.jsonl", lines(*rows, {"file_name": "b/c.jpg", "n": 4}))
    put(folder, "x/metadata.jsonl", lines({"file_name": "f.jpg", "n": 7, "extra": "z"}))

    def ids(**options) -> list[str]:
        return [item.id for item in open_listing(folder, **options)]

    assert ids(where="n >= 3") == ["a.jpg", "b/c.jpg", "x/f.jpg"]
    assert ids(where="n IS NULL") == ["e.jpg"]
    assert ids(where="t = 'y' OR extra = 'z' OR file_name = 'a.jpg'", limit=2) == ["a.jpg", "d.jpg"]
    assert ids(where="n > 0", sample=2, seed=1) == ids(where="n > 0", sample=2, seed=1)
    assert carried(folder, where="n = 4")["n"].to_pylist() == [4]
    found = list_exemplars(folder, where="n < 5", attribute_columns=["n"])
    assert [item.id for item in found.items] == ["a.jpg", "b/c.jpg", "d.jpg"]
    assert found.attributes.tolist() == [[3.0], [4.0], [1.0]]
    put(folder, "y/g.jpg", "g")
    put(folder, "y/metadata.csv", "file_name,n\ng.jpg,12\n")
    assert [item.id for item in open_listing(join(folder, "y"), where="n + 1 = 13")] == ["g.jpg"]  # no text
    files.delete(join(folder, "y/metadata.csv"))
    files.delete(join(folder, "y/g.jpg"))
    with pytest.raises(SettingsError, match="leaves none of the 5 rows"):
        ids(where="n = 9")  # of no listed image
    with pytest.raises(SettingsError, match="nothing"):
        ids(where="nothing = 1")
