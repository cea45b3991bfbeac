"""The report's files: what they hold of an output, and what they must not hold. No browser here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tracemalloc

import boto3
import numpy as np
import pytest
from made_output import error_row, good_row, judged, make_output, save_photos, tinted

from dmt_ray import cli
from dmt_ray.config import ReportOptions
from dmt_ray.errors import ERROR_REMEDIES, ERROR_TYPES, SettingsError
from dmt_ray.output.claim import delete_run, find_run
from dmt_ray.output.commit import shard_uri
from dmt_ray.output.compact import compact
from dmt_ray.output.verify import verify_output
from dmt_ray.report.figures import Distribution
from dmt_ray.report.page import write_report
from dmt_ray.report.summary import throughput
from dmt_ray.storage import files

HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"
SECRET = "hunter2secret"


def rows_of(number, item):
    if number % 5 == 3:
        return [error_row("truncated", f"Photo {number} ends early.", strength=s) for s in (2.0, 4.0)]
    return [judged(good_row(tinted(item.uri, s), number, strength=s)) for s in (2.0, 4.0)]


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "in", [*(f"{index:03d}.png" for index in range(11)), HOSTILE])


@pytest.fixture
def out(tmp_path, photos):
    """An output of twelve photos in three shards, two strengths, three bad photos, a hostile name."""
    make_output(str(tmp_path / "out"), photos, rows_of, steps=2, shard_size=4)
    return tmp_path / "out"


def received(folder, kind):
    """Return what the scripts of a kind pass on, by number."""
    found = {}
    for path in sorted(folder.glob(f"{kind}-*-*.js")):
        call = re.fullmatch(r'dmtReport\.receive\("(\w+)",(\d+),(.*)\);\n', path.read_text(), re.S)
        assert call is not None
        assert call[1] == kind
        found[int(call[2])] = json.loads(call[3])
    return found


def test_the_page_has_every_row_its_pictures_and_what_they_come_to(out, photos):
    written = write_report(str(out))
    assert (written.rows, written.photos, written.unread) == (24, 12, {})
    folder = out / "report"
    rows = received(folder, "rows")[0]
    assert rows["id"] == [id_ for id_, _ in photos for _ in range(2)]
    assert rows["strength"] == [2.0, 4.0] * 12
    assert rows["status"].count("error") == 4
    thumbnails = received(folder, "thumbs")[0]
    views = received(folder, "views")[0]
    for row, status in enumerate(rows["status"]):
        good = status == "ok"
        before = thumbnails["before"][row]
        before = thumbnails["before"][before] if isinstance(before, int) else before
        for picture in (before, thumbnails["after"][row], views[str(row)].get("after")):
            assert (picture or "").startswith("data:image/jpeg;base64,") == good
        assert rows["view"][row] == 0
    assert {len(rows[name]) for name in rows} == {24}
    page = (folder / "index.html").read_text()
    assert "Copy or download the photo again" in page
    assert "Photo 3 ends early." in page
    assert page.count("<code>truncated</code>") == 1


def test_the_picture_before_is_the_input_and_after_the_result(out, photos, tmp_path):
    import base64

    from dmt_ray.storage.images import decode_image

    write_report(str(out))
    views = received(out / "report", "views")[0]

    def shown(uri):
        return decode_image(base64.b64decode(uri.partition(",")[2]), max_pixels=10**6).astype(int)

    original = decode_image((tmp_path / "in" / "000.png").read_bytes(), max_pixels=10**6).astype(int)
    assert np.abs(shown(views["0"]["before"]) - original).mean() < 4
    assert np.abs(shown(views["1"]["after"]) - tinted(photos[0][1], 4.0)).mean() < 4


def test_colorize_shows_its_inputs_grey(tmp_path, photos):
    import base64
    import io

    from PIL import Image

    def rows(number, item):
        return [good_row(tinted(item.uri, 2), number)]

    make_output(str(tmp_path / "out"), photos, rows, job="colorize")
    write_report(str(tmp_path / "out"))
    before = received(tmp_path / "out" / "report", "views")[0]["0"]["before"]
    assert Image.open(io.BytesIO(base64.b64decode(before.partition(",")[2]))).mode == "L"


def test_a_photo_that_is_gone_or_has_changed_has_no_picture_before_and_the_page_says_why(out, photos, tmp_path):
    (tmp_path / "in" / "001.png").unlink()
    (tmp_path / "in" / "002.png").write_bytes((tmp_path / "in" / "004.png").read_bytes() + b" ")
    written = write_report(str(out))
    assert written.without_input == 2 + 2  # those, and the two that the run could not read
    rows = received(out / "report", "rows")[0]
    views = received(out / "report", "views")[0]
    missing = dict(zip(rows["id"], rows["missing"], strict=True))
    assert "001.png" in missing["001.png"]
    assert "has changed" in missing["002.png"]
    assert missing["000.png"] is None
    assert "before" not in views["2"]
    assert "after" in views["2"]
    assert "4 of 12 photos have no picture of the input" in (out / "report" / "index.html").read_text()


def test_a_photo_that_was_replaced_and_done_again_has_a_picture_before(tmp_path):
    """Its row has the checksum of the bytes that were edited; the plan has the time of the file before it."""
    photos = save_photos(tmp_path / "in", ["done-again.png", "changed.png"])
    sums = [hashlib.sha256((tmp_path / "in" / name).read_bytes()).hexdigest() for name, _ in photos]

    def rows(number, item):
        return [good_row(tinted(item.uri, 2), number) | {"input_sha256": sums[number]}]

    make_output(str(tmp_path / "out"), photos, rows)
    for name, _ in photos:
        os.utime(tmp_path / "in" / name, (1, 1))
    whole = (tmp_path / "in" / "changed.png").read_bytes()
    (tmp_path / "in" / "changed.png").write_bytes(whole + b" ")
    assert write_report(str(tmp_path / "out")).without_input == 1
    rows_shown = received(tmp_path / "out" / "report", "rows")[0]
    missing = dict(zip(rows_shown["id"], rows_shown["missing"], strict=True))
    assert missing["done-again.png"] is None
    assert "has changed" in missing["changed.png"]


def test_an_input_that_is_gone_as_a_whole_is_not_asked_for_every_photo(tmp_path, monkeypatch):
    photos = [(f"{index}.png", f"{tmp_path}/gone/{index}.png") for index in range(120)]
    picture = np.full((8, 8, 3), 90, np.uint8)
    make_output(str(tmp_path / "out"), photos, lambda number, item: [good_row(picture, 1)], shard_size=60)
    asked = []
    read = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda uri, **rest: asked.append(uri) or read(uri, **rest))
    assert write_report(str(tmp_path / "out")).without_input == 120
    assert sum("/gone/" in uri for uri in asked) < 60


def test_without_reading_the_input(out):
    assert write_report(str(out), ReportOptions(read_input=False)).without_input == 12
    assert all(not part.get("before") for part in received(out / "report", "views")[0].values())


def test_names_are_escaped_and_no_secret_is_written(tmp_path, photos):
    uri = f"https://user:{SECRET}@127.0.0.1:9/a.png?X-Amz-Signature={SECRET}"
    named = [(photos[-1][0], photos[-1][1]), ("</script><script>alert(1)</script>", uri)]

    def rows(number, item):
        if number == 0:
            return [good_row(tinted(item.uri, 2), 0)]
        return [error_row("storage", f"{uri} cannot be read: <b>no</b>")]

    config = {"inputs": {"input": uri}, "output": {"output": "x"}}
    make_output(str(tmp_path / "out"), named, rows, config=config)
    write_report(str(tmp_path / "out"))
    everything = {path.name: path.read_text() for path in (tmp_path / "out" / "report").iterdir()}
    assert all(SECRET not in text for text in everything.values())
    page = everything["index.html"]
    assert "<script>alert" not in page
    assert "<b>no" not in page
    assert page.count("</script>") == 4  # the manifest and three files
    for name, text in everything.items():
        if name.startswith(("rows", "thumbs", "views")):
            assert "<" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert not re.findall(r"\bon\w+=|style=", re.sub(r"&lt;.*?&gt;", "", page))


def test_unfinished_and_damaged_outputs_are_shown_as_far_as_they_go(tmp_path, photos):
    output = str(tmp_path / "out")
    make_output(output, photos, rows_of, steps=2, shard_size=3, only=[0, 1, 3])
    damaged = tmp_path / "out" / "shards" / "shard-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    written = write_report(output)
    assert written.rows == 12
    assert list(written.unread) == [1]
    assert "1 shard is damaged: rows or pictures of it are missing" in written.sentences()[-1]
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "This report is of 2 of 4 shards" in page
    assert "shard-000001.parquet is damaged, and rows or pictures" in page


def test_damage_among_the_pictures_is_named_and_the_other_shards_are_whole(tmp_path, photos):
    output = str(tmp_path / "out")
    make_output(output, photos, rows_of, steps=2, shard_size=6)
    path = tmp_path / "out" / "shards" / "shard-000001.parquet"
    data = bytearray(path.read_bytes())
    at = data.index(b"\x89PNG") + 40
    data[at] ^= 0xFF
    path.write_bytes(data)
    written = write_report(output)
    assert list(written.unread) == [1]
    assert "This report is of 1 of 2 shards" in (tmp_path / "out" / "report" / "index.html").read_text()


def test_with_a_limit_the_list_is_short_and_the_figures_are_of_all_rows(out):
    written = write_report(str(out), ReportOptions(limit=5))
    assert (written.rows, written.photos) == (24, 5)
    assert len(received(out / "report", "rows")[0]["id"]) == 10
    page = (out / "report" / "index.html").read_text()
    assert "the first 5 of 12 photos" in page
    assert "Photo 8 ends early." in page


def test_again_it_is_the_same_and_after_a_change_the_old_files_are_gone(out, photos):
    write_report(str(out))
    folder = out / "report"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "notes.txt").write_text("mine")
    write_report(str(out))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.txt"} == first
    write_report(str(out), ReportOptions(picture_size=64))
    second = {path.name for path in folder.iterdir()}
    assert second & set(first) == {"index.html"}
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_killed_report_leaves_the_earlier_page_whole(out, monkeypatch):
    write_report(str(out))
    folder = out / "report"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = files.write_atomic

    def failing(uri, data, **options):
        if uri.endswith("index.html"):
            raise KeyboardInterrupt
        write(uri, data, **options)

    monkeypatch.setattr(files, "write_atomic", failing)
    with pytest.raises(KeyboardInterrupt):
        write_report(str(out), ReportOptions(picture_size=64))
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_another_programs_page_is_left_alone(out):
    (out / "report").mkdir()
    page = out / "report" / "index.html"
    page.write_text("<h1>mine</h1>")
    with pytest.raises(SettingsError, match=r"report/index\.html was not written by this program"):
        write_report(str(out))
    delete_run(str(out))
    assert page.read_text() == "<h1>mine</h1>"


def test_the_output_is_as_sound_with_a_report_as_without(out, tmp_path):
    write_report(str(out))
    report = verify_output(str(out), deep=True)
    assert report.complete, report.sentences()
    assert compact(str(out), str(tmp_path / "merged"), 10**6).complete
    found = find_run(str(out), "resume")
    assert found.record is not None
    (out / "run.json").unlink()
    assert find_run(str(out), "overwrite").plan is not None  # known by its plan


def test_overwrite_deletes_the_report_and_nothing_else(out):
    write_report(str(out))
    (out / "report" / "notes.txt").write_text("mine")
    delete_run(str(out))
    assert [path.name for path in (out / "report").iterdir()] == ["notes.txt"]


def test_a_compaction_and_a_place_without_a_run_are_told(out, tmp_path, capsys):
    compact(str(out), str(tmp_path / "merged"), 10**6)
    with pytest.raises(SettingsError, match=r"is a compaction; name the --output of the run"):
        write_report(str(tmp_path / "merged"))
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert "has no run.json" in capsys.readouterr().err
    assert cli.main(["report", str(out), "--limit", "0"]) == 2
    assert "--limit is 0" in capsys.readouterr().err


def test_the_command_on_a_bucket(bucket, photos, capsys):
    output = f"{bucket}/out"
    make_output(output, photos, rows_of, steps=2, shard_size=4)
    assert cli.main(["report", output, "--picture-size", "64"]) == 0
    assert f"{output}/report/index.html: 24 rows, 12 photos" in capsys.readouterr().out
    names = files.list_names(f"{output}/report")
    assert {name.split("-")[0] for name in names} == {
        *("index.html", "data", "list", "photo", "style", "rows", "thumbs", "views"),
    }
    assert _types(output) == {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}
    assert len(files.modified_times(f"{output}/shards")) == 3
    delete_run(output)
    assert files.list_names(f"{output}/report") == set()


def _types(output):
    """Return what the store tells browsers of the report's files, by their suffix: without it, they download them."""
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name = output.removeprefix("s3://").partition("/")[0]
    found = {}
    for entry in client.list_objects_v2(Bucket=name, Prefix="out/report/")["Contents"]:
        head = client.head_object(Bucket=name, Key=entry["Key"])
        found[entry["Key"].rpartition(".")[2]] = head["ContentType"]
    return found


def test_rows_over_time_are_told_by_the_files_times(out):
    for index, path in enumerate(sorted((out / "shards").iterdir())):
        os.utime(path, (1e9 + 60 * index, 1e9 + 60 * index))
    write_report(str(out))
    assert "Rows per minute over 2 min 0 s: on average 12, at most 12" in (out / "report/index.html").read_text()


def test_throughput_counts_every_row_once():
    told = throughput({"a": 10, "b": 20, "c": 30, "d": 5}, {"a": 0.0, "b": 60.0, "c": 120.0})
    assert told.seconds == 120
    assert sum(told.per_minute) * 120 / len(told.per_minute) / 60 == pytest.approx(60)
    assert throughput({"a": 1, "b": 1}, {"a": 0.0, "b": 9.0}) is None


def test_distributions_are_exact_where_they_say_so_and_bounded():
    values = np.random.default_rng(0).normal(3, 1, 150_000)
    distribution = Distribution("strength")
    distribution.add([None, float("nan"), *values.tolist()])
    assert distribution.count == 150_000
    assert distribution.mean == pytest.approx(values.mean())
    assert (distribution.least, distribution.largest) == (values.min(), values.max())
    assert distribution.sampled
    assert distribution.quantile(0.5) == pytest.approx(np.median(values), abs=0.02)
    assert distribution.bins().sum() <= 2**16


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    """Four times as many photos, of 300 kB each in the output, take no more memory: a few are in flight."""
    picture = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    row = good_row(picture, 1)
    assert len(row["image"]) > 300_000
    peaks = []
    for count in (12, 48):
        output = str(tmp_path / f"out-{count}")
        photos = [(str(index), f"{tmp_path}/gone/{index}.png") for index in range(count)]
        make_output(output, photos, lambda number, item: [row], shard_size=4)
        tracemalloc.start()
        write_report(output, ReportOptions(picture_size=64, read_input=False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.4 * peaks[0]


def test_every_error_type_has_its_remedy():
    assert list(ERROR_REMEDIES) == list(ERROR_TYPES)


def test_a_shard_that_is_not_planned_is_no_part(out):
    os.link(shard_uri(str(out), 0), out / "shards" / "copy.parquet")
    assert write_report(str(out)).rows == 24
