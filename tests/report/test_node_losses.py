"""Simulated runs whose nodes are lost: against a simulation event by event, and against what theory says."""

import heapq
import math

import numpy as np
import pytest

from dmt_ray.report import node_losses
from dmt_ray.report.node_losses import mean_losses, simulate_losses


def _simulate(shards=4000, each=0.1, nodes=8, actors=4, losses=2.0, replace=0.25, seed=0):
    return simulate_losses(
        shards, each, nodes, actors, losses_per_node_day=losses, hours_to_replace=replace, seed=seed
    )


def test_without_losses_nothing_is_lost():
    found = _simulate(losses=0.0)
    assert (found.lost, found.nodes) == (0, 0)
    assert found.hours == pytest.approx(4000 / 32 * 0.1)
    assert found.idle == pytest.approx(0, abs=1e-9)


def test_the_last_round_leaves_some_idle():
    found = _simulate(shards=33, losses=0.0)
    assert found.hours == pytest.approx(0.2)
    assert found.idle == pytest.approx(1 - 36 / 64)  # the actors of a node begin together


def test_the_same_seed_gives_the_same_run():
    assert _simulate(seed=3) == _simulate(seed=3)
    assert _simulate(seed=3) != _simulate(seed=4)


def test_lost_work_grows_with_the_shard():
    """A loss costs half a shard of each of its actors on average, as long as nodes live much longer than that."""
    for each, shards in ((0.05, 40000), (0.2, 10000), (0.8, 2500)):
        found = mean_losses(_simulate(shards=shards, each=each, seed=seed) for seed in range(20))
        assert found.lost == pytest.approx(2 / 24 * each / 2, rel=0.12)


def test_shards_that_outlive_their_nodes_never_end():
    assert _simulate(shards=100, each=400.0, losses=24.0).hours == math.inf


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("each", [0.1, 1.7])
def test_an_event_at_a_time(seed, each, monkeypatch):
    """Another simulation of the same nodes: a queue of shards, and a heap of who is free when."""
    lives = {}
    draw = node_losses._lives

    def remembered(random, horizon, rate, gap):
        drawn = draw(random, horizon, rate, gap)
        lives.setdefault(horizon, []).append(drawn)
        return drawn

    monkeypatch.setattr(node_losses, "_lives", remembered)
    found = _simulate(shards=400, each=each, actors=1, losses=6.0, seed=seed)
    nodes = lives[max(lives)]
    free = [(came, node, index) for node, drawn in enumerate(nodes) for index, (came, _) in enumerate(drawn)]
    heapq.heapify(free)
    waiting, ends, lost = [0.0] * 400, [], []  # a shard waits from the moment when it can be begun
    while waiting:
        now, node, index = heapq.heappop(free)
        if waiting[0] > now:
            heapq.heappush(free, (waiting[0], node, index))
            continue
        gone = nodes[node][index][1]
        if now >= gone:
            continue
        heapq.heappop(waiting)
        if now + each <= gone:
            ends.append(now + each)
            heapq.heappush(free, (now + each, node, index))
        else:
            lost.append(gone - now)
            heapq.heappush(waiting, gone)
    assert len(ends) == 400
    assert found.hours == pytest.approx(max(ends), rel=0.02)
    assert found.lost == pytest.approx(sum(lost) / (400 * each + sum(lost)), rel=0.1, abs=0.002)
    assert np.isfinite(found.idle)
