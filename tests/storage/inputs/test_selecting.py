"""Inputs that a condition chooses or a draw; the same ones each time."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import join
from dmt_ray.storage.inputs import table_listing
from dmt_ray.storage.inputs.exemplar_tables import list_exemplars
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import open_listing


@pytest.fixture
def place(tmp_path, monkeypatch) -> str:
    """Two Parquet files of 40 rows together, listed in batches of seven."""
    monkeypatch.setattr(table_listing, "BATCH_ROWS", 7)
    for name, rows in (("1", range(25)), ("2", range(25, 40))):
        buffer = io.BytesIO()
        pq.write_table(pa.table({"image": [b"%d" % row for row in rows], "n": list(rows)}), buffer)
        files.write_atomic(join(str(tmp_path), f"{name}.parquet"), buffer.getvalue())
    return str(tmp_path)


def rows(place: str, **options) -> list[int]:
    with InputReader() as reader:
        return [int(reader.read_item(item)) for item in open_listing(place, **options)]


def test_a_condition_keeps_rows_in_their_order(place):
    assert rows(place, where="n % 10 = 3 OR n > 37") == [3, 13, 23, 33, 38, 39]
    assert rows(place, where="n >= 24", limit=2) == [24, 25]
    listing = open_listing(place, where="n = 30")
    assert listing.input_columns.names == ["n"]
    assert list(listing) == list(listing)
    assert [item.id for item in listing] == ["2.parquet#5"]
    assert list(listing.containers) == [f"{place}/1.parquet", f"{place}/2.parquet"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gone > 1", r"'gone > 1' cannot be used on .* Columns: n \(int64\)"),
        ("n > 1; DROP TABLE x", "cannot be used"),
        ("n > 99", "leaves none of the 40 rows"),
        ("n IN (SELECT 1 FROM read_csv('/etc/passwd'))", "cannot be used"),
    ],
)
def test_a_condition_that_cannot_be_used(place, where, message):
    with pytest.raises(SettingsError, match=message):
        open_listing(place, where=where)


def test_only_tables_have_columns_for_a_condition(tmp_path):
    files.write_atomic(str(tmp_path / "a.png"), b"")
    with pytest.raises(SettingsError, match="is no table"):
        open_listing(str(tmp_path), where="n > 1")


def test_names_that_differ_in_case_alone(tmp_path):
    files.write_atomic(str(tmp_path / "t.csv"), b"path,N,n\na.png,1,2\nb.png,3,4\n")
    with pytest.raises(SettingsError, match="columns 'N' and 'n', which SQL does not tell apart"):
        open_listing(str(tmp_path / "t.csv"), where="n = 2")


def test_a_sample_is_drawn_by_the_seed(place):
    drawn = rows(place, sample=6, seed=1)
    assert drawn == sorted(drawn) == rows(place, sample=6, seed=1)
    assert len(set(drawn)) == 6
    assert len({tuple(rows(place, sample=6, seed=seed)) for seed in range(5)}) == 5
    assert rows(place, sample=99) == list(range(40))
    among = rows(place, sample=5, where="n % 2 = 0", seed=3)
    assert len(among) == 5
    assert all(row % 2 == 0 for row in among)
    assert rows(place, sample=6, seed=1, limit=2) == drawn[:2]


def test_every_kind_of_place_can_be_sampled(tmp_path):
    for number in range(9):
        files.write_atomic(str(tmp_path / f"in/{number}.png"), b"%d" % number)
    files.write_atomic(str(tmp_path / "list.txt"), b"".join(b"in/%d.png\n" % number for number in range(9)))
    of_files = rows(str(tmp_path / "in"), sample=4, seed=2)
    assert len(of_files) == 4
    assert rows(str(tmp_path / "list.txt"), sample=4, seed=2) == of_files


def test_two_columns_of_one_name_are_refused_in_every_use(tmp_path):
    buffer = io.BytesIO()
    pq.write_table(pa.table([[b"x"], [b"y"]], names=["image", "image"]), buffer)
    files.write_atomic(str(tmp_path / "t.parquet"), buffer.getvalue())
    files.write_atomic(str(tmp_path / "t.csv"), b"path,n,n\na.png,1,2\n")
    for name in ("t.parquet", "t.csv"):
        table = str(tmp_path / name)
        for use in (
            lambda table=table: open_listing(table),
            lambda table=table: open_listing(table, where="1 = 1"),
            lambda table=table: list_exemplars(table, where="1 = 1"),
        ):
            with pytest.raises(SettingsError, match=rf"{name} has more than one column '(image|n)'"):
                use()
    files.write_atomic(str(tmp_path / "in/a.png"), b"")
    files.write_atomic(str(tmp_path / "in/metadata.jsonl"), b'{"file_name": "a.png", "n": 1, "n": 2}\n')
    with pytest.raises(SettingsError, match=r"metadata\.jsonl cannot be read"):
        open_listing(str(tmp_path / "in"))
