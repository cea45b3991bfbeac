"""How many actors of each kind fit on a cluster, and what each of them asks Ray for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmt_ray.config import ComputeConfig
from dmt_ray.errors import SettingsError

#: Torch threads of a CPU actor when the option is left alone: more actors use many cores better than more threads.
DEFAULT_THREADS = 4
#: Beyond this many threads one image batch gains next to nothing.
MAX_THREADS = 8
#: With at least so many GPU slots, some of them go to the traversal whole; below, traversal shares a slot.
WHOLE_SLOTS = 5


@dataclass(frozen=True)
class ActorPlan:
    """One pool: how many actors, and what each asks for."""

    actors: int
    num_cpus: float
    num_gpus: float
    threads: int

    def __str__(self) -> str:
        share = f"{self.num_gpus:g} GPU" if self.num_gpus else f"{self.num_cpus:g} CPU"
        return f"{self.actors} x ({share}, {self.threads} torch threads)"


@dataclass(frozen=True)
class PoolPlan:
    """Both pools. Their sums stay below what the cluster has, so that Ray's own tasks always find a CPU."""

    traversal: ActorPlan
    reconstruction: ActorPlan


def plan_pools(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig, shards: int | None = None) -> PoolPlan:
    """Size both pools for a cluster.

    Parameters:
        nodes: Ray resources of each living node, such as ``{"CPU": 16.0, "GPU": 1.0}``.
        compute: options; what is None is decided here.
        shards: how many there are to do; few of them get more threads each.

    On GPUs an actor asks for no CPU at all, because a pool that holds every CPU starves Ray's own tasks. On CPUs an
    actor asks for half the cores that its torch threads use, for the same reason. Reconstruction is more
    work than traversal, whose search grows with the references, so its pool is larger.

    Raises:
        SettingsError: the cluster has neither CPUs nor GPUs, or the options ask for more GPUs than it has.
    """
    if sum(node.get("GPU", 0) for node in nodes) > 0:
        return _plan_gpus(nodes, compute)
    return _plan_cpus(nodes, compute, shards)


def _plan_gpus(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig) -> PoolPlan:
    share = compute.gpus_per_actor
    gpus = sum(node.get("GPU", 0) for node in nodes)
    slots = sum(math.floor(node.get("GPU", 0) / share + 1e-9) for node in nodes)
    if slots < 1:
        raise SettingsError(
            f"--gpus-per-actor is {share:g}, but no node of the cluster has so many GPUs ({gpus:g} in all)."
        )
    asked_t, asked_r = compute.traversal_actors, compute.reconstruction_actors
    if slots < WHOLE_SLOTS and asked_t in (None, 1) and (asked_r is None or asked_r <= slots):
        # A whole slot for the smaller part of the work would waste it: the traversal lives beside a reconstruction.
        traversal, reconstruction = 1, asked_r or slots
        traversal_share, reconstruction_share = share / 4, share * 3 / 4
    else:
        traversal_share = reconstruction_share = share
        traversal = asked_t or max(1, min(slots - (asked_r or 1), round(slots / 6)))
        reconstruction = asked_r or max(1, slots - traversal)
        if traversal + reconstruction > slots:
            raise SettingsError(
                f"{reconstruction} reconstruction actors and {traversal} traversal actors at --gpus-per-actor "
                f"{share:g} need {(traversal + reconstruction) * share:g} GPUs; the cluster has {gpus:g}."
            )
    threads = compute.threads_per_actor or DEFAULT_THREADS
    return PoolPlan(
        ActorPlan(traversal, 0, _round(traversal_share), threads),
        ActorPlan(reconstruction, 0, _round(reconstruction_share), threads),
    )


def _plan_cpus(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig, shards: int | None) -> PoolPlan:
    cores = [math.floor(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    total = sum(cores)
    if total < 1:
        raise SettingsError("The Ray cluster has no CPUs and no GPUs to run on.")
    asked = compute.reconstruction_actors
    per_shard = min(MAX_THREADS, total // shards) if shards else 0
    threads = compute.threads_per_actor or min(max(cores), max(DEFAULT_THREADS, per_shard))
    if asked is not None and compute.threads_per_actor is None:
        threads = max(1, min(MAX_THREADS, max(cores), total // asked))
    reconstruction = asked or max(1, sum(core // threads for core in cores))
    traversal = compute.traversal_actors or max(1, round(reconstruction / 4))
    # Half a CPU per thread, but never so much that less than one CPU is left (on one CPU: half of it).
    free = total - 1 if total > 1 else 0.5
    traversal_cpus = min(0.5 if total > 2 else 0.25, free / 2 / traversal)
    reconstruction_cpus = min(
        threads / 2 if total > 2 else 0.25, (free - traversal * traversal_cpus) / reconstruction
    )
    return PoolPlan(
        ActorPlan(traversal, _round(traversal_cpus), 0, threads),
        ActorPlan(reconstruction, _round(reconstruction_cpus), 0, threads),
    )


def _round(share: float) -> float:
    """Cut a resource to Ray's resolution of 1/10,000, downwards so that sums still fit."""
    return share if share == int(share) else max(1, math.floor(share * 10_000 + 1e-6)) / 10_000
