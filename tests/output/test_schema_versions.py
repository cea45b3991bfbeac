"""Outputs of earlier and later versions: which columns are whose, and what may be done with them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from older import make_older
from whole_output import STRENGTHS, error_row, row

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.output.compact import compact
from dmt_ray.output.expected import Expected
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.rows import judge_rows, with_checksums
from dmt_ray.output.schema import (
    ROW_SCHEMAS,
    SCHEMA_VERSION,
    column_name,
    row_schema,
    rows_table,
)
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.storage.inputs.listing import InputItem

ITEMS = (InputItem("a", "a"), InputItem("b", "b"))


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_an_older_output_is_verified_by_its_own_version(out, configure, tmp_path, capsys, version, statistics):
    assert len(ROW_SCHEMAS[version]) == {1: 30, 2: 31, 3: 33, 4: 36, 5: 39}[version]
    assert ("path" if version < 5 else "animation") in ROW_SCHEMAS[version].names
    assert ("animation" if version < 5 else "path") not in ROW_SCHEMAS[version].names
    make_older(out, version, statistics=statistics)
    report = verify_output(out, deep=True)
    assert report.complete
    assert (report.schema_version, report.errors) == (version, 2)
    assert cli.main(["verify", out, "--discard"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"Its schema version is {version}") == 1
    assert "0 files were moved aside" in said
    for options in ({}, {"retry_failed": True}, {"extend": True}):
        with pytest.raises(
            SettingsError, match=f"schema version {version}, and this program writes version {SCHEMA_VERSION}"
        ):
            prepare_run(configure(strength=STRENGTHS, **options))
    dest = str(tmp_path / "dest")
    assert compact(out, dest, 10**9).complete
    part = pq.ParquetFile(Path(dest, "part-000000.parquet"))
    assert part.schema_arrow.names == ROW_SCHEMAS[version].names
    assert part.metadata.metadata[b"dmt_ray.schema_version"] == str(version).encode()
    assert part.metadata.metadata[b"dmt_ray.errors"] == b"2"
    assert cli.main(["verify", dest, "--deep"]) == 0


def test_a_column_of_a_later_version_is_the_inputs_own_in_an_earlier_one():
    own = pa.schema([("flipped", pa.string()), ("verdict_before", pa.float64())])
    rows = rows_table([row("a"), error_row("b")])
    rows = rows.rename_columns([column_name(name, 3) for name in rows.column_names]).select(ROW_SCHEMAS[3].names)
    rows = rows.append_column("flipped", pa.array(["over", "over"]))
    rows = rows.append_column("verdict_before", pa.array([float("nan"), 1.0]))
    expected = Expected("out", 1, "f", own, version=3)
    assert rows.schema == row_schema(own, 3)
    judged = judge_rows(rows.set_column(9, "image_sha256", pa.array(["0", None])), Shard(0, ITEMS), expected)
    assert (judged.faults, judged.errors) == ({}, 1)


@pytest.mark.parametrize(
    ("version", "own", "inputs"), [(4, "path", "animation"), (SCHEMA_VERSION, "animation", "path")]
)
def test_the_animation_is_a_result_under_the_name_of_its_version(version, own, inputs):
    rows = rows_table([row("a"), error_row("b")])
    rows = rows.rename_columns([column_name(name, version) for name in rows.column_names])
    rows = rows.select(ROW_SCHEMAS[version].names)
    rows = with_checksums(rows.append_column(inputs, pa.array(["a file name", "another"])))
    expected = Expected("out", 1, "f", pa.schema([(inputs, pa.string())]), version=version)
    assert rows.schema == expected.schema
    assert judge_rows(rows, Shard(0, ITEMS), expected).faults == {}
    place = rows.column_names.index(own)
    moving = rows.set_column(place, own, pa.array([None, b"x"], pa.large_binary()))
    assert judge_rows(moving, Shard(0, ITEMS), expected).faults["b"].reason == f"it is an error row with {own}"


def test_a_column_of_the_input_may_be_called_path():
    assert output_fields(pa.schema([("path", pa.string()), ("animation", pa.string())])).names == [
        "path",
        "input_animation",
    ]


def test_a_later_version_is_refused_and_nothing_is_called_damaged(out, configure, capsys):
    record = json.loads(Path(out, "run.json").read_text())
    Path(out, "run.json").write_text(json.dumps(record | {"schema_version": SCHEMA_VERSION + 1}))
    assert cli.main(["verify", out, "--discard"]) == 2
    later = f"schema version {SCHEMA_VERSION + 1}"
    assert f"{later}, and this program knows versions up to {SCHEMA_VERSION}" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=later):
        prepare_run(configure(strength=STRENGTHS))
    Path(out, "run.json").write_text(json.dumps(record | {"schema_version": "x"}))
    assert cli.main(["verify", out]) == 2
    assert "damaged" in capsys.readouterr().err
