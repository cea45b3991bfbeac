"""The values beside an image in a Parquet table: each keeps its type."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.storage.files import StorageError
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs

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
