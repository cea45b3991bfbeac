"""What a further run on the same output does: extend the plan, retry what failed. No Ray here."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.config import RunConfig
from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import commit_shard, shard_uri
from dmt_ray.output.input_columns import InputColumns
from dmt_ray.output.retry_failed import failed_items, with_kept_rows
from dmt_ray.output.schema import rows_table
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.actors import Shared, finish_shard
from dmt_ray.pipeline.prepare import load_plan, prepare_run, write_run
from dmt_ray.pipeline.run_sentences import intentions


def rows_of(item, steps=1, *, failed=False, mark=b"image"):
    fate = (
        {"status": "error", "error_type": "e", "error": "x"}
        if failed
        else {"status": "ok", "displacement_norm": 1.0, "image": mark + item.id.encode()}
        | {"image_format": "png", "width": 1, "height": 1, "digital_source_type": "t"}
    )
    return [{"id": item.id, "uri": item.uri, "step": step} | fate for step in range(steps)]


@pytest.fixture
def folder(photos, tmp_path):
    shutil.copytree(photos / "inputs", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def written(configure, folder, tmp_path):
    """All three shards of six images are committed; two images of two shards failed."""
    run = prepare_run(configure(input=str(folder), strength=(1.0, 2.0)))
    write_run(run)
    for shard in run.shards:
        rows = [row for item in shard.items for row in rows_of(item, 2, failed=item.id[0] in "et")]
        commit_shard(shard, rows_table(rows), run.expected)
    return run


def prepared(configure, folder, **options):
    return prepare_run(configure(input=str(folder), strength=(1.0, 2.0), **options))


def test_extend_adds_shards_behind_the_old_ones(written, configure, folder, tmp_path):
    for name in ("a-first", "photo-2b", "z-last"):
        shutil.copy(folder / "photo-1.jpg", folder / f"{name}.jpg")
    (folder / "photo-0.jpg").unlink()  # what is planned stays planned
    before = list(load_plan(str(tmp_path / "out")))
    assert not prepared(configure, folder).todo
    run = prepared(configure, folder, extend=True)
    assert list(load_plan(str(tmp_path / "out"))) == before  # preparing writes nothing
    write_run(run)
    plan = load_plan(str(tmp_path / "out"))
    assert list(plan)[:3] == before
    assert [[item.id for item in shard.items] for shard in list(plan)[3:]] == [
        ["a-first.jpg", "photo-2b.jpg"],
        ["z-last.jpg"],
    ]
    assert run.todo.numbers == plan.numbers[3:] == [3, 4]
    assert run.rows_todo == 6
    assert json.loads((tmp_path / "out" / "run.json").read_text())["planned"] == {"images": 9, "shards": 5}
    report = verify_output(str(tmp_path / "out"))
    assert (report.rows, sorted(report.missing)) == (12, ["a-first.jpg", "photo-2b.jpg", "z-last.jpg"])
    again = prepared(configure, folder, extend=True)
    assert not again.extended
    assert again.todo.numbers == [3, 4]


def test_extend_on_an_empty_output_is_a_new_run(configure, folder):
    run = prepared(configure, folder, extend=True)
    assert run.fresh
    assert not run.extended


def test_extend_wants_the_columns_that_the_output_carries(configure, photos, tmp_path):
    uris = [str(path) for path in sorted((photos / "inputs").glob("photo-*"))]
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "uri": uris[:2], "year": [1, 2]}), table)
    write_run(prepare_run(configure(input=str(table))))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "uri": uris[:3], "year": ["1", "2", "3"]}), table)
    with pytest.raises(SettingsError, match="year"):
        prepare_run(configure(input=str(table), extend=True))
    pq.write_table(pa.table({"id": ["a", "b", "c"], "uri": uris[:3], "year": [1, 2, 3]}), table)
    run = prepare_run(configure(input=str(table), extend=True))
    assert [item.id for item in list(run.shards)[-1].items] == ["c"]
    assert "The plan has grown by 1 new image." in intentions(run)
    write_run(run)
    pq.write_table(pa.table({"id": ["a", "b", "c"], "uri": uris[:3], "year": [1, 2, 4]}), table)
    os.utime(table, (1, 1))
    said = intentions(prepare_run(configure(input=str(table), extend=True)))
    assert "No image is new; the plan takes the tables and archives as they are now." in said


def test_retry_does_just_the_images_that_failed(written, configure, folder, tmp_path):
    out = str(tmp_path / "out")
    assert not prepared(configure, folder).todo
    run = prepared(configure, folder, retry_failed=True)
    assert run.todo.numbers == [0, 2]
    assert run.retry == {0: 2, 2: 2}
    assert run.rows_todo == 4
    said = intentions(run)
    assert said[0].startswith("6 images in 3 shards, 0 of them in 0 shards to do;")
    assert "4 error rows in 2 other shards are done again." in said
    first = run.shards[0]
    failed = failed_items(first, run.expected)
    assert [item.id for item in failed] == ["empty.jpg"]
    before = pq.read_table(shard_uri(out, 0))
    redone = rows_table([row for item in failed for row in rows_of(item, 2, mark=b"better")])
    whole = with_kept_rows(first, InputColumns(run.shards.input_columns).add(redone, failed), run.expected)
    commit_shard(first, whole, run.expected)
    after = pq.read_table(shard_uri(out, 0))
    assert after["image"].to_pylist()[:2] == [b"betterempty.jpg"] * 2
    assert after["step"].to_pylist() == [0, 1, 0, 1]
    assert after.slice(2).equals(before.slice(2))
    report = verify_output(out)
    assert report.complete
    assert report.errors == 2
    assert prepared(configure, folder, retry_failed=True).todo.numbers == [2]


def test_retry_does_a_shard_that_is_damaged_by_then_as_a_whole(written, tmp_path):
    out, shard = str(tmp_path / "out"), written.shards[0]
    with open(shard_uri(out, 0), "r+b") as file:  # noqa: PTH123
        file.truncate(300)
    assert failed_items(shard, written.expected) == shard.items
    redone = rows_table([row for item in shard.items for row in rows_of(item, 2)])
    assert with_kept_rows(shard, redone, written.expected) is redone


@pytest.mark.parametrize("when", ["before", "between"])
def test_retry_never_ends_over_rows_that_cannot_be_kept(written, tmp_path, when):
    """A flipped bit in a kept image, before the retry or while it works: all of the shard's images are done again."""
    shard, expected, path = written.shards[0], written.expected, tmp_path / "out" / "shards" / "shard-000000.parquet"

    def flip():
        data = bytearray(path.read_bytes())
        data[data.index(b"imagephoto-0.jpg")] ^= 1
        path.write_bytes(data)

    if when == "before":
        flip()
        assert failed_items(shard, expected) == shard.items
        return
    failed = failed_items(shard, expected)
    assert [item.id for item in failed] == ["empty.jpg"]
    flip()
    asked = []

    def edit(items):
        asked.extend(item.id for item in items)
        return rows_table([row for item in items for row in rows_of(item, 2, mark=b"again")])

    shared = Shared(None, None, None, None, None, written.config, "w", written.fingerprint, frozenset({0}), None)
    table = rows_table([row for item in failed for row in rows_of(item, 2, mark=b"better")])
    summary = finish_shard(shared, InputColumns(pa.schema([])), expected, shard, table, edit)
    assert (summary.rows, asked) == (2, ["photo-0.jpg"])
    images = pq.read_table(path)["image"].to_pylist()
    assert images == [b"betterempty.jpg"] * 2 + [b"againphoto-0.jpg"] * 2
    assert 0 not in verify_output(str(tmp_path / "out")).damaged


@pytest.mark.parametrize("mode", ["overwrite", "error"])
@pytest.mark.parametrize("option", ["extend", "retry_failed"])
def test_extending_and_retrying_want_mode_resume(mode, option):
    with pytest.raises(SettingsError, match="--mode is"):
        RunConfig(mode=mode, **{option: True})


def test_other_settings_are_refused_before_anything_is_extended(written, configure, folder, tmp_path):
    shutil.copy(folder / "photo-1.jpg", folder / "new.jpg")
    with pytest.raises(SettingsError, match="size was 64 and is 96 now"):
        prepared(configure, folder, extend=True, size=96)
    assert len(load_plan(str(tmp_path / "out"))) == 3
