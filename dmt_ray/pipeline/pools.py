"""Pools of actors that grow and shrink with the cluster: who is there, what each does, and how many there should be.

An actor that has no room yet is one that Ray holds back: that is what a cluster's autoscaler sees as demand.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from dmt_ray.pipeline.actors import Shared
from dmt_ray.pipeline.attempts import Place
from dmt_ray.pipeline.resources import ActorPlan

logger = logging.getLogger(__name__)

#: Shards that an actor holds: one that it does, and one whose data come meanwhile.
IN_FLIGHT = 2
#: Actors that may die one after the other while they load, before the run gives up.
START_TRIES = 3
#: A pool without any actor that has room may take the other's room after so many seconds. A process starts sooner.
STARVED_S = 60.0
#: Stages of which a pool remembers how long they took.
_REMEMBERED = 101


@dataclass(eq=False)
class Turn:
    """One try of one stage of one shard."""

    shard: int
    payload: Any = None
    """Reference to the traversed images: what a traversal makes and a reconstruction takes."""
    tries: int = 0
    """How often the shard's traversal was begun."""
    result: Any = None
    """Reference to what comes back when the stage ends."""


@dataclass(eq=False)
class Worker:
    """An actor, and the turns that it was given, in order."""

    actor: Any
    loading: Any
    """Reference to its place, which comes when its model is loaded; None from then on."""
    key: str
    """Ray's id of the actor."""
    since: float
    """When its first turn began; without one, when its last ended or it came to its place."""
    place: Place | None = None
    """None until Ray has found room for it."""
    turns: deque[Turn] = field(default_factory=deque)
    leaving: bool = False
    """Its node is about to go: it gets no more turns."""

    @property
    def is_free(self) -> bool:
        """It may be given a turn."""
        return self.loading is None and not self.leaving and len(self.turns) < IN_FLIGHT

    @property
    def is_idle(self) -> bool:
        """It is loaded, and has no turn."""
        return self.loading is None and not self.leaving and not self.turns


class Pool:
    """The actors of one stage.

    Parameters:
        name: of its stage.
        kind: class of the actors.
        plan: how many there may be, and what each asks for.
        shared: what all actors share.
    """

    def __init__(self, name: str, kind: type, plan: ActorPlan, shared: Shared) -> None:
        self.name, self.plan = name, plan
        self.workers: list[Worker] = []
        self.failed_starts = 0
        self.starved_since = math.inf
        self.in_need = False
        """It has work and no actor with room, for longer than ``STARVED_S``."""
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._shared = shared
        # A dead actor is replaced by another one: Ray's own restarts would keep it and its turn on a count of theirs.
        options: Any = {"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus}
        self._remote: Any = ray.remote(**options, max_restarts=0, max_task_retries=0)(kind)

    @property
    def placed(self) -> list[Worker]:
        """Those that have room and stay."""
        return [worker for worker in self.workers if worker.place is not None and not worker.leaving]

    @property
    def staying(self) -> list[Worker]:
        """Those whose node is not about to go."""
        return [worker for worker in self.workers if not worker.leaving]

    @property
    def idle(self) -> list[Worker]:
        """Those that are loaded and have nothing to do."""
        return [worker for worker in self.workers if worker.is_idle]

    @property
    def running(self) -> int:
        """Turns that were given and have not ended."""
        return sum(len(worker.turns) for worker in self.workers)

    @property
    def busy(self) -> int:
        """Actors that have a turn. Another thread may ask: it counts a copy of the list."""
        return sum(bool(worker.turns) for worker in list(self.workers))

    @property
    def first(self) -> int:
        """Actors to begin with."""
        return self.plan.actors if self.plan.least is None else self.plan.least

    @property
    def typical(self) -> float:
        """Median of the seconds that the last stages took; infinite while none has ended."""
        return statistics.median(self._seconds) if self._seconds else math.inf

    @property
    def longest(self) -> float:
        """The most seconds that one of the last stages took; 0 while none has ended."""
        return max(self._seconds, default=0.0)

    def next_free(self) -> Worker | None:
        """Return the actor with the fewest turns that may be given one more."""
        free = [worker for worker in self.workers if worker.is_free]
        return min(free, key=lambda worker: len(worker.turns), default=None)

    def turns(self) -> Iterator[tuple[Worker, Turn]]:
        """Yield every turn, and who has it."""
        return ((worker, turn) for worker in self.workers for turn in worker.turns)

    def give(self, worker: Worker, turn: Turn) -> None:
        """Give a turn to an actor."""
        if not worker.turns:
            worker.since = time.monotonic()
        if turn.payload is None:
            turn.payload, turn.result = worker.actor.traverse_shard.options(num_returns=2).remote(turn.shard)
        else:
            turn.result = worker.actor.finish.remote(turn.shard, turn.payload, turn.tries)
        worker.turns.append(turn)

    def take_back(self, worker: Worker, turn: Turn) -> None:
        """Take a turn that has ended from an actor, and remember how long it took."""
        now = time.monotonic()
        if worker.turns[0] is turn:
            self._seconds.append(now - worker.since)
            worker.since = now
        worker.turns.remove(turn)

    def fill(self, wanted: int) -> None:
        """Start actors until so many are there or wait for room; of those that wait, end what is beyond."""
        staying = self.staying
        for _ in range(wanted - len(staying)):
            self._start()
        waiting = [worker for worker in reversed(staying) if worker.place is None]
        for worker in waiting[: max(0, len(staying) - wanted)]:
            self.end(worker)

    def end(self, worker: Worker) -> None:
        """End an actor, whatever it does."""
        if worker in self.workers:
            self.workers.remove(worker)
        try:
            ray.kill(worker.actor)
        except RayError as error:  # it, or its cluster, is dead already
            logger.debug("An actor cannot be ended: %s", error)

    def end_all(self) -> None:
        """End all actors."""
        for worker in list(self.workers):
            self.end(worker)

    def _start(self) -> None:
        actor = self._remote.remote(self._shared, self.plan.threads)
        self.workers.append(Worker(actor, actor.loaded.remote(), actor._actor_id.hex(), time.monotonic()))


def wanted_sizes(traversal: Pool, reconstruction: Pool, to_traverse: int, to_do: int) -> tuple[int, int]:
    """Return how many actors each pool should have, those that wait for room included.

    Parameters:
        traversal: the pool.
        reconstruction: the pool.
        to_traverse: shards whose traversal has not ended.
        to_do: shards that are not done.

    Until each pool has an actor with room, none asks for more than it begins with: the first node that comes would
    else be full of actors of one kind. Traversal actors then come in proportion.
    """
    wanted_t, wanted_r = min(traversal.plan.actors, to_traverse), min(reconstruction.plan.actors, to_do)
    if traversal.plan.least is not None:
        share = len(reconstruction.placed) * traversal.plan.actors / reconstruction.plan.actors
        wanted_t = min(wanted_t, max(traversal.plan.least, math.ceil(share)))
    if to_traverse and not (traversal.placed and reconstruction.placed):
        wanted_t, wanted_r = min(wanted_t, traversal.first), min(wanted_r, reconstruction.first)
    return wanted_t, wanted_r


def make_room(pool: Pool, other: Pool, capacity: Mapping[str, float], *, has_work: bool) -> None:
    """Let a pool that is in need of room take that of the other's actors that wait for some, and of an idle one."""
    if not find_need(pool, other, capacity, has_work=has_work):
        return
    for worker in [worker for worker in other.workers if worker.place is None] + other.idle[:1]:
        if worker.place is not None:
            logger.info("An idle actor of the %s makes room for one of the %s.", other.name, pool.name)
        other.end(worker)


def find_need(pool: Pool, other: Pool, capacity: Mapping[str, float], *, has_work: bool) -> bool:
    """Note whether a pool has work but no actor with room, in a cluster that is too small for both pools.

    Parameters:
        pool: that may be in need.
        other: the other one.
        capacity: what all nodes together have, such as ``{"CPU": 16.0}``.
        has_work: shards wait for the pool.

    Returns:
        True once it has been so for ``STARVED_S``, and again after as long.
    """
    now = time.monotonic()
    if not has_work or pool.placed:
        pool.starved_since, pool.in_need = math.inf, False
        return False
    pool.starved_since = min(pool.starved_since, now)
    cpus = sum(len(each.workers) * each.plan.num_cpus for each in (pool, other))
    gpus = sum(len(each.workers) * each.plan.num_gpus for each in (pool, other))
    has_room = cpus <= capacity.get("CPU", 0) and gpus <= capacity.get("GPU", 0)
    if has_room or now - pool.starved_since < STARVED_S:
        return False
    pool.starved_since, pool.in_need = now, True
    return True
