"""Ids and members' names that try to be paths: they are rows of the output, and never names in it."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.run import run_job

IDS = [
    "../../escaped",
    "/tmp/escaped",
    "a\0b",
    "line\nbreak",
    "x" * 10_000,
    "shard-000001.parquet",
    "C:\\escaped",
    "file:///escaped",
    "s3://bucket/escaped",
    "~/escaped",
    "<script>'\";--",
    "\u202e\U0001f4a5",
]


def tree(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("form", ["parquet", pytest.param("tar", marks=pytest.mark.slow)])
def test_hostile_ids_reach_no_file_name(form, configure, photos, tmp_path):
    picture = (photos / "inputs" / "photo-0.jpg").read_bytes()
    if form == "parquet":
        place, expected = tmp_path / "in.parquet", list(IDS)
        pq.write_table(pa.table({"id": IDS, "image": [picture] * len(IDS)}), place)
    else:
        names = [name for name in IDS if "\0" not in name and "." not in name.rpartition("/")[2]]
        place, expected = tmp_path / "in.tar", [f"in.tar#{name}" for name in names]
        with tarfile.open(place, "w") as archive:
            for name in names:
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(picture)
                archive.addfile(info, io.BytesIO(picture))
    options = {"max_error_rate": 1.0, "shard_size": 4, "batch_size": 4, "iterations": 1, "size": 32}
    assert run_job(configure(input=str(place), **options)) == 0
    assert verify_output(str(tmp_path / "out")).complete
    shards = (len(expected) + 3) // 4
    names = [f"out/shards/shard-{number:06d}.parquet" for number in range(shards)]
    assert tree(tmp_path) == sorted(
        [place.name, "out", *(f"out/{name}" for name in ("README.md", "plan.parquet", "run.json", "shards")), *names]
    )
    rows = pa.dataset.dataset(tmp_path / "out" / "shards").to_table(columns=["id", "status"])
    assert sorted(rows["id"].to_pylist()) == sorted(expected)
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert not list(tmp_path.parent.glob("escaped*"))
