"""SIGKILL of the driver, again and again; the run that is let live finishes what they left."""

import random
import subprocess
import time

import pytest

from chaos.conftest import PATIENCE, attached, command_line, shard_files, until

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def test_three_killed_drivers_and_one_that_finishes(options, same, start, tmp_path):
    """At random moments of three stretches of the run: before the plan, before a first shard, among the shards."""
    out = tmp_path / "out"
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    stretches = [
        lambda: True,
        (out / "run.json").exists,
        lambda: shard_files(out),
    ]
    kept = {}
    for begun in stretches:
        driver = start(command_line(options, out), env=attached())
        until(begun, "the stretch to kill in")
        time.sleep(draw.uniform(0, 5))
        driver.kill()
        driver.wait()
        assert kept.items() <= shard_files(out).items()
        kept = shard_files(out)
    finished = subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE)
    assert finished.returncode == 0
    same(out)
