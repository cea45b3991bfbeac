"""Hand out the shards: each to a traversal actor, then to a reconstruction actor, until all are done or lost.

What a run promises does not rest on this but on the shards' files: whatever is lost here is found missing later.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError, TaskCancelledError

from dmt_ray.errors import DmtError
from dmt_ray.pipeline.actors import ReconstructionActor, Shared, TraversalActor
from dmt_ray.pipeline.blame import Blame, Verdict
from dmt_ray.pipeline.cluster_nodes import dead_nodes, leaving_nodes, names_lost_node
from dmt_ray.pipeline.devices import NoDeviceError, complaint_in
from dmt_ray.pipeline.no_progress import (
    NoProgressError,
    ProgressWatch,
    end_processes,
    places_of,
    stuck_workers,
    tell_of,
)
from dmt_ray.pipeline.pools import START_TRIES, Pool, Turn, Worker, make_room, wanted_sizes
from dmt_ray.pipeline.resources import PoolPlan
from dmt_ray.pipeline.stragglers import take_over
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: The run gives up when more than this share of the shards (and at least MIN_LOST) crash: then it is not an image.
LOST_SHARE = 0.1
MIN_LOST = 16
#: Seconds between two looks at results, and at the cluster.
TICK_S = 0.2
LOOK_S = 2.0
#: Shards that wait for the reconstruction at least, before the traversal stops for them.
_BACKLOG = 4


class ShardsLostError(DmtError):
    """Too many shards crash for an image to be the reason."""


class ShardStream:
    """Runs shards through both pools; iterate over it for a summary of each committed shard, in any order.

    A shard whose actor dies ``1 + SHARD_RETRIES`` times over one stage, or that cannot be written, has no summary,
    nor has one that was not begun any more when ``stop`` was called. Deaths of lost nodes are not counted. On
    leaving, the actors end.

    Iterating raises NoDeviceError where an actor was given a GPU that does not answer, ShardsLostError when too many
    shards were lost, NoProgressError when nothing happens any more, ActorDiedError when an actor cannot start.

    Parameters:
        shards: numbers of those to do.
        shared: what all actors share.
        pools: how many actors there may be.
        watch: is told when something happens.
        kinds: classes of the two kinds of actor.
    """

    def __init__(
        self,
        shards: Sequence[int],
        shared: Shared,
        pools: PoolPlan,
        watch: ProgressWatch,
        kinds: tuple[type, type] = (TraversalActor, ReconstructionActor),
    ) -> None:
        self._attempts, self._watch = shared.attempts_actor, watch
        self._traversal = Pool("traversal", kinds[0], pools.traversal, shared)
        self._reconstruction = Pool("reconstruction", kinds[1], pools.reconstruction, shared)
        self._pools = (self._traversal, self._reconstruction)
        self._open = set(shards)
        self._waiting = deque(shards)
        self._traversed: set[int] = set()
        self._moved: deque[Turn] = deque()
        self._held: list[tuple[Pool, Turn]] = []
        self._lost = 0
        self._most_lost = max(MIN_LOST, int(LOST_SHARE * len(shards)))
        self._blame = Blame()
        self._stopped = self._closed = False
        self._capacity: dict[str, float] = {}
        self._looked, self._placed = 0.0, ""

    @property
    def room(self) -> int:
        """How many reconstruction actors there is room for now; at least 1."""
        return max(1, len(self._reconstruction.placed))

    @property
    def busy(self) -> dict[str, int]:
        """How many actors have a turn, by stage. Another thread may ask, as it may for ``begun``."""
        return {"traverse": self._traversal.busy, "reconstruct": self._reconstruction.busy}

    @property
    def begun(self) -> set[int]:
        """The shards that are between the begin of their traversal and the end of their reconstruction."""
        workers = [worker for pool in self._pools for worker in list(pool.workers)]
        first = {turn.shard for worker in workers for turn in list(worker.turns)[:1]}
        return first | set(self._traversed)

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for pool in self._pools:
            pool.end_all()

    def stop(self) -> None:
        """Begin no further shard."""
        self._stopped = True

    def __iter__(self) -> Iterator[ShardSummary]:
        try:
            while self._open and not self._closed:
                if self._stopped and not any(pool.running for pool in self._pools):
                    return
                if time.monotonic() - self._looked > LOOK_S:
                    self._look()
                    self._looked = time.monotonic()
                if not self._stopped:
                    self._size_pools()
                    self._hand_out()
                yield from self._collect()
        finally:
            for pool in self._pools:
                pool.end_all()

    # -- who gets what

    def _hand_out(self) -> None:
        while self._moved and (worker := self._reconstruction.next_free()):
            self._give(self._reconstruction, worker, self._moved.popleft())
        backlog = max(_BACKLOG, 2 * len(self._reconstruction.placed))
        while self._waiting and len(self._moved) + self._traversal.running < backlog:
            worker = self._traversal.next_free()
            if worker is None:
                break
            self._give(self._traversal, worker, Turn(self._waiting.popleft()))
        if not self._waiting:
            self._take_over(self._traversal)
            if not self._moved:
                self._take_over(self._reconstruction)

    def _give(self, pool: Pool, worker: Worker, turn: Turn) -> None:
        if not worker.turns:
            self._watch.note()
        pool.give(worker, turn)

    def _take_over(self, pool: Pool) -> None:
        for worker, turn, helper, begun in take_over(pool):
            if not begun:
                self._cancel(worker, turn)
            else:
                logger.info(
                    "Shard %d has taken %.0f s of %s so far and begins a second time, on an idle actor.",
                    *(turn.shard, time.monotonic() - worker.since, pool.name),
                )
            self._give(pool, helper, self._fresh(pool, turn))

    def _fresh(self, pool: Pool, turn: Turn) -> Turn:
        return Turn(turn.shard) if pool is self._traversal else Turn(turn.shard, turn.payload, turn.tries)

    def _cancel(self, worker: Worker, turn: Turn) -> None:
        """Forget a turn that has not begun. Should it begin after all, then its result is the same as the other's."""
        worker.turns.remove(turn)
        ray.cancel(turn.result)

    def _size_pools(self) -> None:
        to_traverse = len(self._open) - len(self._traversed)  # all that are traversed are open
        traversal, reconstruction = self._pools
        wanted_t, wanted_r = wanted_sizes(traversal, reconstruction, to_traverse, len(self._open))
        make_room(traversal, reconstruction, self._capacity, has_work=bool(self._waiting))
        make_room(reconstruction, traversal, self._capacity, has_work=bool(self._moved))
        traversal.fill(min(wanted_t, len(traversal.staying)) if reconstruction.in_need else wanted_t)
        reconstruction.fill(min(wanted_r, len(reconstruction.staying)) if traversal.in_need else wanted_r)
        # Those that can get nothing more to do leave their room to others; a helper for each running shard stays.
        surplus = len(reconstruction.staying) - 2 * len(self._open)
        for worker in reconstruction.idle[: max(0, surplus)] + ([] if to_traverse else traversal.idle):
            (traversal if worker in traversal.workers else reconstruction).end(worker)
        for pool in self._pools:
            for worker in [worker for worker in pool.workers if worker.leaving and not worker.turns]:
                pool.end(worker)

    # -- what comes back

    def _collect(self) -> Iterator[ShardSummary]:
        awaited: dict[Any, tuple[Pool, Worker, Turn | None]] = {}
        for pool in self._pools:
            awaited |= {worker.loading: (pool, worker, None) for worker in pool.workers if worker.loading is not None}
            awaited |= {turn.result: (pool, worker, turn) for worker, turn in pool.turns()}
        if not awaited:
            time.sleep(TICK_S)
            return
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=TICK_S, fetch_local=False)
        if ready:
            ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0, fetch_local=False)
        for reference in ready:
            pool, worker, turn = awaited[reference]
            if worker not in pool.workers or (turn is not None and turn not in worker.turns):
                continue  # its actor has died, as another result told
            try:
                value = ray.get(reference)
            except TaskCancelledError:
                worker.turns = deque(each for each in worker.turns if each is not turn)
            except RayTaskError as error:
                self._failed(pool, worker, turn, error)
            except RayError as error:
                self._died(pool, worker, error)
            else:
                self._watch.note()
                if turn is None:
                    worker.place, worker.loading, worker.since = value, None, time.monotonic()
                    pool.failed_starts = 0
                else:
                    yield from self._done(pool, worker, turn, value)

    def _done(self, pool: Pool, worker: Worker, turn: Turn, value: Any) -> Iterator[ShardSummary]:
        pool.take_back(worker, turn)
        if not value:  # it was not begun: the run is being stopped
            self._stopped = True
        elif turn.shard in self._open and pool is self._reconstruction:
            self._drop(turn.shard)
            yield value
        elif turn.shard in self._open and turn.shard not in self._traversed:
            self._traversed.add(turn.shard)
            turn.tries = value
            self._moved.append(turn)
            self._cancel_waiting(pool, turn.shard)

    def _drop(self, shard: int) -> None:
        """Forget a shard that is done or lost."""
        self._open.remove(shard)
        self._traversed.discard(shard)
        for pool in self._pools:
            self._cancel_waiting(pool, shard)

    def _cancel_waiting(self, pool: Pool, shard: int) -> None:
        for worker in pool.workers:
            for turn in [turn for turn in list(worker.turns)[1:] if turn.shard == shard]:
                self._cancel(worker, turn)

    # -- what goes wrong

    def _failed(self, pool: Pool, worker: Worker, turn: Turn | None, error: RayTaskError) -> None:
        if turn is None:
            raise error
        pool.take_back(worker, turn)
        if isinstance(error, ObjectLostError):  # the node that had traversed it was lost
            self._traversed.discard(turn.shard)
            self._again(self._traversal, Turn(turn.shard))
        elif turn.shard in self._open:
            logger.warning("Shard %d failed: %s", turn.shard, " ".join(str(error.cause).split()))
            self._lose(turn.shard)

    def _died(self, pool: Pool, worker: Worker, error: RayError, *, surely: bool | None = None) -> None:
        """Do the turns of an actor that is dead, or cannot be reached, again; the first of them counts as tried."""
        pool.end(worker)
        dead = dead_nodes()
        self._blame.lost_nodes(dead)
        node = None if worker.place is None else worker.place.node
        lost = node in dead or names_lost_node(error)
        preempted = lost or worker.leaving or getattr(error, "preempted", False)
        if getattr(error, "actor_init_failed", False):
            complaint = complaint_in(error)
            if complaint is None:
                raise error
            raise NoDeviceError(complaint) from error
        if worker.loading is not None and not preempted and isinstance(error, ActorDiedError):
            pool.failed_starts += 1
            if pool.failed_starts >= START_TRIES:
                raise error
        why = "its node is lost" if lost else "its node is going" if preempted else type(error).__name__
        level = logging.INFO if worker.place is None and lost else logging.WARNING  # it had not begun anything
        logger.log(level, "An actor of the %s (%s) is gone: %s.", pool.name, worker.place or "without a place", why)
        for place, turn in enumerate(worker.turns):
            if place == 0 and not preempted:
                surely = isinstance(error, ActorDiedError) if surely is None else surely
                self._blame.died(pool.name, turn.shard, node, surely=surely)
            self._again(pool, turn)

    def _again(self, pool: Pool, turn: Turn) -> None:
        """Let a shard wait for another try of a stage, unless another actor has it, or it has had its tries."""
        shard = turn.shard
        done = pool is self._traversal and shard in self._traversed
        if shard not in self._open or done or any(other.shard == shard for _, other in pool.turns()):
            return
        verdict = self._blame.verdict(pool.name, shard)
        if verdict is Verdict.LOST:
            self._lose(shard)
        elif verdict is Verdict.WAIT:
            self._held.append((pool, turn))
        elif pool is self._traversal:
            self._waiting.appendleft(shard)
        else:
            self._moved.appendleft(self._fresh(pool, turn))

    def _lose(self, shard: int) -> None:
        self._drop(shard)
        self._lost += 1
        if self._lost > self._most_lost:
            raise ShardsLostError(
                f"{counted(self._lost, 'shard')} {agreed(self._lost, 'was', 'were')} lost to crashes, hangs or "
                f"failed writes, shard {shard} last: no image is the reason for so many."
            )

    def _look(self) -> None:
        """Look at the nodes, at shards that wait for a verdict, and at what is stuck."""
        self._blame.lost_nodes(dead_nodes())
        self._capacity = ray.cluster_resources()
        held, self._held = self._held, []
        for pool, turn in held:
            self._again(pool, turn)
        leaving = leaving_nodes()
        missing = any(worker.place is None for pool in self._pools for worker in pool.workers)
        places = places_of(self._attempts) if missing else {}
        for pool in self._pools:
            for worker in pool.workers:
                if worker.place is None and worker.key in places:
                    worker.place, worker.since = places[worker.key], time.monotonic()
                    self._watch.note()
                if worker.place is not None and worker.place.node in leaving and not worker.leaving:
                    self._leave(pool, worker)
        self._tell()
        self._end_stuck()

    def _leave(self, pool: Pool, worker: Worker) -> None:
        """Let an actor end what it does, and give what it has not begun to others."""
        logger.info("%s is about to go: the %s gives it nothing more.", worker.place, pool.name)
        worker.leaving = True
        for turn in list(worker.turns)[1:]:
            self._cancel(worker, turn)
            self._again(pool, turn)

    def _end_stuck(self) -> None:
        stuck = [(pool, worker) for pool in self._pools for worker in stuck_workers(pool, self._watch)]
        if not stuck:
            if self._watch.idle > self._watch.starting:
                raise NoProgressError(f"Nothing has happened for {self._watch.idle:.0f} s. {self._shortage()}")
            return
        found = end_processes([worker.place for _, worker in stuck if worker.place is not None])
        for (pool, worker), what in zip(stuck, found, strict=True):
            tell_of(worker, pool, what)
            self._died(pool, worker, ActorDiedError(), surely=True)
        self._watch.note()

    def _shortage(self) -> str:
        wanted = [
            f"{counted(waiting, 'actor')} of the {pool.name}, which "
            f"{agreed(waiting, f'asks for {pool.plan.share}', f'ask for {pool.plan.share} each')}"
            for pool in self._pools
            if (waiting := sum(worker.place is None for worker in pool.workers))
        ]
        return f"No node has room for {' and for '.join(wanted)}." if wanted else "No actor has anything to do."

    def _tell(self) -> None:
        """Log how many actors there are, where that changes with the cluster."""
        nodes = {worker.place.node for pool in self._pools for worker in pool.workers if worker.place is not None}
        waiting = sum(worker.place is None for pool in self._pools for worker in pool.workers)
        counts = ", ".join(f"{pool.name} {len(pool.placed)}" for pool in self._pools)
        wait = agreed(waiting, "waits", "wait")
        line = f"Actors now: {counts}, on {counted(len(nodes), 'node')}; {waiting} more {wait} for room."
        if self._placed and line != self._placed and any(pool.plan.least is not None for pool in self._pools):
            logger.info("%s", line)
        self._placed = line if nodes else ""
