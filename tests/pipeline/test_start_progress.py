"""The log tells how far the start of a run is, as its ``Attempts`` knows it."""

from __future__ import annotations

import logging
import time

import pytest
import ray

from dmt_ray.pipeline import start_progress
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan
from dmt_ray.pipeline.sharing import start_attempts
from dmt_ray.pipeline.start_progress import StartProgress

POOLS = PoolPlan(traversal=ActorPlan(2, 1, 0, 1), reconstruction=ActorPlan(4, 1, 0, 1))


@pytest.fixture
def attempts(local_ray, monkeypatch):
    monkeypatch.setattr(start_progress, "ASK_S", 0.0)
    monkeypatch.setattr(start_progress, "REPEAT_S", 1000.0)
    actor = start_attempts()
    yield actor
    ray.kill(actor)


def look_until(progress, caplog, line):
    deadline = time.monotonic() + 60
    while line not in caplog.messages:
        assert time.monotonic() < deadline, caplog.messages
        progress.look()
        time.sleep(0.01)


def test_every_phase_is_told_once(attempts, caplog):
    progress = StartProgress(attempts, 40, shown=True)
    with caplog.at_level(logging.INFO, "dmt_ray"):
        ray.get(attempts.note_exemplars.remote(7))
        look_until(progress, caplog, "Exemplars: 7 of 40 read.")
        progress.wait_for_actors(POOLS, shards=3)
        for kind in ("TraversalActor", "ReconstructionActor", "ReconstructionActor", "IsolationActor"):
            ray.get(attempts.note_actor.remote(kind))
        look_until(progress, caplog, "Actors that are ready: traversal 1 of 2, reconstruction 2 of 3.")
        for _ in range(100):
            progress.look()
        for _ in range(5):  # processes that died and came again
            ray.get(attempts.note_actor.remote("TraversalActor"))
        look_until(progress, caplog, "Actors that are ready: traversal 2 of 2, reconstruction 2 of 3.")
        ray.get(attempts.note_actor.remote("ReconstructionActor"))
        ready = "Actors that are ready: traversal 2 of 2, reconstruction 3 of 3; the first shards are being done."
        look_until(progress, caplog, ready)
        progress.end()
        progress.look()
    assert "Exemplars: 40 of 40 read; learning from them." in caplog.messages
    assert len(caplog.messages) == len(set(caplog.messages)) <= 7


def test_a_run_without_progress_asks_and_tells_nothing(caplog):
    progress = StartProgress(None, 40, shown=False)
    with caplog.at_level(logging.INFO, "dmt_ray"):
        progress.look()
        progress.wait_for_actors(POOLS, shards=3)
        progress.look()
    assert caplog.messages == []
