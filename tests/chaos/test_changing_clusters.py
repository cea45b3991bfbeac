"""Clusters whose nodes come and go while a run is on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from material import chaos_environment

from chaos.conftest import PATIENCE
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]

ROOT = Path(__file__).parents[2]
PHOTOS = 5


@pytest.fixture
def play(photos, tmp_path):
    """Play a scenario of ``changing_cluster`` beside a run; return what it saw, the rows, and what the run said."""

    def run(scenario: str, shards: int, seconds: float, *more: str) -> tuple[dict, pd.DataFrame, str]:
        hooks, out = tmp_path / "hooks", tmp_path / "out"
        hooks.mkdir()
        (hooks / "stage-seconds").write_text(str(seconds))
        names = [str(photos / "references" / f"{index}.png") for index in range(PHOTOS)]
        lines = ["id,uri", *(f"photo-{index:03d},{names[index % PHOTOS]}" for index in range(shards))]
        (tmp_path / "inputs.csv").write_text("\n".join(lines) + "\n")
        command = [
            *("hooked-tint", "--input", tmp_path / "inputs.csv", "--tint", photos / "references" / "0.png"),
            *("--output", out, "--size", 32, "--weights", "random:0", "--no-lpips", "--shard-size", 1),
            *("--threads-per-actor", 1, "--reconstruction-actors", "1:8", "--traversal-actors", "1:2", *more),
        ]
        environment = {**os.environ, **chaos_environment(hooks), "RAY_AUTH_MODE": "disabled"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
        environment.pop("RAY_ADDRESS", None)
        script = [sys.executable, ROOT / "tests/changing_cluster.py", scenario, tmp_path / "seen.json"]
        done = subprocess.run(
            [*map(str, script), *map(str, command)], env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        seen = json.loads((tmp_path / "seen.json").read_text())
        report = verify_output(str(out), deep=True)
        assert report.complete, report.sentences()
        rows = pd.read_parquet(str(out / "shards")).set_index("id")
        assert list(rows.index) == [f"photo-{index:03d}" for index in range(shards)]
        assert set(rows.status) == {"ok"}
        assert rows.image_sha256.nunique() == min(PHOTOS, shards)
        return seen, rows, done.stderr

    return run


def test_a_run_waits_for_its_first_node_and_takes_what_comes(play):
    seen, rows, said = play("grow", 60, 1.5)
    assert seen["began_without_nodes"] == 0
    assert seen["asked_while_waiting"] == 1
    assert seen["asked_at_the_end"] == 0
    assert seen["demand"] == 7  # of the eight reconstruction actors that it may have
    assert "The run waits up to 1800 s for more nodes" in said
    done_by = {int(worker.split(":")[1]) for worker in rows.worker}
    for pids in seen["on_two"].values():
        assert done_by & set(pids)
    assert len(done_by) >= 3  # and so did the node that came at last
    assert "its node is lost" in said or "ActorUnavailableError" in said


def test_nodes_that_are_lost_one_after_the_other_cost_their_running_shards_alone(play):
    seen, rows, said = play("spot", 100, 1.0)
    assert seen["lost"] >= 3
    assert rows.attempts.max() <= 1 + seen["lost"]
    assert (rows.attempts > 1).sum() <= 4 * seen["lost"]
    assert "one by one" not in said


def test_a_node_that_is_given_notice_ends_what_it_does_and_gets_nothing_more(play):
    seen, rows, said = play("drain", 40, 1.0)
    assert "is about to go" in said
    late = {
        int(number) for number in re.findall(r"Shard (\d+) has taken", said)
    }  # these may begin on an idle actor too
    assert {tries for shard, tries in enumerate(rows.attempts) if shard not in late} == {1}
    assert seen["left"] - seen["noticed"] <= 10


def test_nodes_that_get_sigterm_cost_at_most_what_their_actors_were_doing(play):
    """Ray drains a node whose ``ray start --block`` gets the signal; a raylet that gets it itself ends at once."""
    shards = 80
    seen, rows, said = play("terminate", shards, 1.0)
    assert seen["shards_when_drained"] < seen["shards_when_ended"] < shards
    assert "is about to go" in said
    again = rows[rows.attempts > 1]
    assert len(again) <= len(seen["ended"])
    assert rows.attempts.max() <= 2
    done_by = {int(worker.split(":")[1]) for worker in rows.worker}
    assert done_by >= set(seen["drained"])
    assert len(done_by) >= 3
    assert "one by one" not in said


def test_an_image_alone_is_not_to_blame_for_the_loss_of_its_nodes(play):
    _, rows, said = play("isolate", 1, 5.0)
    assert "its 1 image runs one by one" in said
    assert said.count("The process that ran image photo-000 alone died") == 2
    assert rows.attempts.tolist() == [6]  # three as a shard, three alone
