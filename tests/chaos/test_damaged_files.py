"""Shards that are damaged after they were committed."""

import os
import subprocess

import pytest

from chaos.conftest import PATIENCE, attached, command_line, shard_files
from dmt_ray import cli
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def test_truncated_and_missing_shards_are_found_and_made_again(options, same, tmp_path):
    out = tmp_path / "out"
    assert subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE).returncode == 0
    before = shard_files(out)
    cut, gone, *_ = sorted((out / "shards").glob("shard-*"))
    os.truncate(cut, cut.stat().st_size - 1)
    gone.unlink()
    assert cli.main(["verify", str(out)]) == 3
    report = verify_output(str(out))
    assert list(report.damaged) == [0]
    assert report.missing == ["photo-0", "photo-1", "photo-2", "photo-3"]
    assert subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE).returncode == 0
    after = shard_files(out)
    assert {name for name in after if after[name] != before[name]} == {cut.name, gone.name}
    same(out)
