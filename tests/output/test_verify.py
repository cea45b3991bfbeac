"""What verify finds in an output that was damaged in one way at a time, and that a resume would put it right."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray import cli
from dmt_ray.output.commit import commit_shard, rows_table, shard_uri
from dmt_ray.output.verify import discard_unsound, verify_output
from dmt_ray.pipeline.prepare import prepare_run, write_run
from dmt_ray.storage.images import encode_image

STRENGTHS = (1.0, 2.0)


def row(id_, step=0, seed=0):
    picture = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return {
        "id": id_,
        "step": step,
        "strength": STRENGTHS[step],
        "status": "ok",
        "displacement_norm": 1.0,
        "image": encode_image(picture, "png", 95),
        "image_format": "png",
        "width": 16,
        "height": 12,
    }


def error_row(id_, step=0):
    return {"id": id_, "step": step, "strength": STRENGTHS[step], "status": "error", "error_type": "e", "error": "x"}


@pytest.fixture
def out(configure, tmp_path):
    """A whole output: three shards of two images in two steps; the last image has error rows."""
    run = prepare_run(configure(strength=STRENGTHS))
    write_run(run)
    for shard in run.shards:
        rows = [
            error_row(item.id, step) if item.id == "truncated.jpg" else row(item.id, step)
            for item in shard.items
            for step in range(2)
        ]
        commit_shard(str(tmp_path / "out"), shard.number, [rows_table(rows)], run.fingerprint)
    return str(tmp_path / "out")


@pytest.fixture
def fingerprint(out):
    from dmt_ray.output.run_record import recorded_fingerprint

    return recorded_fingerprint(out)


def todo(configure):
    return prepare_run(configure(strength=STRENGTHS)).todo.numbers


def test_a_whole_output(out, configure, capsys):
    report = verify_output(out, deep=True)
    assert report.complete
    assert (report.planned, report.steps, report.rows, report.errors) == (6, 2, 12, 2)
    assert cli.main(["verify", out, "--deep"]) == 0
    assert "Every checksum is right" in capsys.readouterr().out
    assert todo(configure) == []


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path):
    path.write_bytes(b"")


def of_other_settings(path: Path):
    rows = pq.read_table(path)
    commit_shard(str(path.parent.parent), 1, [rows], "0" * 64)


def of_other_columns(path: Path):
    pq.write_table(pq.read_table(path).drop_columns(["psnr_to_input"]), path)


def a_row_short(path: Path):
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut, "magic bytes"),
        (emptied, "size is 0 bytes"),
        (of_other_settings, "other settings or of other images"),
        (of_other_columns, "columns are not this run's: psnr_to_input"),
        (a_row_short, "3 rows and the plan wants 4"),
    ],
)
def test_a_damaged_shard_is_named_and_will_be_redone(out, configure, capsys, harm, reason):
    harm(Path(shard_uri(out, 1)))
    report = verify_output(out)
    assert not report.complete
    assert reason in report.damaged[1]
    assert report.missing == ["photo-1.jpg", "photo-2.jpg"]
    assert report.rows == 8
    assert cli.main(["verify", out]) == 3
    assert "damaged: shard-000001.parquet" in capsys.readouterr().out
    assert todo(configure) == [1]


def test_a_missing_shard(out, configure):
    Path(shard_uri(out, 2)).unlink()
    report = verify_output(out)
    assert report.missing == ["photo-3.jpg", "truncated.jpg"]
    assert not report.damaged
    assert not report.complete
    assert todo(configure) == [2]


def test_a_flipped_bit_is_found_by_the_deep_check_and_discarded(out, configure, capsys):
    path = Path(shard_uri(out, 0))
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 40
    data[place] ^= 1
    path.write_bytes(data)
    assert verify_output(out).complete  # the quick check never looks at images
    report = verify_output(out, deep=True)
    assert list(report.damaged) == [0]
    assert "checksum" in report.damaged[0].lower() or "crc" in report.damaged[0].lower()
    assert cli.main(["verify", out, "--deep", "--discard"]) == 3
    assert "1 files were deleted" in capsys.readouterr().out
    assert todo(configure) == [0]


def test_an_image_that_was_spoiled_before_it_was_written(out, fingerprint):
    table = pq.read_table(shard_uri(out, 0))
    images = [b"no picture" if index == 3 else value for index, value in enumerate(table["image"].to_pylist())]
    place = table.schema.get_field_index("image")
    spoiled = table.set_column(place, table.schema.field(place), pa.array(images, pa.large_binary()))
    commit_shard(out, 0, [spoiled], fingerprint)
    assert verify_output(out).complete
    report = verify_output(out, deep=True)
    assert report.damaged_images == ["photo-0.jpg"]
    assert "1 images are damaged" in report.damaged[0]


def test_an_image_that_cannot_be_decoded_though_its_checksum_is_right(out, fingerprint):
    rows = [
        row("empty.jpg"),
        row("empty.jpg", 1),
        row("photo-0.jpg"),
        row("photo-0.jpg", 1) | {"image": b"no picture"},
    ]
    commit_shard(out, 0, [rows_table(rows)], fingerprint)
    assert verify_output(out, deep=True).damaged_images == ["photo-0.jpg"]


def test_a_row_twice_in_place_of_its_other_step(out, fingerprint):
    rows = [row("empty.jpg"), row("empty.jpg", 1), row("photo-0.jpg"), row("photo-0.jpg")]
    commit_shard(out, 0, [rows_table(rows)], fingerprint)
    report = verify_output(out)
    assert (report.missing, report.duplicated) == (["photo-0.jpg"], ["photo-0.jpg"])
    assert not report.complete


def test_a_shard_that_is_not_in_the_plan(out, fingerprint, configure):
    commit_shard(out, 7, [rows_table([row("photo-0.jpg"), row("stranger.jpg")])], fingerprint)
    report = verify_output(out)
    assert report.strangers == [7]
    assert (report.duplicated, report.unplanned) == (["photo-0.jpg"], ["stranger.jpg"])
    assert not report.complete
    Path(shard_uri(out, 1)).unlink()
    rows = [row(id_, step) for id_ in ("photo-1.jpg", "photo-2.jpg") for step in range(2)]
    commit_shard(out, 7, [rows_table(rows)], fingerprint)
    report = verify_output(out)
    assert report.misplaced == ["photo-1.jpg", "photo-2.jpg"]
    assert not report.missing
    assert not report.complete
    discard_unsound(out, report)
    assert todo(configure) == [1]


def test_pages_are_covered_by_crcs(out):
    data = bytearray(Path(shard_uri(out, 0)).read_bytes())
    file = pq.ParquetFile(io.BytesIO(bytes(data)))
    column = file.metadata.row_group(0).column(file.schema_arrow.get_field_index("status"))
    data[column.data_page_offset + column.total_compressed_size - 2] ^= 0xFF
    Path(shard_uri(out, 0)).write_bytes(data)
    assert list(verify_output(out).damaged) == [0]  # the quick check reads this column
