"""How many actors of each kind fit on a cluster, and what each of them asks Ray for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dmt_ray.config import ComputeConfig, is_elastic, pool_range
from dmt_ray.errors import SettingsError
from dmt_ray.words import agreed, counted

#: Torch threads of a CPU actor when the option is left alone: more actors use many cores better than more threads.
DEFAULT_THREADS = 4
#: Beyond this many threads one image batch gains next to nothing.
MAX_THREADS = 8
#: With at least so many GPU slots, some of them go to the traversal whole; below, traversal shares a slot.
WHOLE_SLOTS = 5
#: Of the GPUs or threads of a slot in a cluster that changes, the traversal asks for so much, wherever it finds room.
_TRAVERSAL_SHARE = {"GPU": 1 / 4, "CPU": 1 / 8}


@dataclass(frozen=True)
class ActorPlan:
    """One pool: how many actors, and what each asks for."""

    actors: int
    """At most."""
    num_cpus: float
    num_gpus: float
    threads: int
    least: int | None = None
    """Actors to begin with, in a pool that grows and shrinks with the cluster; None: the cluster has room for all."""

    @property
    def share(self) -> str:
        """What each actor asks Ray for, in words."""
        return f"{self.num_gpus:g} GPU" if self.num_gpus else f"{self.num_cpus:g} CPU"

    def __str__(self) -> str:
        count = self.actors if self.least is None else f"{self.least}:{self.actors}"
        return f"{count} x ({self.share}, {counted(self.threads, 'torch thread')})"


@dataclass(frozen=True)
class PoolPlan:
    """Both pools. Unless they grow with the cluster, they find room in it as it is."""

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

    Where a pool grows with the cluster, each slot (the GPUs or threads of one actor) has room for one reconstruction
    actor and one traversal actor, whatever node it is on.

    Raises:
        SettingsError: the cluster has neither CPUs nor GPUs, or the options ask for more than it has.
    """
    if is_elastic(compute.reconstruction_actors) or is_elastic(compute.traversal_actors):
        return _plan_elastic(nodes, compute)
    if sum(node.get("GPU", 0) for node in nodes) > 0:
        return _plan_gpus(nodes, compute)
    return _plan_cpus(nodes, compute, shards)


def plan_alone(nodes: Sequence[Mapping[str, float]], tasks: int) -> ActorPlan:
    """Size a pool that has a cluster to itself: a GPU for each actor, or without GPUs the threads that runs use.

    Parameters:
        nodes: as for ``plan_pools``.
        tasks: how many there are to do; there are no more actors.

    Raises:
        SettingsError: the cluster has neither CPUs nor GPUs.
    """
    gpus = sum(math.floor(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return ActorPlan(min(gpus, tasks), 0, 1, DEFAULT_THREADS)
    plan = _plan_cpus(nodes, ComputeConfig(), tasks).reconstruction
    return replace(plan, actors=min(plan.actors, tasks))


def _plan_elastic(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig) -> PoolPlan:
    on_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    if on_gpus:
        kind, slot = "GPU", compute.gpus_per_actor
        slots = _gpu_slots(nodes, slot)
        threads = compute.threads_per_actor or DEFAULT_THREADS
    else:
        cores = _cores(nodes)
        threads = compute.threads_per_actor or min(max(cores), DEFAULT_THREADS)
        kind, slot, slots = "CPU", float(threads), sum(core // threads for core in cores)
    reconstruction = _range(compute.reconstruction_actors, (1, max(1, slots)))
    traversal = _range(compute.traversal_actors, (1, math.ceil(reconstruction[1] / 4)))
    if slots < reconstruction[0]:
        raise SettingsError(
            f"{counted(reconstruction[0], 'reconstruction actor')} of {counted(slot, kind, spec='g')} each "
            f"{agreed(reconstruction[0], 'is', 'are')} the fewest that --reconstruction-actors allows, and the "
            f"cluster has room for {slots}. Give --wait-for-workers the seconds to wait for more nodes."
        )

    def plan(size: tuple[int, int], share: float) -> ActorPlan:
        cpus, gpus = (0.0, _round(slot * share)) if on_gpus else (_round(slot * share), 0.0)
        return ActorPlan(size[1], cpus, gpus, threads, least=size[0])

    share = _TRAVERSAL_SHARE[kind]
    return PoolPlan(plan(traversal, share), plan(reconstruction, 1 - share))


def _range(size: int | str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Return the least and most actors; a plain number works with as few as there is room for."""
    if size is None:
        return default
    least, most = pool_range(size)
    return (least if is_elastic(size) else 1, most)


def _number(size: int | str | None) -> int | None:
    return None if size is None else pool_range(size)[1]


def _gpu_slots(nodes: Sequence[Mapping[str, float]], share: float) -> int:
    """Return how many actors of so many GPUs have room; each needs its GPUs on one node.

    Raises:
        SettingsError: none has.
    """
    slots = sum(math.floor(node.get("GPU", 0) / share + 1e-9) for node in nodes)
    if slots < 1:
        gpus = sum(node.get("GPU", 0) for node in nodes)
        raise SettingsError(
            f"--gpus-per-actor is {share:g}, but no node of the cluster has so many GPUs ({gpus:g} in all)."
        )
    return slots


def _cores(nodes: Sequence[Mapping[str, float]]) -> list[int]:
    """Return the whole CPUs of each node that has any.

    Raises:
        SettingsError: none has.
    """
    cores = [math.floor(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise SettingsError(
            "The Ray cluster has no CPUs and no GPUs to run on. Where its workers are still to come, give "
            "--wait-for-workers the seconds to wait for them."
        )
    return cores


def _plan_gpus(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig) -> PoolPlan:
    share = compute.gpus_per_actor
    gpus = sum(node.get("GPU", 0) for node in nodes)
    slots = _gpu_slots(nodes, share)
    asked_t, asked_r = _number(compute.traversal_actors), _number(compute.reconstruction_actors)
    if slots < WHOLE_SLOTS and asked_t in (None, 1) and (asked_r is None or asked_r <= slots):
        # A whole slot for the smaller part of the work would waste it: the traversal lives beside a reconstruction.
        traversal, reconstruction = 1, asked_r or slots
        traversal_share, reconstruction_share = share / 4, share * 3 / 4
    else:
        traversal_share = reconstruction_share = share
        traversal = asked_t or max(1, min(slots - (asked_r or 1), round(slots / 6)))
        reconstruction = asked_r or max(1, slots - traversal)
        if traversal + reconstruction > slots:
            needed = (traversal + reconstruction) * share
            raise SettingsError(
                f"{counted(reconstruction, 'reconstruction actor')} and {counted(traversal, 'traversal actor')} at "
                f"--gpus-per-actor {share:g} need {counted(needed, 'GPU', spec='g')}; the cluster has {gpus:g}."
            )
    threads = compute.threads_per_actor or DEFAULT_THREADS
    return PoolPlan(
        ActorPlan(traversal, 0, _round(traversal_share), threads),
        ActorPlan(reconstruction, 0, _round(reconstruction_share), threads),
    )


def _plan_cpus(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig, shards: int | None) -> PoolPlan:
    cores = _cores(nodes)
    total = sum(cores)
    asked = _number(compute.reconstruction_actors)
    per_shard = min(MAX_THREADS, total // shards) if shards else 0
    threads = compute.threads_per_actor or min(max(cores), max(DEFAULT_THREADS, per_shard))
    if asked is not None and compute.threads_per_actor is None:
        threads = max(1, min(MAX_THREADS, max(cores), total // asked))
    reconstruction = asked or max(1, sum(core // threads for core in cores))
    traversal = _number(compute.traversal_actors) or max(1, round(reconstruction / 4))
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
