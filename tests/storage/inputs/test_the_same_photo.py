"""An id is the same photo, always: what has moved or changed since the plan is never read for something else."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import tarfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import DmtError, ImageError
from dmt_ray.storage import files
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import open_listing

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def picture(name: str) -> bytes:
    return f"picture {name}".encode()


def put_parquet(place, columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    files.write_atomic(place, buffer.getvalue())


def with_ids(place, names):
    put_parquet(place, {"id": names, "image": [picture(name) for name in names], "label": names})


def without_ids(place, names):
    put_parquet(place, {"image": [picture(name) for name in names], "label": names})


def of_uris(place, names):
    put_parquet(place, {"uri": [f"{name}.jpg" for name in names], "label": names})


def csv_of_uris(place, names):
    buffer = io.BytesIO()
    pa.csv.write_csv(pa.table({"uri": [f"{name}.jpg" for name in names], "label": names}), buffer)
    files.write_atomic(place, buffer.getvalue())


def tar(place, names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            for ending, data in (("jpg", picture(name)), ("txt", name.encode())):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    files.write_atomic(place, buffer.getvalue())


CASES = {
    "ids": ("t.parquet", with_ids, "label", True),
    "no ids": ("t.parquet", without_ids, "label", False),
    "uris": ("t.parquet", of_uris, "label", True),
    "csv": ("t.csv", csv_of_uris, "label", True),
    "tar": ("t.tar", tar, "txt", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_container_in_another_order(case, root):
    name, write, column, proves = CASES[case]
    place = files.join(root, name)
    for photo in NAMES:
        files.write_atomic(files.join(root, f"{photo}.jpg"), picture(photo))
    write(place, NAMES)
    listing = open_listing(place)
    items = dict(zip(NAMES, listing, strict=True))
    assert listing.proves_rows == proves
    assert list(listing.containers) == [place]
    schema = pa.schema([(column, pa.string())])

    def read(reader, photo):
        fields = reader.read_fields(items[photo], schema)
        return reader.read_item(items[photo]), fields.values[column][0].as_py()

    with InputReader(containers=listing.containers) as reader:
        assert [read(reader, photo) for photo in NAMES] == [(picture(photo), photo) for photo in NAMES]
    write(place, NAMES[::-1])
    with InputReader(containers=listing.containers) as reader:  # the container tells
        for photo in NAMES:
            with pytest.raises(ImageError, match=rf"{name} has changed since the plan") as caught:
                reader.read_record(items[photo], [column])
            assert caught.value.kind == "changed"
    if not proves:
        return
    with InputReader() as reader:  # each row tells
        for photo in NAMES:
            with pytest.raises(ImageError) as caught:
                read(reader, photo)
            assert caught.value.kind == "changed"
    write(place, [NAMES[0], *NAMES[:0:-1]])
    with InputReader() as reader:  # the first is where it was
        assert read(reader, NAMES[0]) == (picture(NAMES[0]), NAMES[0])
        with pytest.raises(DmtError):
            read(reader, NAMES[1])


def test_a_photo_that_was_replaced(root):
    place = files.join(root, "photos")
    for photo in NAMES:
        files.write_atomic(files.join(place, f"{photo}.jpg"), picture(photo))
    items = list(open_listing(place))
    assert all(item.identity for item in items)
    files.write_atomic(files.join(place, "b.jpg"), picture("z"))  # of the same size
    if files.is_local(root):
        os.utime(files.join(place, "b.jpg"), ns=(1, 1))
    with InputReader() as reader:
        assert reader.read_item(items[0]) == picture("a")
        with pytest.raises(ImageError, match=r"b\.jpg has changed since the plan.*--retry-failed") as caught:
            reader.read_item(items[1])
        assert caught.value.kind == "changed"
        assert reader.read_item(items[1], accept_changed=True) == picture("z")


def test_photos_that_a_list_or_a_table_names_are_known_where_that_is_cheap(tmp_path, bucket):
    (tmp_path / "a.jpg").write_bytes(picture("a"))
    files.write_atomic(f"{bucket}/b.jpg", picture("b"))
    entries = ["a.jpg", f"{bucket}/b.jpg", "gone.jpg"]
    (tmp_path / "names.txt").write_text("\n".join(entries))
    pq.write_table(pa.table({"uri": entries}), tmp_path / "names.parquet")
    for name in ("names.txt", "names.parquet"):
        known = [item.identity is not None for item in open_listing(str(tmp_path / name))]
        assert known == [True, False, False]


def test_a_container_that_changes_while_it_is_read(root, monkeypatch):
    monkeypatch.setattr("dmt_ray.storage.inputs.reader._TRUSTED_SECONDS", 0.0)
    places = [files.join(root, name) for name in ("1.parquet", "2.parquet")]
    for place in places:
        without_ids(place, NAMES)
    listing = open_listing(files.join(root, "*.parquet"))
    items = list(listing)
    with InputReader(containers=listing.containers) as reader:
        assert reader.read_item(items[0]) == picture("a")
        assert reader.read_item(items[4]) == picture("a")  # of the second file, so that the first is opened again
        without_ids(places[0], NAMES[::-1])
        with pytest.raises(ImageError, match=r"1\.parquet has changed since the plan") as caught:
            reader.read_item(items[0])
        assert caught.value.kind == "changed"
        assert reader.read_item(items[5]) == picture("b")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_row_without_a_photo_does_not_get_that_of_another_row(form, tmp_path):
    place = tmp_path / f"t.{form}"

    def write(uris):
        columns = pa.table({"uri": pa.array(uris, pa.string()), "label": ["x" for _ in uris]})
        pq.write_table(columns, place) if form == "parquet" else pa.csv.write_csv(columns, place)

    (tmp_path / "a.jpg").write_bytes(picture("a"))
    write(["a.jpg", None])
    _, without = open_listing(str(place))
    with InputReader() as reader:
        with pytest.raises(ImageError, match="null or empty") as caught:
            reader.read_item(without)
        assert caught.value.kind == "empty"
        assert reader.read_record(without, ["label"]) == {"label": "x"}
    write([None, "a.jpg"])
    with InputReader() as reader:
        for read in (reader.read_item, lambda item: reader.read_record(item, ["label"])):
            with pytest.raises(ImageError, match=rf"Row 1 of .*t\.{form} is not 't\.{form}#1' any more") as caught:
                read(without)
            assert caught.value.kind == "changed"


def test_members_of_a_sample_that_changed_places(tmp_path):
    def write(members):
        with tarfile.open(tmp_path / "t.tar", "w") as archive:
            for name in members:
                info = tarfile.TarInfo(name)
                info.size = len(name)
                archive.addfile(info, io.BytesIO(name.encode()))

    members = ["a.one.jpg", "a.two.jpg"]
    write(members)
    (item,) = open_listing(str(tmp_path / "t.tar"), image_column="one.jpg")
    with InputReader() as reader:
        assert reader.read_item(item) == b"a.one.jpg"
        write(members[::-1])  # both as large as the other
        with pytest.raises(ImageError, match=r"t\.tar does not hold 't\.tar#a' where it did") as caught:
            reader.read_item(item)
        assert caught.value.kind == "changed"
        # A plan of an earlier version does not name the member; its items are still read.
        write(members)
        earlier = dataclasses.replace(item, uri=item.uri.partition("&member=")[0])
        assert reader.read_item(earlier) == b"a.one.jpg"


def test_an_id_that_is_no_text_any_more(tmp_path):
    with_ids(str(tmp_path / "t.parquet"), NAMES)
    listing = open_listing(str(tmp_path / "t.parquet"))
    damaged = pa.array([b"\xff", b"b", b"c", b"d"]).view(pa.string())
    put_parquet(str(tmp_path / "t.parquet"), {"id": damaged, "image": [b""] * 4, "label": NAMES})
    with InputReader() as reader, pytest.raises(ImageError, match=r"Row 0 of .* is not 'a' any more") as caught:
        reader.read_fields(next(iter(listing)), listing.input_columns)
    assert caught.value.kind == "changed"


def test_a_photo_whose_name_looks_like_a_row_of_a_table(root):
    files.write_atomic(files.join(root, "a.parquet#row=3.jpg"), picture("a"))
    (item,) = open_listing(root)
    with InputReader() as reader:
        assert reader.read_item(item) == picture("a")


def test_any_damage_to_an_archive_is_an_error_of_the_row(tmp_path):
    tar(str(tmp_path / "t.tar"), ["a", "ü" * 90])
    listing = open_listing(str(tmp_path / "t.tar"))
    sound = (tmp_path / "t.tar").read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(sound)
        for place in draw.sample(range(len(sound)), 20):
            damaged[place] = draw.randrange(256)
        for start in range(0, len(damaged) - 512, 512):  # headers with a sound checksum are taken at their word
            header = damaged[start : start + 512]
            if header[257:262] == b"ustar":
                damaged[start + 148 : start + 156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
        (tmp_path / "t.tar").write_bytes(damaged)
        with InputReader() as reader:
            for item in listing:
                try:
                    reader.read_item(item)
                    reader.read_fields(item, listing.input_columns)
                except DmtError:
                    refused += 1
    assert refused > 100
