"""Shards that crashed again and again: their images run one by one, and the one that crashes becomes an error row."""

from __future__ import annotations

import functools
import logging
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
from dmt_ray.pipeline.crash_report import CrashTrace, cause_of_death, discard_traces
from dmt_ray.pipeline.resources import ActorPlan
from dmt_ray.pipeline.shard_processor import crash_row
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)

#: Tries of one image alone: a second one, because a process can also die of something else.
IMAGE_TRIES = 2


@dataclass
class _ImageTries:
    """One image of a shard, and how often it was begun alone."""

    index: int
    item: InputItem
    tries: int = 0


@dataclass(frozen=True)
class _Worker:
    """An isolation actor with a loaded model, and what will tell how its process died."""

    actor: Any
    trace: CrashTrace


def isolate_shards(
    shards: Plan, shared: Shared, plan: ActorPlan, stopped: Callable[[], bool]
) -> Iterator[ShardSummary]:
    """Run the images of the shards one by one, each in a process that may die; commit the shards; yield summaries.

    Parameters:
        shards: that crashed or hung.
        shared: what the run's actors share.
        plan: how many processes to use.
        stopped: tells that no image may begin any more; the current shard is not committed then.

    Raises:
        ray.exceptions.RayError: a process dies before it got an image, so no image is to blame.
        StorageError: a shard cannot be written.
    """
    carrier, expected = InputColumns(shards.input_columns, shards.containers), expected_of(shared, shards)
    with _Pool(shared, plan) as pool:
        for shard in shards:
            if stopped():
                return
            items = items_todo(shared, shard, expected)
            reason = "Shard %d was lost to a crash, a hang or a failed write; its %d images run one by one."
            logger.warning(reason, shard.number, len(items))
            edit = functools.partial(_run_one_by_one, shard.number, shared=shared, pool=pool, stopped=stopped)
            try:
                yield finish_shard(shared, carrier, expected, shard, edit(items), edit)
            except _StoppedError:
                return


class _StoppedError(Exception):
    """The run is being stopped, and the shard's images are not all done."""


class _Pool:
    """Isolation actors, as many as the plan has; a dead one is replaced when the next is needed."""

    def __init__(self, shared: Shared, plan: ActorPlan) -> None:
        self._shared, self._plan = shared, plan
        self.size = plan.actors
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        workers = self._idle + self._busy
        for worker in workers:
            ray.kill(worker.actor)
        discard_traces([worker.trace for worker in workers])

    def take(self) -> _Worker:
        """Return a worker for one image."""
        worker = self._idle.pop() if self._idle else self._start()
        self._busy.append(worker)
        return worker

    def give_back(self, worker: _Worker) -> None:
        """Take back a worker that lives."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def replace(self, worker: _Worker, error: RayError) -> str:
        """Forget a worker whose process died, so that the next is a new one; return how it died."""
        self._busy.remove(worker)
        ray.kill(worker.actor)
        return cause_of_death(error, worker.trace)

    def _start(self) -> _Worker:
        kind: Any = ray.remote(
            num_cpus=self._plan.num_cpus, num_gpus=self._plan.num_gpus, max_restarts=0, max_task_retries=0
        )(IsolationActor)
        actor = kind.remote(self._shared, self._plan.threads)
        return _Worker(actor, ray.get(actor.ready.remote()))


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
        (ready,), _ = ray.wait(list(running), num_returns=1)
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
