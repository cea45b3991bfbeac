"""What verify finds in an output that was damaged in one way at a time, and that a resume would put it right."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole_output import STRENGTHS, error_row, row, todo

from dmt_ray import cli
from dmt_ray import output as output_package
from dmt_ray.output.commit import commit_shard, shard_uri, write_shard
from dmt_ray.output.discard import discard_unsound
from dmt_ray.output.rows import consistent
from dmt_ray.output.schema import (
    SCHEMA_VERSION,
    rows_table,
)
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.prepare import prepare_run, write_run
from dmt_ray.pipeline.run import run_job


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
    write_shard(str(path.parent.parent), 1, rows, "0" * 64)


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
    assert "1 file was moved aside" in capsys.readouterr().out
    assert todo(configure) == [0]


def test_an_image_that_was_spoiled_before_it_was_written(out, fingerprint):
    table = pq.read_table(shard_uri(out, 0))
    images = [b"no picture" if index == 3 else value for index, value in enumerate(table["image"].to_pylist())]
    place = table.schema.get_field_index("image")
    spoiled = table.set_column(place, table.schema.field(place), pa.array(images, pa.large_binary()))
    write_shard(out, 0, spoiled, fingerprint)
    assert verify_output(out).complete
    report = verify_output(out, deep=True)
    assert report.damaged_images == ["photo-0.jpg"]
    assert "1 image is damaged" in report.damaged[0]


def test_an_image_that_cannot_be_decoded_though_its_checksum_is_right(out, fingerprint):
    rows = [
        row("empty.jpg"),
        row("empty.jpg", 1),
        row("photo-0.jpg"),
        row("photo-0.jpg", 1) | {"image": b"no picture"},
    ]
    write_shard(out, 0, rows_table(rows), fingerprint)
    assert verify_output(out, deep=True).damaged_images == ["photo-0.jpg"]


def test_a_row_twice_in_place_of_its_other_step(out, fingerprint):
    rows = [row("empty.jpg"), row("empty.jpg", 1), row("photo-0.jpg"), row("photo-0.jpg")]
    write_shard(out, 0, rows_table(rows), fingerprint)
    report = verify_output(out)
    assert (report.missing, report.duplicated) == (["photo-0.jpg"], ["photo-0.jpg"])
    assert not report.complete


def test_a_shard_that_is_not_in_the_plan(out, fingerprint, configure):
    write_shard(out, 7, rows_table([row("photo-0.jpg"), row("stranger.jpg")]), fingerprint)
    report = verify_output(out)
    assert report.strangers == ["shard-000007.parquet"]
    assert (report.duplicated, report.unplanned) == (["photo-0.jpg"], ["stranger.jpg"])
    assert not report.complete
    Path(shard_uri(out, 1)).unlink()
    rows = [row(id_, step) for id_ in ("photo-1.jpg", "photo-2.jpg") for step in range(2)]
    write_shard(out, 7, rows_table(rows), fingerprint)
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


def test_commit_refuses_what_verify_would_refuse(configure, tmp_path):
    run = prepare_run(configure(strength=STRENGTHS))
    write_run(run)
    shard = run.shards[0]
    good = [row(item.id, step) for item in shard.items for step in range(2)]
    spoiled = {
        "lacks 1 row ": good[:3],
        "has 1 row beyond": [*good, good[0]],
        "not in the plan's order": good[2:] + good[:2],
        "neither ok nor error": [good[0] | {"status": "fine"}, *good[1:]],
        "psnr_to_input is not a finite number": [good[0] | {"psnr_to_input": float("nan")}, *good[1:]],
        "strength is not a finite number": [good[0] | {"strength": float("inf")}, *good[1:]],
        "ok without displacement_norm": [good[0] | {"displacement_norm": None}, *good[1:]],
        "ok without image": [good[0] | {"image": None}, *good[1:]],
        "ok without width": [good[0] | {"width": None}, *good[1:]],
        "ok and has error": [good[0] | {"error": "no"}, *good[1:]],
        "some of its steps are ok": [error_row(good[0]["id"]), *good[1:]],
        "error row without error": [*good[:2], *(error_row(good[2]["id"], s) | {"error": None} for s in (0, 1))],
        "verdict_after is not a finite number": [good[0] | {"verdict_after": float("inf")}, *good[1:]],
        "has one verdict without the other": [good[0] | {"verdict_before": -1.0}, *good[1:]],
        "has flipped without verdicts": [good[0] | {"flipped": True}, *good[1:]],
        "error row with flipped": [*good[:2], *(error_row(good[2]["id"], s) | {"flipped": True} for s in (0, 1))],
        "error row with width": [*good[:2], *(error_row(good[2]["id"], s) | {"width": 3} for s in (0, 1))],
    }
    for reason, rows in spoiled.items():
        with pytest.raises(ValueError, match=reason):
            commit_shard(shard, rows_table(rows), run.expected)
        write_shard(run.expected.output, 0, rows_table(rows), run.fingerprint)
        report = verify_output(run.expected.output)
        assert 0 in report.damaged or set(report.missing + report.duplicated) & {item.id for item in shard.items}
        made = consistent(rows_table(rows), shard.items, run.expected)
        commit_shard(shard, made, run.expected)
        assert 0 not in verify_output(run.expected.output, deep=True).damaged
    made = consistent(rows_table(spoiled["psnr_to_input is not a finite number"]), shard.items, run.expected)
    assert made["error_type"].to_pylist() == ["not-finite", "not-finite", None, None]
    assert made["image"].null_count == 2
    assert "psnr_to_input" in made["error"][0].as_py()
    sound = rows_table(good)
    assert (
        consistent(sound, shard.items, run.expected)
        .drop_columns("image_sha256")
        .equals(sound.drop_columns("image_sha256"))
    )


def test_the_footer_says_version_and_errors(out):
    keys = pq.ParquetFile(shard_uri(out, 2)).metadata.metadata
    assert keys[b"dmt_ray.schema_version"] == str(SCHEMA_VERSION).encode()
    assert keys[b"dmt_ray.errors"] == b"2"


def add_strangers(out):
    """Put copies and other files beside the shards; return their names."""
    shards = Path(out, "shards")
    names = ["part-00000.parquet", "shard-000001 (1).parquet", "shard-0000002.parquet", "shard-000001.parquet.bak"]
    for name in names:
        shutil.copy(shard_uri(out, 1), shards / name)
    (shards / "notes").mkdir()
    (shards / "shard-99999999999999999999.parquet").write_bytes(b"?")
    (shards / ".hidden").write_bytes(b"?")
    return sorted([*names, "notes", "shard-99999999999999999999.parquet"])


def test_strangers_are_named_and_moved_aside(out, configure, capsys, caplog):
    names = add_strangers(out)
    rows = len(pq.read_table(shard_uri(out, 1)))
    report = verify_output(out)
    assert report.strangers == names
    assert not report.complete
    assert not report.damaged
    assert report.duplicated == ["photo-1.jpg", "photo-2.jpg"]
    assert report.rows == 12 + 4 * rows
    assert cli.main(["verify", out]) == 3
    assert "6 names in shards/ are of no planned shard: notes, part-00000.parquet" in capsys.readouterr().out
    assert todo(configure) == []
    assert "part-00000.parquet" in caplog.text
    said = []
    assert run_job(configure(strength=STRENGTHS, max_error_rate=1.0), said.append) == 3
    assert any("part-00000.parquet" in line for line in said)
    assert cli.main(["verify", out, "--discard"]) == 3
    assert "5 files were moved aside" in capsys.readouterr().out
    assert sorted(path.name for path in Path(out, "discarded").iterdir()) == [n for n in names if n != "notes"]
    Path(out, "shards", "notes").rmdir()
    assert verify_output(out, deep=True).complete


def test_discarded_files_are_kept_under_free_names(out):
    for content in (b"one", b"two"):
        Path(shard_uri(out, 1)).write_bytes(content)
        moved = discard_unsound(out, verify_output(out))
        assert Path(moved[0]).read_bytes() == content
    assert sorted(path.name for path in Path(out, "discarded").iterdir()) == [
        "shard-000001.parquet",
        "shard-000001.parquet.1",
    ]
    assert verify_output(out).strangers == []


def test_the_run_record_of_another_run_discards_nothing(out, capsys):
    before = {path.name for path in Path(out, "shards").iterdir()}
    record = json.loads(Path(out, "run.json").read_text())
    for change in ({"fingerprint": "0" * 64}, {"steps": 1, "fingerprint": "0" * 64}, {"schema_version": 2}):
        Path(out, "run.json").write_text(json.dumps(record | change))
        assert cli.main(["verify", out, "--discard"]) == 2
        assert "Nothing was moved" in capsys.readouterr().err
    assert {path.name for path in Path(out, "shards").iterdir()} == before
    assert not Path(out, "discarded").exists()
    Path(out, "run.json").write_text(json.dumps(record))
    assert verify_output(out, deep=True).complete


def test_flips_are_counted_by_step(configure, tmp_path):
    run = prepare_run(configure(strength=STRENGTHS, shard_size=6))
    write_run(run)
    verdicts = {"verdict_before": -1.0, "verdict_after": 1.0}
    judged = {
        ("photo-0.jpg", 0): False,
        ("photo-0.jpg", 1): True,
        ("photo-1.jpg", 1): True,
        ("photo-2.jpg", 1): False,
    }
    rows = [
        row(item.id, step) | (verdicts | {"flipped": judged[item.id, step]} if (item.id, step) in judged else {})
        for item in run.shards[0].items
        for step in range(2)
    ]
    commit_shard(run.shards[0], rows_table(rows), run.expected)
    assert verify_output(str(tmp_path / "out")).flips == {0: (0, 1), 1: (2, 3)}


def test_files_of_several_pages_and_truncated_ones_are_counted_once(configure, tmp_path):
    run = prepare_run(configure(strength=STRENGTHS, shard_size=6))
    write_run(run)
    facts = {"photo-0.jpg": (3, False), "photo-1.jpg": (1, True), "photo-2.jpg": (None, False)}
    rows = []
    for item in run.shards[0].items:
        frames, truncated = facts.get(item.id, (1, False))
        rows += [row(item.id, step) | {"frames": frames, "truncated": truncated} for step in range(2)]
    commit_shard(run.shards[0], rows_table(rows), run.expected)
    report = verify_output(str(tmp_path / "out"))
    assert (report.paged, report.truncated) == (1, 1)
    said = "\n".join(report.sentences())
    assert "1 file has more than one frame or page; the first was taken" in said
    assert "1 file is truncated, and what could be decoded was taken." in said


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_checking_needs_neither_torch_nor_ray_and_little_memory(out):
    modules = [path.stem for path in Path(output_package.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert len(modules) >= 10
    code = "import importlib, sys\n" + "".join(f"importlib.import_module('dmt_ray.output.{m}')\n" for m in modules)
    subprocess.run([sys.executable, "-c", code + "assert not {'torch', 'ray'} & set(sys.modules)"], check=True)
    code = (
        "import re, sys; from dmt_ray import cli; code = cli.main(sys.argv[1:]);"
        "assert not {'torch', 'ray'} & set(sys.modules);"
        "print('peak', re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, "verify", out], capture_output=True, text=True, check=True)
    assert int(done.stdout.split("peak")[1]) < 200 * 1024
