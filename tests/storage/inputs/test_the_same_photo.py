"""An id is the same photo, always: what has moved or changed since the plan is never read for something else."""

from __future__ import annotations

import io
import os
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
