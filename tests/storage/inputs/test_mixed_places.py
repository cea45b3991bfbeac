"""Places that hold more than one kind of files: what is listed, and what is said of the rest."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import join
from dmt_ray.storage.images import encode_image
from dmt_ray.storage.inputs import passed_over
from dmt_ray.storage.inputs.formats import OptionNames
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs, open_listing

PNG = encode_image(np.zeros((4, 4, 3), np.uint8), "png", 90)


def put(folder: str, name: str, data: bytes | pa.Table = b"") -> str:
    if isinstance(data, pa.Table):
        buffer = io.BytesIO()
        pq.write_table(data, buffer)
        data = buffer.getvalue()
    files.write_atomic(join(folder, name), data)
    return join(folder, name)


def tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
    return buffer.getvalue()


def ids(place: str, **options) -> list[str]:
    return [item.id for item in open_listing(place, **options)]


def said(place: str, **options) -> list[str]:
    listing = open_listing(place, **options)
    return listing.passed_over.sentences(listing.kind, "--input-kind")


def test_pictures_that_cannot_be_read_are_counted(folder):
    put(folder, "a.png", PNG)
    for name in ("1.xyz", "2.XYZ", "deep/3.xyz", "x.cr9", "no_suffix", "what.tar.gz"):
        put(folder, name)
    for name in ("README", "a.json", "a.txt", "b.xmp", ".hidden.xyz", ".git/d.xyz"):
        put(folder, name)
    listing = open_listing(folder)
    assert listing.passed_over.unreadable == {".xyz": 3, "": 1, ".cr9": 1, ".tar.gz": 1}
    assert listing.passed_over.sidecars == {".json": 1, ".txt": 1, ".xmp": 1, "readme": 1}
    assert listing.passed_over.as_json() == {
        "unreadable": {".xyz": 3, "": 1, ".cr9": 1, ".tar.gz": 1},
        "sidecars": {".json": 1, ".txt": 1, ".xmp": 1, "readme": 1},
    }
    assert said(folder) == [
        "6 files are no images that can be read: 3 .xyz, 1 without a suffix, 1 .cr9, 1 .tar.gz.",
        "4 files beside the images, left alone: 1 .json, 1 .txt, 1 .xmp, 1 readme.",
    ]
    assert said(join(folder, "*.png")) == []
    with pytest.raises(
        SettingsError,
        match=r"its only file does not have .* 1 file is no image that can be read: 1 \.xyz\.",
    ):
        list_inputs(join(folder, "deep"))


def test_the_extra_is_named_where_it_would_help(monkeypatch):
    monkeypatch.setattr(passed_over, "suffixes_of_missing_formats", lambda: {".heic", ".jxl"})
    counts = passed_over.PassedOver(unreadable={".heic": 5, ".jxl": 1, ".xyz": 1})
    assert counts.sentences() == [
        "7 files are no images that can be read: 5 .heic, 1 .jxl, 1 .xyz. "
        'To read .heic, .jxl: pip install "dmt-ray[formats]".'
    ]
    many = passed_over.PassedOver(unreadable={f".{letter}": 1 for letter in "abcdefghij"})
    assert many.sentences()[0].endswith("1 .g, 1 .h and 2 more kinds.")


def test_img2dataset_tars_beside_tables_of_the_same_names(folder):
    for shard in ("00000", "00001"):
        put(folder, f"{shard}.tar", tar(f"{shard}1.jpg", f"{shard}1.txt", f"{shard}2.jpg"))
        put(folder, f"{shard}.parquet", pa.table({"url": ["https://nowhere.invalid/1.jpg"], "caption": ["x"]}))
        put(folder, f"{shard}_stats.json", b"{}")
    assert ids(folder)[:2] == ["00000.tar#000001", "00000.tar#000002"]
    assert len(ids(folder)) == 4
    assert said(folder) == [
        "The images are taken from the tar files; passed over as inputs: 2 parquet files. "
        "--input-kind decides otherwise.",
        "2 files beside the images, left alone: 2 .json.",
    ]
    assert ids(folder, kind="parquet") == ["00000.parquet#0", "00001.parquet#0"]
    assert ids(folder, image_column="jpg") == ids(folder)
    assert ids(folder, uri_column="url") == ids(folder, kind="parquet")


def test_a_hugging_face_clone_and_a_folder_of_photos_with_a_table(folder):
    rows = pa.table({"image": [{"bytes": PNG, "path": f"{n}.png"} for n in range(3)], "label": [0, 1, 2]})
    put(folder, "data/train-00000-of-00001.parquet", rows)
    put(folder, "assets/teaser.png", PNG)
    put(folder, "README.md")
    assert ids(folder) == [f"data/train-00000-of-00001.parquet#{row}" for row in range(3)]
    assert said(folder)[0].startswith(
        "The images are taken from the parquet files; passed over as inputs: 1 image file."
    )
    assert ids(folder, kind="images") == ["assets/teaser.png"]
    for number in range(3):
        put(folder, f"{number}.png", PNG)
    assert len(ids(folder)) == 4  # now most pictures are files
    assert open_listing(folder).passed_over.other_kinds == {"parquet": 1}


def test_a_damaged_archive_is_not_left_for_a_table_of_names(tmp_path):
    put(str(tmp_path), "0.tar", b"x" * 2000)
    put(str(tmp_path), "0.parquet", pa.table({"url": ["a.png"]}))
    with pytest.raises(SettingsError, match=r"0\.tar cannot be read as an \(uncompressed\) tar"):
        open_listing(str(tmp_path))


def test_the_kind_decides_outright(tmp_path):
    place = str(tmp_path)
    put(place, "a.png", PNG)
    put(place, "names.txt", b"a.png\n")
    put(place, "t.csv", b"path\na.png\n")
    options = OptionNames(kind="--input-kind")
    assert ids(place, kind="list") == ["a.png"]
    assert open_listing(place, kind="csv").passed_over.other_kinds == {"images": 1}
    for kind, message in (
        ("tar", r"holds images and csv and no files of the kind tar \(\.tar\): give another --input-kind"),
        ("zip", "--input-kind is 'zip'; it must be one of images, parquet, tar, csv, list"),
    ):
        with pytest.raises(SettingsError, match=message):
            open_listing(place, kind=kind, options=options)
    with pytest.raises(SettingsError, match="holds images, which have no such column"):
        open_listing(place, kind="images", uri_column="path", options=options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.zip", r"photos\.zip is an archive of another kind than \.tar; unpack it and name the folder"),
        ("t.jsonl", r"is JSON and no image; write its rows as Parquet or CSV.*metadata\.jsonl beside images"),
        ("t.tar.gz", r"is compressed.*decompress it to \.tar"),
        ("t.MP4", "is a video; extract its frames"),
    ],
)
def test_what_is_no_input_is_refused_by_what_it_is(folder, name, message):
    with pytest.raises(SettingsError, match=message):
        open_listing(put(folder, name, b"x"))


def test_messages_name_the_options_of_their_own_place(tmp_path):
    options = OptionNames("--exemplar-image-column", "--exemplar-uri-column")
    table = put(str(tmp_path), "t.parquet", pa.table({"n": [1], "a": [b"x"], "b": [b"y"]}))
    with pytest.raises(SettingsError, match=r"with --exemplar-image-column .* or --exemplar-uri-column \(URIs\)"):
        open_listing(table, options=options)
    with pytest.raises(SettingsError, match=r"has no column 'gone' \(--exemplar-uri-column\)"):
        open_listing(table, uri_column="gone", options=options)
    with pytest.raises(SettingsError, match="choose one with --exemplar-image-column"):
        open_listing(put(str(tmp_path), "t.tar", tar("a.jpg", "a.png")), options=options)


def test_outputs_of_runs_are_no_inputs(folder):
    put(folder, "a.png", PNG)
    out = join(folder, "deep/out")
    for name in ("contact-sheet.png", "shards/shard-000000.parquet", "plan.parquet"):
        put(out, name, PNG)
    assert ids(folder, output=out) == ["a.png"]
    assert ids(folder) == ["a.png", "deep/out/contact-sheet.png"]  # nothing says yet that it is an output
    put(out, "run.json", b"{}")
    assert ids(folder) == ["a.png"]
    assert said(folder) == ["4 files belong to outputs of runs and are no inputs."]
    assert ids(folder, output=join(folder, "elsewhere")) == ["a.png"]
    assert ids(join(folder, "*.png"), output=folder) == ["a.png"]
    rows = pa.table({"image": [PNG, PNG]})
    put(out, "shards/shard-000000.parquet", rows)
    assert len(ids(join(out, "shards"), output=join(folder, "out2"))) == 2
    assert ids(out) == ["contact-sheet.png"]
    files.delete(join(out, "contact-sheet.png"))
    with pytest.raises(SettingsError, match="its 3 files belong to the output of a run, whose pictures are in"):
        open_listing(out)


def test_an_output_is_known_behind_a_link(tmp_path):
    real = tmp_path / "real"
    put(str(real), "a.png", PNG)
    put(str(real), "out/sheet.png", PNG)
    (tmp_path / "link").symlink_to(real)
    for place, output in ((real, tmp_path / "link/out"), (tmp_path / "link", real / "out")):
        assert ids(str(place), output=str(output)) == ["a.png"]


def test_names_that_are_not_utf_8_are_inputs_like_any_others(tmp_path):
    put(str(tmp_path / "in"), "a.png", PNG)
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(PNG)
    items = list_inputs(str(tmp_path / "in"))
    assert [item.id for item in items] == ["a.png", r"caf\xe9.png"]
    (tmp_path / "list.txt").write_bytes(b"in/caf\xe9.png\nin/a.png\n")
    named = list_inputs(str(tmp_path / "list.txt"))
    assert [item.id for item in named] == [r"in/caf\xe9.png", "in/a.png"]
    with InputReader() as reader:
        assert [reader.read_item(item) for item in [*items, *named]] == [PNG] * 4
    assert None not in [item.identity for item in named]
    (tmp_path / "list.txt").write_bytes(b"in/a.png\nin/th\xe9.png\n")
    with pytest.raises(SettingsError, match="its line 2 is no UTF-8 text, and names no file that is there"):
        list_inputs(str(tmp_path / "list.txt"))


def test_braces_in_the_name_of_a_place(folder):
    for number in range(3):
        put(folder, f"shards/{number:02}.tar", tar(f"{number}.png"))
    assert ids(join(folder, "shards/{00..02..2}.tar")) == ["00.tar#0", "02.tar#2"]
    with pytest.raises(SettingsError, match=r"Cannot list .*2 of its 3 names do not exist; the first: \S+/03\.tar"):
        open_listing(join(folder, "shards/{02..04}.tar"))
