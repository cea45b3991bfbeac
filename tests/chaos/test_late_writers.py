"""Two drivers on one output, one of whose writers comes late: after the other has done its shard again."""

import os
import subprocess

import pytest
from material import chaos_environment

from chaos.conftest import PATIENCE, attached, command_line, shard_files, until

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def test_two_drivers_at_once_and_a_writer_that_comes_late(options, same, start, tmp_path):
    """The first driver, on a Ray of its own, is held in the middle of a write until the second has finished."""
    out = tmp_path / "out"
    own_hooks = tmp_path / "hooks"
    own_hooks.mkdir()
    (own_hooks / "hold-on-write").touch()
    environment = {**os.environ, **chaos_environment(own_hooks), "RAY_ADDRESS": "local"}
    first = start(command_line(options, out), env=environment)
    until(lambda: list(own_hooks.glob("holding-*")), "the first driver to write")
    second = subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE)
    assert second.returncode == 0
    same(out, hidden=1)
    before = shard_files(out)
    (own_hooks / "release").touch()
    assert first.wait(PATIENCE) == 0
    late = {name for name, time in shard_files(out).items() if before[name] != time}
    assert late
    same(out)
