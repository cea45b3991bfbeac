"""WebDataset tar archives: samples by name, read as ranges of bytes, and nothing of them ever used as a path."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, join
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs, open_listing


def tar(members: list[tuple[str | tarfile.TarInfo, bytes]], **options) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def put(folder: str, name: str, data: bytes) -> str:
    files.write_atomic(join(folder, name), data)
    return join(folder, name)


def sample(name: str, picture: bytes, **members: bytes) -> list[tuple[str, bytes]]:
    return [(f"{name}.jpg", picture), *((f"{name}.{ending}", data) for ending, data in members.items())]


def test_samples_of_a_folder_of_archives(folder):
    one = sample("0001", b"one" * 9000, json=b'{"n": 1}', txt="größe".encode()) + sample("0002", b"two", cls=b"7")
    put(folder, "set/a.tar", tar(one))
    put(folder, "set/b.tar", tar(sample("0001", b"three")))
    listing = open_listing(join(folder, "set"))
    items = list(listing)
    assert [item.id for item in items] == ["a.tar#0001", "a.tar#0002", "b.tar#0001"]
    assert listing.input_columns.names == ["json", "txt", "cls"]
    with InputReader() as reader, InputReader() as records:
        assert [reader.read_item(item) for item in items[::-1]] == [b"three", b"two", b"one" * 9000]
        read = [records.read_record(item, ["json", "txt", "cls"]) for item in items]
    assert [json.loads(read[0]["json"]), read[0]["txt"], read[0]["cls"]] == [{"n": 1}, "größe", None]
    assert read[1:] == [{"json": None, "txt": None, "cls": "7"}, {"json": None, "txt": None, "cls": None}]
    assert list_inputs(join(folder, "set"), limit=1) == items[:1]
    assert [item.id for item in list_inputs(join(folder, "set/b.tar"))] == ["b.tar#0001"]
    assert [item.id for item in list_inputs(join(folder, "set/*.tar"), limit=3)] == [item.id for item in items]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_apart_long_names_and_several_dots(tmp_path, kind):
    long = "d" * 90 + "/" + ("x" * 60 if kind == tarfile.USTAR_FORMAT else "ü" * 120)
    members = [
        ("./a.jpg", b"A"),
        (f"{long}.seg.png", b"mask"),
        (f"{long}.JPEG", b"L"),
        ("a.json", b"{}"),
        ("d/", b""),
    ]
    place = put(str(tmp_path), "t.tar", tar(members, format=kind))
    items = list_inputs(place)
    assert [item.id for item in items] == ["t.tar#a", f"t.tar#{long}"]
    with InputReader() as reader, InputReader() as records:
        assert [reader.read_item(item) for item in items] == [b"A", b"L"]
        assert records.read_record(items[0], ["json"]) == {"json": "{}"}
        assert records.read_record(items[1], ["seg.png", "json"]) == {"seg.png": b"mask", "json": None}
    masks = list_inputs(place, image_column="seg.png")
    assert [InputReader().read_item(item) for item in masks] == [b"mask"]


def test_what_comes_later_replaces_as_in_any_tar(tmp_path):
    [item] = list_inputs(put(str(tmp_path), "t.tar", tar([("a.jpg", b"old"), ("b.txt", b"x"), ("a.jpg", b"new")])))
    assert InputReader().read_item(item) == b"new"


def test_links_devices_and_hidden_names_are_left_out(tmp_path):
    def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b""

    members = [
        ("a.jpg", b"A"),
        special("b.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("c.jpg", tarfile.LNKTYPE, "a.jpg"),
        special("d.jpg", tarfile.CHRTYPE),
        special("e.jpg", tarfile.FIFOTYPE),
        special("f.jpg", tarfile.DIRTYPE),
        ("._a.jpg", b"resource fork"),
        (".jpg", b""),
        ("readme", b"no ending"),
        ("photo", b"no ending either"),
    ]
    listing = open_listing(put(str(tmp_path), "t.tar", tar(members)))
    assert [item.id for item in listing] == ["t.tar#a"]
    assert listing.passed_over.sentences() == [
        "1 member of archives is no image that can be read: 1 without a suffix.",
        "1 member of archives beside the images, left alone: 1 readme.",
        "4 links, devices or sparse files in archives are left out.",
    ]


def test_hostile_names_are_ids_and_nothing_else(tmp_path):
    names = ["../../../tmp/evil", "/etc/evil", "a\nb", "x" * 3000, "\udcff", "C:\\evil", "a#sample=0-1&key=b"]
    data = tar([(f"{name}.jpg", name[:9].encode("utf-8", "replace")) for name in names])
    items = list_inputs(put(str(tmp_path / "in"), "t.tar", data))
    assert len({item.id for item in items}) == len(names)
    with InputReader() as reader, InputReader() as records:
        for item, name in zip(items, names, strict=True):
            assert reader.read_item(item) == name[:9].encode("utf-8", "replace")
            assert records.read_record(item, ["txt", "jpg"])["jpg"] == name[:9].encode("utf-8", "replace")
    assert sorted(os.listdir(tmp_path)) == ["in"]  # noqa: PTH208


def test_samples_without_or_with_several_images(tmp_path):
    members = [("a.txt", b"x"), ("b.jpg", b"B"), ("b.psd", b""), ("b.npy", b""), ("b.txt", b""), ("c.cdr", b"")]
    place = put(str(tmp_path), "t.tar", tar(members))
    listing = open_listing(place)
    assert [item.id for item in listing] == ["t.tar#b"]
    passed_over = listing.passed_over
    assert passed_over.remarks == ("2 samples without an image are left out.",)
    assert passed_over.unreadable_members == {".psd": 1, ".cdr": 1}
    assert passed_over.sidecar_members == {".txt": 1, ".npy": 1}
    assert passed_over.as_json() == {
        "unreadable_members": {".psd": 1, ".cdr": 1},
        "sidecar_members": {".txt": 1, ".npy": 1},
        "remarks": ["2 samples without an image are left out."],
    }
    with pytest.raises(SettingsError, match=r"No image found .* 2 members of archives are no images that can"):
        list_inputs(put(str(tmp_path), "none.tar", tar([("a.cdr", b""), ("b.psd", b"")])))
    place = put(str(tmp_path), "t.tar", tar([("a.jpg", b"x"), ("a.png", b"B")]))
    with pytest.raises(SettingsError, match=r"Sample 'a' of .*several images: jpg, png; choose one with --image-col"):
        list_inputs(place)
    assert InputReader().read_item(list_inputs(place, image_column="png")[0]) == b"B"
    with pytest.raises(SettingsError, match=r"no sample of its 1 archive has a member \.gif"):
        list_inputs(place, image_column="gif")
    with pytest.raises(SettingsError, match="leave out"):
        list_inputs(place, uri_column="uri")


GOOD = tar([("a.jpg", b"A" * 2000), ("b.jpg", b"B" * 2000)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as an"),
        (b"no tar" * 1000, "cannot be read as an"),
        (gzip.compress(GOOD), "cannot be read as an"),
        (GOOD[:4000], "cannot be read as an"),
        (GOOD[:2560] + b"\xff" * 512 + GOOD[3072:], "damaged at byte 2560"),
        (bytes(10240), "no sample"),
    ],
)
def test_archives_that_are_none(tmp_path, data, message):
    with pytest.raises(SettingsError, match=message) as caught:
        list_inputs(put(str(tmp_path), "t.tar", data))
    assert "t.tar" in str(caught.value)


def test_compressed_archives_are_refused_with_a_reason(tmp_path):
    for name in ("t.tar.gz", "t.tgz"):
        with pytest.raises(SettingsError, match=r"is compressed.*decompress it to \.tar"):
            list_inputs(put(str(tmp_path), name, gzip.compress(GOOD)))


def test_an_archive_that_changed_after_it_was_listed(tmp_path):
    items = list_inputs(put(str(tmp_path), "t.tar", GOOD))
    Path(tmp_path / "t.tar").write_bytes(GOOD[:2600])
    reader, records = InputReader(), InputReader()
    assert reader.read_item(items[0]) == b"A" * 2000
    with pytest.raises(StorageError, match="ends before byte"):
        reader.read_item(items[1])
    with pytest.raises(StorageError, match="tar archive"):
        records.read_record(items[1], ["jpg"])
    Path(tmp_path / "t.tar").unlink()
    with pytest.raises(StorageError, match="does not exist"):
        reader.read_item(items[0])


def test_listing_from_afar_reads_headers_and_no_images(bucket, faulty_s3):
    data = tar([(f"{index:04d}.jpg", bytes(300_000)) for index in range(8)])
    place = put(bucket, "t.tar", data)
    faulty_s3.clear()
    items = list_inputs(place)
    assert len(items) == 8
    assert faulty_s3.requests("GET") <= 14
    faulty_s3.clear()
    assert InputReader().read_item(items[5]) == bytes(300_000)
    assert faulty_s3.requests() <= 3
