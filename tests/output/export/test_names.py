"""Names of exported pictures: safe everywhere, never the same, and the same again."""

import random
import unicodedata

import pytest

from dmt_ray.output.export.names import MAX_PART, MAX_PATH, Names, safe_path, step_labels


@pytest.mark.parametrize(
    ("id_", "path"),
    [
        ("a.jpg", "a"),
        ("year 2024/summer.day/photo.JPEG", "year 2024/summer.day/photo"),
        ("data/faces.parquet#12", "data/faces.parquet#12"),
        ("person.1", "person.1"),
        ("größe/日本.png", "größe/日本"),
        ("../../etc/passwd", "_/_/etc/passwd"),
        ("/abs/a.png", "abs/a"),
        ("s3://bucket/a.png", "s3_/bucket/a"),
        ("a//./b.png", "a/b"),
        (r"..\..\windows.png", "__.._windows"),
        ("CON.png", "_CON"),
        ("lpt1.tar.png", "_lpt1.tar"),
        ("com¹/nul", "_com¹/_nul"),
        ("console.png", "console"),
        (".hidden/.tmp-1.png", "_hidden/_tmp-1"),
        ("end. /dots...", "end_/dots_"),
        ('a<b>c:"d|e?f*', "a_b_c__d_e_f_"),
        ("new\nline\x1b[31m\u2028\u202egnp.exe", "new_line_[31m__gnp.exe"),
        ("folder.png/a.png", "folder.png_/a"),
        ("", "_"),
        ("/", "_"),
        (".png", "_png"),
    ],
)
def test_what_an_id_becomes(id_, path):
    assert safe_path(id_) == path


def test_long_names_are_cut_and_stay_apart():
    long = ["x" * 300 + ending for ending in "ab"] + ["ü" * 200]
    names = [safe_path(id_) for id_ in long]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= MAX_PART for name in names)
    deep = [("d" * 100 + "/") * 20 + name for name in ("a.png", "b.png")] + [("e" * 100 + "/") * 20 + "a.png"]
    names = [safe_path(id_) for id_ in deep]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= MAX_PATH and name.endswith(("/a", "/b")) for name in names)


def test_names_that_would_be_the_same_are_told_apart_in_the_order_of_the_plan():
    ids = ["a.jpg", "a.png", "A.jpg", "b/x", "b:x", "b_x", "B/X.tif", "caf\u00e9", "cafe\u0301", "c"]
    names = Names(lambda: iter(ids))
    given = [names.of(id_) for id_ in ids]
    assert given[0] == "a"
    assert given[1].startswith("a-")
    assert given[2].startswith("A-")
    assert given[3:5] == ["b/x", "b_x"]
    assert given[5].startswith("b_x-")
    assert len({unicodedata.normalize("NFC", name).casefold() for name in given}) == len(ids)
    more = [*ids, "a.gif", "new"]
    grown = Names(lambda: iter(more))
    assert [grown.of(id_) for id_ in ids] == given  # a plan that grows keeps its names
    assert len({grown.of(id_).casefold() for id_ in more}) == len(more)


def test_an_id_that_looks_like_a_name_with_digits():
    ids = ["a.jpg", "a.png"]
    taken = Names(lambda: iter(ids)).of("a.png")
    ids = ["a.jpg", "a.png", f"{taken}.jpg"]
    names = Names(lambda: iter(ids))
    assert len({names.of(id_) for id_ in ids}) == 3
    assert names.of(ids[2]) == taken


def test_any_ids_give_names_that_differ_and_stay_inside():
    draw = random.Random(0)
    letters = [*"aAb./\\: _-é\x00\n", "..", "e\u0301", "con", ".png", ".jpg"]
    ids = list({"".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(3000)})
    for options in ({}, {"flat": True}, {"flat": True, "dots": False}):
        names = Names(lambda: iter(ids), **options)
        paths = [names.of(id_) for id_ in ids]
        keys = {unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()) for path in paths}
        assert len(keys) == len(ids)
        for path in paths:
            parts = path.split("/")
            assert all(part and part[0] not in ". " and part[-1] not in ". " for part in parts)
            assert not set(path) & set('\\:\x00\n<>"|?*')
            assert "flat" not in options or len(parts) == 1
            assert "dots" not in options or "." not in path
        again = Names(lambda: iter(ids), **options)
        assert [again.of(id_) for id_ in ids] == paths


def test_labels_of_steps():
    assert step_labels([0, 1, 2], [0.5, 2.0, 10.0]) == ["strength-0.5", "strength-2", "strength-10"]
    assert step_labels([0, 1], [2.0, 2.0000001]) == ["strength-2", "strength-2.0000001"]
    assert step_labels([0, 1], [1.0, 1.0]) == ["step-0", "step-1"]
    assert step_labels([0, 1], [None, 1.0]) == ["step-0", "step-1"]
