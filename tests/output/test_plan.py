"""The plan in its file: every image in one shard, read in parts, whatever the number of either."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.output import plan as plan_module
from dmt_ray.output.plan import load_plan, make_plan, plan_bytes
from dmt_ray.output.plan_file import PLAN_FILE, Shard
from dmt_ray.storage import files, scratch
from dmt_ray.storage.files import StorageError, join
from dmt_ray.storage.inputs.listing import FOUND, INSIDE, Listing, listing_batch
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import InputItem


def listing(count: int, batch: int = 7) -> Listing:
    def batches():
        for start in range(0, count, batch):
            numbers = range(start, min(start + batch, count))
            yield listing_batch([f"{n}.jpg" for n in numbers], [f"/in/{n}.jpg" for n in numbers])

    return Listing(batches, pa.schema([]))


@pytest.mark.parametrize(("count", "size"), itertools.product((1, 6, 31, 32, 100), (1, 3, 32, 1000)))
def test_every_image_is_in_one_shard_in_order(count, size, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_module, "GROUP_ROWS", 10)
    plan = make_plan(listing(count), size, pa.schema([]))
    items = [InputItem(f"{n}.jpg", f"/in/{n}.jpg", origin=FOUND) for n in range(count)]
    expected = [Shard(n // size, tuple(items[n : n + size])) for n in range(0, count, size)]
    assert list(plan) == expected
    assert (len(plan), plan.images, plan.numbers) == (len(expected), count, list(range(len(expected))))
    assert [id_ for ids in plan.file.ids() for id_ in ids.to_pylist()] == [item.id for item in items]
    for number in np.random.default_rng(0).permutation(len(expected)):
        assert plan[int(number)] == expected[number]
    groups = pq.ParquetFile(pa.BufferReader(plan_bytes(plan))).metadata
    for group in range(groups.num_row_groups - 1):
        assert groups.row_group(group).num_rows % size == 0


def test_some_of_the_shards():
    plan = make_plan(listing(10), 3, pa.schema([]))
    some = plan.without({0, 2, 77})
    assert (some.numbers, some.images, len(some)) == ([1, 3], 4, 2)
    assert [shard.number for shard in some] == [1, 3]
    assert some[0].items[0].id == "3.jpg"
    assert plan.only([3, 0]).numbers == [0, 3]
    assert plan[1:3].numbers == [1, 2]
    assert not plan.without(plan.numbers)
    with pytest.raises(KeyError):
        plan.file.shard(4)


def test_a_plan_of_an_earlier_version_says_nothing_of_origins(tmp_path):
    (tmp_path / "t.csv").write_text("uri,password\n,hunter2\n")
    (tmp_path / "u.csv").write_text('uri\n""\n')

    def batches():
        cell = f"{tmp_path}/u.csv#row=0&by=uri&column=uri"
        named = f"{tmp_path}/t.csv#row=0&column=password"
        yield listing_batch(
            ["a", "b"], [cell, named], [f"{tmp_path}/u.csv#row=0&by=uri&column=uri", None], None, INSIDE
        )

    plan = make_plan(Listing(batches, pa.schema([])), 2, pa.schema([]))
    rows = pq.read_table(plan.file.uri)
    pq.write_table(rows.drop_columns(["origin"]), tmp_path / PLAN_FILE)
    own, named = load_plan(str(tmp_path))[0].items
    assert (own.origin, named.origin) == (None, None)
    with InputReader() as reader:
        with pytest.raises(ImageError, match="is null or empty"):
            reader.read_item(own)
        with pytest.raises(StorageError, match="does not exist"):  # it is no cell of the image's own table
            reader.read_item(named)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_written_plan_is_the_same_plan(place, tmp_path, request):
    output = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    input_columns = pa.schema(
        [pa.field("input_id", pa.int64(), metadata={"column": "id"}), ("t", pa.timestamp("ns", "UTC"))]
    )
    plan = make_plan(listing(10), 3, input_columns)
    files.write_atomic(join(output, PLAN_FILE), plan_bytes(plan))
    again = load_plan(output)
    assert list(again) == list(plan)
    assert again.input_columns.equals(input_columns, check_metadata=True)
    assert make_plan(listing(1), 3, pa.schema([])).input_columns.names == []


def test_the_temporary_file_goes_with_the_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    plan = make_plan(listing(10), 3, pa.schema([]))
    part = plan.only([1])
    assert list(tmp_path.iterdir())
    del plan
    assert part[0].items[0].id == "3.jpg"
    del part
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(SettingsError, match=r"has no plan\.parquet"):
        load_plan(str(tmp_path))
    (tmp_path / PLAN_FILE).write_bytes(b"PAR1 no")
    with pytest.raises(SettingsError, match="not a plan of this program"):
        load_plan(str(tmp_path))
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / PLAN_FILE)
    with pytest.raises(SettingsError, match="its columns are id"):
        load_plan(str(tmp_path))


def test_no_more_than_a_row_group_is_held(monkeypatch):
    """Listing a hundred times as many images takes no more Arrow memory at once."""
    peaks = []
    for count in (20_000, 400_000):
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        most = 0

        def kill_after(count=count, before=before, pool=pool):
            nonlocal most
            for batch in listing(count, 4096).batches():
                yield batch
                most = max(most, pool.bytes_allocated() - before)

        plan = make_plan(Listing(kill_after, pa.schema([])), 32, pa.schema([]))
        for shard in itertools.islice(plan, 0, None, 500):
            assert shard.items
            most = max(most, pool.bytes_allocated() - before)
        peaks.append(most)
    assert peaks[1] < 2 * peaks[0] + 2**20
