"""Shards that crashed again and again: their images run one by one, and the one that crashes becomes an error row."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from dmt_ray.output.input_columns import InputColumns
from dmt_ray.output.plan import Plan
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.actors import IsolationActor, Shared, expected_of, finish_shard, from_ipc, items_todo
from dmt_ray.pipeline.attempts import Place
from dmt_ray.pipeline.crash_report import CrashTrace, cause_of_death, discard_traces
from dmt_ray.pipeline.no_progress import ProgressWatch, end_processes
from dmt_ray.pipeline.resources import ActorPlan
from dmt_ray.pipeline.shard_processor import crash_row
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)

#: Seconds between two looks for images that make no progress.
LOOK_S = 1.0
#: How a process died that made none.
STUCK = "it made no progress for --no-progress-timeout and was ended"
#: Tries of one image alone: a second one, because a process can also die of something else.
IMAGE_TRIES = 2


@dataclass
class _ImageTries:
    """One image of a shard, and how often it was begun alone."""

    index: int
    item: InputItem
    tries: int = 0


@dataclass(eq=False)
class _Worker:
    """An isolation actor with a loaded model, and what will tell how its process died."""

    actor: Any
    place: Place
    trace: CrashTrace
    since: float
    """When it was given its image."""
    stuck: bool = False
    """It was ended because it made no progress."""


class IsolationStream:
    """Runs the images of shards one by one, each in a process that may die; iterate over it for the summaries.

    A shard has a summary once it is committed. Iterating raises RayError when a process dies before it got an image,
    so that no image is to blame, and StorageError when a shard cannot be written.

    Parameters:
        shards: that crashed or hung.
        shared: what the run's actors share.
        plan: how many processes to use.
        stopped: tells that no image may begin any more; the current shard is not committed then.
        watch: is told of each image that is done, and says how long one may take.
    """

    def __init__(
        self, shards: Plan, shared: Shared, plan: ActorPlan, stopped: Callable[[], bool], watch: ProgressWatch
    ) -> None:
        self._shards, self._shared, self._stopped = shards, shared, stopped
        self._pool = _Pool(shared, plan, watch)
        self._begun: int | None = None

    @property
    def busy(self) -> dict[str, int]:
        """How many processes have an image, by stage. Another thread may ask, as it may for ``begun``."""
        return {"isolation": self._pool.busy}

    @property
    def begun(self) -> set[int]:
        """The shard whose images are done now."""
        begun = self._begun
        return set() if begun is None else {begun}

    def __iter__(self) -> Iterator[ShardSummary]:
        shared, shards = self._shared, self._shards
        carrier, expected = InputColumns(shards.input_columns, shards.containers), expected_of(shared, shards)
        with self._pool as pool:
            for shard in shards:
                if self._stopped():
                    return
                self._begun = shard.number
                items = items_todo(shared, shard, expected)
                reason = "Shard %d was lost to a crash, a hang or a failed write; its %d images run one by one."
                logger.warning(reason, shard.number, len(items))
                edit = functools.partial(
                    _run_one_by_one, shard.number, shared=shared, pool=pool, stopped=self._stopped
                )
                try:
                    summary = finish_shard(shared, carrier, expected, shard, edit(items), edit)
                except _StoppedError:
                    return
                self._begun = None
                yield summary


class _StoppedError(Exception):
    """The run is being stopped, and the shard's images are not all done."""


class _Pool:
    """Isolation actors, as many as the plan has; a dead one is replaced when the next is needed."""

    def __init__(self, shared: Shared, plan: ActorPlan, watch: ProgressWatch) -> None:
        self._shared, self._plan = shared, plan
        self.watch = watch
        self.size = plan.actors
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        workers = self._idle + self._busy
        self._idle, self._busy = [], []
        for worker in workers:
            ray.kill(worker.actor)
        discard_traces([worker.trace for worker in workers])

    @property
    def busy(self) -> int:
        """Workers that have an image."""
        return len(self._busy)

    def take(self) -> _Worker:
        """Return a worker for one image."""
        worker = self._idle.pop() if self._idle else self._start()
        self._busy.append(worker)
        worker.since = time.monotonic()
        return worker

    def give_back(self, worker: _Worker) -> None:
        """Take back a worker that lives."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def replace(self, worker: _Worker, error: RayError) -> str:
        """Forget a worker whose process died, so that the next is a new one; return how it died."""
        self._busy.remove(worker)
        ray.kill(worker.actor)
        cause = cause_of_death(error, worker.trace)
        return STUCK if worker.stuck else cause

    def end_stuck(self) -> None:
        """End the workers that have been at one image for longer than a run may be without progress."""
        now = time.monotonic()
        stuck = [each for each in self._busy if not each.stuck and now - each.since > self.watch.timeout]
        for worker, found in zip(stuck, end_processes([each.place for each in stuck]), strict=True):
            logger.error(
                "An image alone has made no progress for %.0f s, %s. %s", now - worker.since, worker.place, found
            )
            worker.stuck = True
            ray.kill(worker.actor)

    def _start(self) -> _Worker:
        kind: Any = ray.remote(
            num_cpus=self._plan.num_cpus, num_gpus=self._plan.num_gpus, max_restarts=0, max_task_retries=0
        )(IsolationActor)
        actor = kind.remote(self._shared, self._plan.threads)
        place, trace = ray.get([actor.loaded.remote(), actor.ready.remote()], timeout=self.watch.timeout)
        self.watch.note()
        return _Worker(actor, place, trace, time.monotonic())


def _run_one_by_one(
    shard: int, items: Sequence[InputItem], shared: Shared, pool: _Pool, stopped: Callable[[], bool]
) -> pa.Table:
    """Return the rows of some images of a shard, in the plan's order; without images, an empty table.

    Raises:
        _StoppedError: no image may begin any more.
    """
    before = int(ray.get(shared.attempts_actor.count.remote(shard)))
    waiting = deque(_ImageTries(index, item) for index, item in enumerate(items))
    rows: list[pa.Table | None] = [None] * len(items)
    running: dict[Any, tuple[_Worker, _ImageTries]] = {}
    while waiting or running:
        while waiting and len(running) < pool.size and not stopped():
            image = waiting.popleft()
            image.tries += 1
            worker = pool.take()
            running[worker.actor.edit.remote(shard, image.item, before + image.tries)] = (worker, image)
        if not running:
            raise _StoppedError
        done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
        if not done:
            pool.end_stuck()
            continue
        pool.watch.note()
        (ready,) = done
        worker, image = running.pop(ready)
        try:
            rows[image.index] = from_ipc(ray.get(ready))
            pool.give_back(worker)
        except RayTaskError:
            raise  # a defect of this program, and no crash
        except RayError as error:  # the process died: a signal, no memory, a lost node
            reason = pool.replace(worker, error)
            logger.error("The process that ran image %s alone died: %s.", image.item.id, reason)
            if image.tries < IMAGE_TRIES:
                waiting.appendleft(image)
                continue
            rows[image.index] = crash_row(
                image.item,
                shared.config,
                error=f"The process died each of the {image.tries} times that it ran this image alone; "
                f"the last time {reason}.",
                attempts=before + image.tries,
                weights_label=shared.weights_label,
            )
    return pa.concat_tables([rows_table([]), *(row for row in rows if row is not None)])
