"""Folders, globs and Parquet of every shape become the same kind of list, and every item can be read."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, join
from dmt_ray.storage.images import decode_image, encode_image
from dmt_ray.storage.inputs import table_rows
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs


def picture(value: int) -> bytes:
    return encode_image(np.full((4, 4, 3), value, np.uint8), "png", 90)


def put(folder: str, name: str, data: bytes | pa.Table, **options) -> str:
    if isinstance(data, pa.Table):
        buffer = io.BytesIO()
        pq.write_table(data, buffer, **options)
        data = buffer.getvalue()
    files.write_atomic(join(folder, name), data)
    return join(folder, name)


def contents(items: list[InputItem]) -> list[int]:
    with InputReader() as reader:
        return [int(decode_image(reader.read_item(item), max_pixels=100)[0, 0, 0]) for item in items]


def ids(items: list[InputItem]) -> list[str]:
    return [item.id for item in items]


def table(count: int, first: int = 0, **columns) -> pa.Table:
    return pa.table({"image": pa.array([picture(first + index) for index in range(count)]), **columns})


def test_a_folder_of_images(folder):
    put(folder, "b/2.JPG", picture(2))
    put(folder, "a.png", picture(1))
    put(folder, "notes.txt", b"text")
    items = list_inputs(folder)
    assert ids(items) == ["a.png", "b/2.JPG"]
    assert contents(items) == [1, 2]
    assert items == list_inputs(folder + "/")
    assert list_inputs(folder, limit=1) == items[:1]
    assert ids(list_inputs(join(folder, "b/*"))) == ["2.JPG"]
    assert ids(list_inputs(join(folder, "**/*.JPG"))) == ["b/2.JPG"]


def test_one_file_whatever_its_suffix(folder):
    place = put(folder, "photo.dat", picture(7))
    items = list_inputs(place)
    assert ids(items) == ["photo.dat"]
    assert contents(items) == [7]


def test_parquet_with_bytes(folder):
    put(folder, "set/1.parquet", table(5), row_group_size=2)
    put(folder, "set/2.parquet", table(3, first=5))
    items = list_inputs(join(folder, "set"))
    assert ids(items)[4:6] == ["1.parquet#4", "2.parquet#0"]
    assert contents(items) == list(range(8))
    assert contents(items[::-1]) == list(range(8))[::-1]
    assert list_inputs(join(folder, "set"), limit=6) == items[:6]
    assert contents(list_inputs(join(folder, "set/2*.parquet"))) == [5, 6, 7]
    assert ids(list_inputs(join(folder, "set/2.parquet"))) == ["2.parquet#0", "2.parquet#1", "2.parquet#2"]


def test_images_win_over_parquet_with_as_many_unless_a_column_is_named(tmp_path):
    put(str(tmp_path), "a.png", picture(1))
    put(str(tmp_path), "c.png", picture(1))
    put(str(tmp_path), "b.parquet", table(2))
    assert ids(list_inputs(str(tmp_path))) == ["a.png", "c.png"]
    assert ids(list_inputs(str(tmp_path), image_column="image")) == ["b.parquet#0", "b.parquet#1"]


def test_parquet_with_uris(folder):
    put(folder, "photos/1.png", picture(1))
    absolute = put(folder, "elsewhere/2.png", picture(2))
    full = str(Path(absolute).absolute()) if files.is_local(absolute) else absolute
    uris = pa.table({"caption": ["x", "y", "z"], "url": ["photos/1.png", full, None]})
    put(folder, "list.parquet", uris)
    items = list_inputs(join(folder, "list.parquet"))
    assert ids(items) == ["list.parquet#0", "list.parquet#1", "list.parquet#2"]
    assert contents(items[:2]) == [1, 2]
    with pytest.raises(ImageError) as caught:
        InputReader().read_item(items[2])
    assert caught.value.kind == "empty"
    assert contents(list_inputs(join(folder, "list.parquet"), uri_column="url", limit=1)) == [1]


def test_hugging_face_structs_with_bytes_or_a_path(tmp_path):
    put(str(tmp_path), "data/9.png", picture(9))
    cells = [{"bytes": picture(3), "path": "3.png"}, {"bytes": None, "path": "9.png"}, None]
    put(str(tmp_path), "data/train.parquet", pa.table({"label": [0, 1, 2], "img": cells}))
    items = list_inputs(str(tmp_path / "data/train.parquet"))
    assert contents(items[:2]) == [3, 9]
    with pytest.raises(ImageError, match="null"):
        InputReader().read_item(items[2])


@pytest.mark.parametrize("name", ["image", "bytes", "image_bytes", "JPG", "only_binary", "odd.name", "a b#c"])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_columns_are_found_by_type_and_name(tmp_path, name, kind):
    cells = pa.array([picture(1), picture(2)]).cast(kind) if not pa.types.is_dictionary(kind) else None
    cells = pa.array([picture(1), picture(2)]).dictionary_encode() if cells is None else cells
    put(str(tmp_path), "t.parquet", pa.table({"text": ["a", "b"], name: cells, "n": [1, 2]}))
    assert contents(list_inputs(str(tmp_path))) == [1, 2]


def test_ids_come_from_a_unique_id_column(tmp_path):
    place = str(tmp_path)
    put(place, "1.parquet", table(2, id=pa.array([0, 1])))
    put(place, "2.parquet", table(2, first=2, id=pa.array(["x", "y"])))
    items = list_inputs(place)
    assert ids(items) == ["0", "1", "x", "y"]
    assert contents(items) == [0, 1, 2, 3]
    put(place, "2.parquet", table(2, first=2, id=pa.array([1, 2])))
    assert ids(list_inputs(place)) == ["1.parquet#0", "1.parquet#1", "2.parquet#0", "2.parquet#1"]
    put(place, "2.parquet", table(2, first=2, id=pa.array([None, 2])))
    assert ids(list_inputs(place))[2:] == ["2.parquet#0", "2.parquet#1"]
    put(place, "2.parquet", table(2, first=2))
    assert ids(list_inputs(place))[2:] == ["2.parquet#0", "2.parquet#1"]
    put(place, "2.parquet", table(0, id=pa.array([], pa.int64())))
    assert ids(list_inputs(place)) == ["0", "1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: None, "does not exist"),
        (lambda place: place.mkdir(), "the folder is empty"),
        (lambda place: put(str(place), "a.txt", b""), "suffix"),
        (lambda place: put(str(place), "a.parquet", table(0)), "no rows"),
        (lambda place: put(str(place), "a.parquet", b"PAR1 not really"), "cannot be read as Parquet"),
        (lambda place: put(str(place), "a.parquet", b""), "cannot be read as Parquet"),
        (
            lambda place: put(str(place), "a.parquet", pa.table({"n": [1], "t": ["x"]})),
            "--image-column.*--uri-column",
        ),
    ],
)
def test_nothing_to_work_on_is_said_in_one_sentence(tmp_path, make, message):
    place = tmp_path / "place"
    make(place)
    with pytest.raises(SettingsError, match=message) as caught:
        list_inputs(str(place))
    assert str(place) in str(caught.value)


def test_a_pattern_without_a_match_and_a_store_that_refuses(tmp_path, s3_server):
    with pytest.raises(SettingsError, match="the pattern matches no file"):
        list_inputs(str(tmp_path / "*.jpg"))
    with pytest.raises(SettingsError, match=r"No image found in|Cannot list"):
        list_inputs("s3://no-such-bucket-here/photos")


def test_wrong_columns_are_named(tmp_path):
    put(str(tmp_path), "1.parquet", table(1, n=pa.array([1])))
    place = str(tmp_path)
    with pytest.raises(SettingsError, match=r"no column 'gone' \(--image-column\)\. Columns: image \(binary\), n"):
        list_inputs(place, image_column="gone")
    with pytest.raises(SettingsError, match="holds int64; --image-column needs"):
        list_inputs(place, image_column="n")
    with pytest.raises(SettingsError, match="holds binary; --uri-column needs"):
        list_inputs(place, uri_column="image")
    put(place, "2.parquet", pa.table({"photo": [picture(1)]}))
    with pytest.raises(SettingsError, match=r"2\.parquet has no column 'image'"):
        list_inputs(place)
    (tmp_path / "only").mkdir()
    put(str(tmp_path / "only"), "a.png", picture(1))
    with pytest.raises(SettingsError, match="leave out"):
        list_inputs(str(tmp_path / "only"), image_column="image")


def test_unreadable_cells_say_why(tmp_path):
    place = put(str(tmp_path), "1.parquet", table(3))
    item = list_inputs(place)[2]
    reader = InputReader()
    for wrong, message in (
        (item.uri.replace("row=2", "row=3"), "has 3 rows"),
        (item.uri.replace("column=image", "column=gone"), "has no column gone"),
        (item.uri.replace("1.parquet", "2.parquet"), "does not exist"),
    ):
        with pytest.raises(StorageError, match=message):
            reader.read_item(replace(item, uri=wrong))
    assert contents([item]) == [2]
    data = bytearray((tmp_path / "1.parquet").read_bytes())
    data[4:-200] = bytes(len(data) - 204)
    (tmp_path / "1.parquet").write_bytes(bytes(data))
    with pytest.raises(StorageError, match="cannot be read"):
        InputReader().read_item(item)


def test_listing_reads_no_image_bytes(tmp_path, monkeypatch):
    noise = [np.random.default_rng(index).bytes(200_000) for index in range(20)]
    place = put(str(tmp_path), "big.parquet", pa.table({"image": noise, "id": [str(n) for n in range(20)]}))
    done = []
    original = files.open_file

    def counting(uri: str):
        class Counted(io.FileIO):
            def read(self, size: int = -1) -> bytes:
                data = super().read(size)
                done.append(len(data))
                return data

        assert original is not None
        return Counted(uri)

    monkeypatch.setattr(files, "open_file", counting)
    assert len(list_inputs(place)) == 20
    assert 0 < sum(done) < 300_000


def test_one_huge_row_group_is_read_in_windows(tmp_path, monkeypatch):
    noise = [np.random.default_rng(index).bytes(200_000) for index in range(60)]
    options = {"use_dictionary": False, "write_batch_size": 2}  # pages of two images, in one row group
    place = put(str(tmp_path), "big.parquet", pa.table({"image": noise}), **options)
    monkeypatch.setattr(table_rows, "_WINDOW_BYTES", 1_000_000)
    monkeypatch.setattr(table_rows, "_READ_BYTES", 100_000)
    items = list_inputs(place)
    before = pa.total_allocated_bytes()
    with InputReader() as reader:
        for index in (0, 1, 5, 30, 59, 58, 2):
            assert reader.read_item(items[index]) == noise[index]
            assert pa.total_allocated_bytes() - before < 4_000_000
    assert re.fullmatch(r".*big\.parquet#row=59&column=image", items[59].uri)


def test_too_many_bytes_are_refused_in_every_form(tmp_path, bucket, faulty_s3):
    place = str(tmp_path)
    big, fits = bytes(2000), bytes(1000)
    put(place, "images/big.jpg", big)
    put(place, "images/fits.jpg", fits)
    put(place, "bytes.parquet", pa.table({"image": [big, fits]}))
    put(place, "uris.parquet", pa.table({"uri": ["images/big.jpg", "images/fits.jpg"]}))
    structs = [{"bytes": None, "path": f"images/{name}.jpg"} for name in ("big", "fits")]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    put(place, "paths.parquet", pa.table({"img": pa.array(structs, kind)}))
    put(place, "list.txt", b"images/big.jpg\nimages/fits.jpg\n")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name in ("big", "fits"):
            archive.add(tmp_path / f"images/{name}.jpg", f"{name}.jpg")
    put(bucket, "big.jpg", big)
    put(bucket, "fits.jpg", fits)
    places = [join(place, name) for name in ("images", "bytes.parquet", "uris.parquet", "paths.parquet", "list.txt")]
    for uri in (*places, join(place, "t.tar"), bucket):
        reader = InputReader(max_bytes=1000)
        too_large, right = list_inputs(uri)
        faulty_s3.clear()
        with pytest.raises(
            ImageError, match=r"has 2000 bytes; the limit is 1000 \(raise it with --max-bytes\)"
        ) as caught:
            reader.read_item(too_large)
        assert caught.value.kind == "too-large"
        assert faulty_s3.requests("GET") == 0  # refused by its size, unread
        assert reader.read_item(right) == fits
