"""Images whose URIs stand in CSV files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, join
from dmt_ray.storage.inputs import tables
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs, open_listing


def put(folder: str, name: str, data: bytes | str) -> str:
    files.write_atomic(join(folder, name), data.encode() if isinstance(data, str) else data)
    return join(folder, name)


def test_rows_with_uris_and_other_columns(folder):
    for name in ("1", "2", "3"):
        put(folder, f"sets/photos/{name}.jpg", name.encode())
    full = files.absolute(join(folder, "sets/photos/3.jpg"))
    text = f'\ufefflabel,path,n\n"a, ""b""\nc",photos/1.jpg,007\nü,photos/2.jpg,\nx,{full},1.5\ny,,\n'
    place = put(folder, "sets/t.csv", text)
    listing = open_listing(place)
    items = list(listing)
    assert [item.id for item in items] == ["t.csv#0", "t.csv#1", "t.csv#2", "t.csv#3"]
    assert listing.input_columns.names == ["label", "n"]
    with InputReader() as reader, InputReader() as records:
        assert [reader.read_item(item) for item in items[:3]] == [b"1", b"2", b"3"]
        with pytest.raises(ImageError, match="null or empty"):
            reader.read_item(items[3])
        rows = [records.read_record(item, ["n", "label"]) for item in items]
        assert rows == [
            {"n": "007", "label": 'a, "b"\nc'}, {"n": "", "label": "ü"}, {"n": "1.5", "label": "x"},
            {"n": "", "label": "y"},
        ]  # fmt: skip
        assert records.read_record(items[0], ["n"]) == {"n": "007"}  # backwards
        with pytest.raises(StorageError, match="no column gone"):
            records.read_record(items[0], ["gone"])
        with pytest.raises(StorageError, match="has 4 rows, so no row 9"):
            records.read_record(replace(items[3], record=items[3].record.replace("row=3", "row=9")), ["n"])
    assert [item.id for item in list_inputs(place, limit=3)] == ["t.csv#0", "t.csv#1", "t.csv#2"]


def test_tsv_a_named_column_and_own_ids(tmp_path):
    place = str(tmp_path)
    put(place, "1.tsv", "id\twhere\tpath\nx\ta.jpg\tno\ny\tb.jpg\tno\n")
    put(place, "2.tsv", "path\tid\twhere\nno\tz\tc.jpg\n")
    listing = open_listing(place, uri_column="where")
    assert [(item.id, item.uri) for item in listing] == [
        ("x", f"{place}/a.jpg"), ("y", f"{place}/b.jpg"), ("z", f"{place}/c.jpg"),
    ]  # fmt: skip
    assert listing.input_columns.names == ["path"]
    put(place, "2.tsv", "path\tid\twhere\nno\tx\tc.jpg\n")
    listing = open_listing(place, uri_column="where")
    assert [item.id for item in listing] == ["1.tsv#0", "1.tsv#1", "2.tsv#0"]
    assert set(listing.input_columns.names) == {"path", "id"}
    put(place, "2.tsv", "path\tid\twhere\nno\t\tc.jpg\n")
    assert list_inputs(place, uri_column="where")[0].id == "1.tsv#0"


def test_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 1000)
    # What looks like a number in the first block is text in the last.
    rows = [(f"photos/{index}.jpg", str(index) if index < 400 else "many") for index in range(500)]
    place = put(str(tmp_path), "t.csv", "\n".join(["uri,count", *(",".join(row) for row in rows)]))
    items = list_inputs(place)
    assert [item.uri for item in items] == [f"{tmp_path}/{uri}" for uri, _ in rows]
    with InputReader() as records:
        for index in (0, 1, 77, 300, 499, 3, 498):
            assert records.read_record(items[index], ["count"]) == {"count": rows[index][1]}


def test_other_kinds_win_unless_a_column_is_named(tmp_path):
    put(str(tmp_path), "a.png", b"x")
    put(str(tmp_path), "labels.csv", "path\nb.png\n")
    assert [item.id for item in list_inputs(str(tmp_path))] == ["a.png"]
    assert [item.uri for item in list_inputs(str(tmp_path), uri_column="path")] == [f"{tmp_path}/b.png"]
    with pytest.raises(SettingsError, match="leave out"):
        list_inputs(str(tmp_path), image_column="path")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as CSV"),
        ("uri,n\n", "its 1 table file has no rows"),
        ("a;b\nx.jpg;1\n", r"--uri-column \(URIs\)\. Columns: a;b"),
        ("uri,n\nx.jpg,1,2\n", "cannot be read as CSV: .*Expected 2 columns, got 3"),
        ("uri,n,n\nx.jpg,1,2\n", "more than one column 'n'"),
        (b"uri\n\xff\xfe.jpg\n", "cannot be read as CSV: .*UTF8"),
    ],
)
def test_files_that_are_no_table_of_uris(tmp_path, text, message):
    place = put(str(tmp_path), "t.csv", text)
    with pytest.raises(SettingsError, match=message) as caught:
        list_inputs(place)
    assert "t.csv" in str(caught.value)
