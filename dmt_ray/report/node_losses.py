"""What lost nodes cost, by the size of a shard: a seeded simulation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np

#: A run that takes more than so many times as long as without losses is given up: no node lives as long as a shard.
LONGEST = 50


@dataclass(frozen=True)
class Losses:
    """What became of a simulated run, or of several on average.

    Attributes:
        hours: from the first shard's begin to the last one's end.
        lost: share of the work that was done in vain, 0 to 1.
        idle: share of the actors' time until the end in which they had nothing to do or no node.
        nodes: how many were lost.
    """

    hours: float
    lost: float
    idle: float
    nodes: float


def mean_losses(runs: Iterable[Losses]) -> Losses:
    """Return the mean of several runs."""
    hours, lost, idle, nodes = (math.fsum(values) / len(values) for values in zip(*map(astuple, runs), strict=True))
    return Losses(hours, lost, idle, nodes)


def simulate_losses(
    shards: int,
    hours_per_shard: float,
    nodes: int,
    actors_per_node: int,
    *,
    losses_per_node_day: float,
    hours_to_replace: float,
    seed: int,
) -> Losses:
    """Let a fleet of equal actors do equal shards while its nodes are lost at random and replaced.

    A lost node costs the work that its actors had begun; these shards are begun again by whoever is free. An actor
    takes the next shard when it has finished one, so who does which does not matter, only when each begins.

    Parameters:
        shards: how many there are to do.
        hours_per_shard: that an actor takes.
        nodes: of the fleet.
        actors_per_node: that each of them has. They begin together.
        losses_per_node_day: how often a node is lost, on average; the times between losses are exponential.
        hours_to_replace: until another node is in its place.
        seed: the same seed and parameters give the same result.
    """
    rounds = math.ceil(shards / actors_per_node)  # a round: one shard on each actor of a node
    ideal = math.ceil(rounds / nodes) * hours_per_shard
    random = np.random.default_rng(seed)
    horizon = 2 * ideal
    while True:
        lives = np.concatenate(
            [_lives(random, horizon, losses_per_node_day / 24, hours_to_replace) for _ in range(nodes)]
        )
        begins = _begins(lives, hours_per_shard, horizon)
        if len(begins) >= rounds:
            break
        if horizon > LONGEST * ideal:
            return Losses(math.inf, 1.0, 0.0, int(np.isfinite(lives[:, 1]).sum()))
        horizon *= 2
    last = float(np.partition(begins, rounds - 1)[rounds - 1])
    end = last + hours_per_shard
    lost_nodes = lives[lives[:, 1] < end]
    begun = (lost_nodes[:, 1] - lost_nodes[:, 0]) % hours_per_shard
    begun = begun[lost_nodes[:, 1] - begun <= last]  # later, there was nothing left to begin
    useful, lost = rounds * hours_per_shard, float(begun.sum())
    return Losses(end, lost / (useful + lost), max(0.0, 1 - (useful + lost) / (nodes * end)), len(lost_nodes))


def _lives(random: np.random.Generator, horizon: float, rate: float, gap: float) -> np.ndarray:
    """Return (N, 2): when a node and its successors came and were lost, until ``horizon``, at ``rate`` per hour."""
    if rate == 0:
        return np.array([[0.0, math.inf]])
    expected = horizon * rate
    lengths = random.exponential(1 / rate, math.ceil(expected + 8 * math.sqrt(expected) + 8))
    comes = np.concatenate([[0.0], np.cumsum(lengths + gap)[:-1]])
    lives: np.ndarray = np.stack([comes, comes + lengths], 1)[comes < horizon]
    return lives


def _begins(lives: np.ndarray, each: float, horizon: float) -> np.ndarray:
    """Return when the rounds begin that are finished, ``each`` hours long, until ``horizon``."""
    counts = np.floor((np.minimum(lives[:, 1], horizon) - lives[:, 0]) / each).astype(np.int64)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    begins: np.ndarray = np.repeat(lives[:, 0], counts) + (np.arange(counts.sum()) - firsts) * each
    return begins
