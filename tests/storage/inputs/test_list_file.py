"""Images named in a text file."""

from __future__ import annotations

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import join
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs


def put(folder: str, name: str, data: bytes | str) -> str:
    files.write_atomic(join(folder, name), data.encode() if isinstance(data, str) else data)
    return join(folder, name)


def pairs(place: str, **options) -> list[tuple[str, bytes]]:
    with InputReader() as reader:
        return [(item.id, reader.read_item(item)) for item in list_inputs(place, **options)]


@pytest.mark.parametrize("name", ["list.txt", "list.LST"])
def test_paths_start_at_the_list_files_folder(folder, name):
    put(folder, "sets/a/1.jpg", b"one")
    put(folder, "sets/2.jpg", b"two")
    far = put(folder, "elsewhere/3.jpg", b"three")
    text = f"\ufeff# a comment\n\na/1.jpg\r\n  2.jpg  \n{far}\n../elsewhere/4 four.jpg\n"
    put(folder, "elsewhere/4 four.jpg", b"four")
    found = pairs(put(folder, f"sets/{name}", text))
    assert [data for _, data in found] == [b"one", b"two", b"three", b"four"]
    ids = [id_ for id_, _ in found]
    assert ids[:2] == ["a/1.jpg", "2.jpg"]
    assert ids[2].endswith("elsewhere/3.jpg")
    assert not ids[2].startswith("/")
    assert "://" not in ids[2]
    assert pairs(join(folder, f"sets/{name}"), limit=2) == found[:2]
    assert list_inputs(join(folder, f"sets/{name}"))[0].record is None


def test_an_id_does_not_depend_on_other_lines(tmp_path):
    lines = ["a/1.jpg", "/data/x/2.jpg", "s3://bucket/y/3.jpg"]
    before = [item.id for item in list_inputs(put(str(tmp_path), "l.txt", "\n".join(lines)))]
    after = [item.id for item in list_inputs(put(str(tmp_path), "l.txt", "\n".join(["new.jpg", *lines, "/z/4.jpg"])))]
    assert before == ["a/1.jpg", "data/x/2.jpg", "bucket/y/3.jpg"]
    assert after == ["new.jpg", *before, "z/4.jpg"]


def test_queries_and_users_stay_out_of_ids(tmp_path):
    lines = ["https://user:pw@host/a.jpg?X-Amz-Signature=abc", "https://host/b.jpg?id=2"]
    items = list_inputs(put(str(tmp_path), "l.txt", "\n".join(lines)))
    assert [item.id for item in items] == ["host/a.jpg", "host/b.jpg"]
    assert [item.uri for item in items] == lines
    lines = ["https://host/get?id=1", "https://host/get?id=2"]
    items = list_inputs(put(str(tmp_path), "l.txt", "\n".join(["", *lines])))
    assert [item.id for item in items] == ["l.txt#2", "l.txt#3"]


def test_a_file_listed_twice_is_an_error_with_both_lines(tmp_path):
    place = put(str(tmp_path), "l.txt", f"a.jpg\n# x\nb.jpg\n{tmp_path}/a.jpg\n")
    with pytest.raises(SettingsError, match=r"l\.txt: line 4 names .*a\.jpg again, after line 1"):
        list_inputs(place)
    put(str(tmp_path), "m.txt", "c.jpg\n")
    put(str(tmp_path), "n.txt", "c.jpg\n")
    with pytest.raises(SettingsError, match=r"n\.txt: line 1 names .*c\.jpg again, after line 1 of .*m\.txt"):
        list_inputs(str(tmp_path / "[mn].txt"))


def test_lists_beside_images_are_notes(tmp_path):
    put(str(tmp_path), "a.png", b"x")
    put(str(tmp_path), "readme.txt", "b.png")
    assert [item.id for item in list_inputs(str(tmp_path))] == ["a.png"]
    assert [item.id for item in list_inputs(str(tmp_path / "*"))] == ["a.png"]
    assert [item.id for item in list_inputs(str(tmp_path / "*.txt"))] == ["b.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no line of it names a file"),
        (b"# only\n\n", "no line of it names a file"),
        (b"a.jpg\n\xff\xfe\x00b", "no UTF-8 text"),
    ],
)
def test_lists_that_are_none(tmp_path, data, message):
    with pytest.raises(SettingsError, match=message) as caught:
        list_inputs(put(str(tmp_path), "l.txt", data))
    assert "l.txt" in str(caught.value)


def test_a_column_means_nothing_to_a_list(tmp_path):
    with pytest.raises(SettingsError, match="leave out --image-column"):
        list_inputs(put(str(tmp_path), "l.txt", "a.jpg"), uri_column="x")
