"""Actors that stop and that are slow: the run says which, goes on without them, and its rows are there once."""

from __future__ import annotations

import re

import hooked_tint_job  # noqa: F401 - registers its job
import pandas as pd
import pytest

from dmt_ray import cli
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline import stragglers

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(900)]


@pytest.fixture
def words(photos, tmp_path, hooks):
    yield [
        *("hooked-tint", "--input", str(photos / "references"), "--tint", str(photos / "references" / "0.png")),
        *(
            "--output",
            str(tmp_path / "out"),
            "--size",
            "32",
            "--weights",
            "random:0",
            "--no-lpips",
            "--shard-size",
            "1",
        ),
        *("--threads-per-actor", "1", "--traversal-actors", "1", "--no-progress"),
    ]
    for path in hooks.iterdir():
        path.unlink()


def rows_of(tmp_path):
    out = tmp_path / "out"
    report = verify_output(str(out), deep=True)
    assert report.complete, report.sentences()
    assert not list((out / "shards").glob("*.tmp*"))
    rows = pd.read_parquet(str(out / "shards")).set_index("id")
    assert sorted(rows.index) == [f"{index}.png" for index in range(5)]
    assert set(rows.status) == {"ok"}
    return rows


def test_an_actor_that_a_signal_has_stopped_is_named_with_its_stack_and_ended(words, hooks, tmp_path, caplog):
    (hooks / "stop-in-stage").touch()
    assert cli.main([*words, "--reconstruction-actors", "1", "--no-progress-timeout", "4"]) == 0
    rows = rows_of(tmp_path)
    (said,) = [line for line in caplog.messages if line.startswith("No progress for")]
    assert re.search(
        r"the reconstruction of shard \d, process \d+ on [\d.]+\. It was stopped by a signal, and is ended", said
    )
    assert "hooked_tint_job.py" in said
    assert sorted(rows.attempts) == [1, 1, 1, 1, 2]
    stopped = re.search(r"process (\d+)", said)[1]
    assert not any(worker.endswith(f":{stopped}") for worker in rows.worker)


def test_the_last_shards_of_a_slow_actor_are_done_by_an_idle_one(words, hooks, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(stragglers, "LEAST_S", 1.0)
    (hooks / "slow-process").touch()
    (hooks / "stage-seconds").write_text("0.5")
    with caplog.at_level("INFO", "dmt_ray"):
        assert cli.main([*words, "--reconstruction-actors", "2"]) == 0
    rows = rows_of(tmp_path)
    (again,) = [line for line in caplog.messages if "begins a second time" in line]
    number = int(re.search(r"Shard (\d)", again)[1])
    assert rows.attempts.iloc[number] == 2
    assert len(set(rows.worker)) == 1  # the slow actor has finished nothing
