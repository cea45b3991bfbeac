"""The values beside an image in a Parquet table: each keeps its type."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs, open_listing

MASK = b"\x89PNG\r\n\x1a\n\xff"


def test_a_record_of_every_kind(tmp_path):
    values = {
        "image": pa.array([b"jpeg"]),
        "mask": pa.array([MASK]),
        "large": pa.array([MASK], pa.large_binary()),
        "person": pa.array(["Zoë"]),
        "code": pa.array(["a"]).dictionary_encode(),
        "age": pa.array([30], pa.int8()),
        "boxes": pa.array([[1.5, 2.0]]),
        "broken": pa.array([b"\xff"]).view(pa.string()),
    }
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    (item,) = list_inputs(str(tmp_path / "t.parquet"), image_column="image")
    with InputReader() as reader:
        assert reader.read_record(item, ["mask", "large", "person", "code", "age", "boxes"]) == {
            "mask": MASK,
            "large": MASK,
            "person": "Zoë",
            "code": "a",
            "age": 30,
            "boxes": [1.5, 2.0],
        }
        with pytest.raises(StorageError, match="a value is not UTF-8 text"):
            reader.read_record(item, ["broken"])


@pytest.mark.parametrize(("column", "values"), [("uri", [b"\xff.jpg", b"b.jpg"]), ("id", [b"/\xff", b"/b"])])
def test_ids_and_uris_that_are_no_text_are_refused(column, values, tmp_path):
    table = {"uri": pa.array(["a.jpg", "b.jpg"])} | {column: pa.array(values).view(pa.string())}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(
        SettingsError, match=rf"Column '{column}' of .*t\.parquet holds a value that is not UTF-8 text"
    ):
        list_inputs(str(tmp_path / "t.parquet"))


def test_a_table_whose_first_column_is_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_bytes("caption,uri\nété,a.jpg\nb,a.jpg\n".encode("latin-1"))
    (tmp_path / "a.jpg").write_bytes(b"picture")
    listing = open_listing(str(tmp_path / "t.csv"))
    with InputReader(containers=listing.containers) as reader:
        assert [reader.read_item(item) for item in listing] == [b"picture"] * 2
        fields = [reader.read_fields(item, listing.input_columns) for item in listing]
    assert [each.values["caption"].to_pylist() for each in fields] == [[None], ["b"]]
    assert [list(each.faults) for each in fields] == [["caption"], []]
