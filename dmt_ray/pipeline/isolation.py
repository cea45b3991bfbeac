"""Shards that crashed again and again: their images run one by one, and the one that crashes becomes an error row."""

from __future__ import annotations

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
from dmt_ray.pipeline.actors import IsolationActor, Shared, finish_shard, from_ipc, items_todo
from dmt_ray.pipeline.crash_report import CrashTrace, cause_of_death, discard_trace
from dmt_ray.pipeline.resources import ActorPlan
from dmt_ray.pipeline.shard_processor import crash_row
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)

#: Tries of one image alone: a second one, because a process can also die of something else.
IMAGE_TRIES = 2


@dataclass
class _Job:
    """One image of a shard, and how often it was begun alone."""

    index: int
    item: InputItem
    tries: int = 0


def isolate_shards(
    shards: Plan, shared: Shared, plan: ActorPlan, stopped: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Do each image of the shards in a process of its own kind; commit the shards; yield a summary of each.

    Parameters:
        shards: that crashed or hung.
        shared: what the run's actors share.
        plan: how many processes to use.
        stopped: says that no image is to begin any more; the shard that this befalls is not committed.

    Raises:
        ray.exceptions.RayError: a process dies before it got an image, so no image is to blame.
        StorageError: a shard cannot be written.
    """
    carrier = InputColumns(shards.input_columns)
    with _Pool(shared, plan) as pool:
        for shard in shards:
            if stopped():
                return
            items = items_todo(shared, shard)
            reason = "Shard %d was lost to a crash, a hang or a failed write; its %d images run one by one."
            logger.warning(reason, shard.number, len(items))
            tables = _one_by_one(shard.number, items, shared, pool, stopped)
            if tables is None:
                return
            yield finish_shard(shared, carrier, shard, pa.concat_tables(tables))


class _Pool:
    """As many isolation actors as the plan has; a dead one is replaced when it is next needed."""

    def __init__(self, shared: Shared, plan: ActorPlan) -> None:
        self._shared, self._plan = shared, plan
        self.size = plan.actors
        self._idle: list[tuple[Any, CrashTrace]] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor, trace in self._idle:
            ray.kill(actor)
            discard_trace(trace)

    def take(self) -> tuple[Any, CrashTrace]:
        """Return an actor with a loaded model, and what will tell how it died."""
        if self._idle:
            return self._idle.pop()
        kind: Any = ray.remote(
            num_cpus=self._plan.num_cpus, num_gpus=self._plan.num_gpus, max_restarts=0, max_task_retries=0
        )(IsolationActor)
        actor = kind.remote(self._shared, self._plan.threads)
        return actor, ray.get(actor.ready.remote())

    def give(self, actor: Any, trace: CrashTrace) -> None:
        """Take back an actor that lives."""
        self._idle.append((actor, trace))


def _one_by_one(
    shard: int, items: Sequence[InputItem], shared: Shared, pool: _Pool, stopped: Callable[[], bool]
) -> list[pa.Table] | None:
    """Return the rows of each image, in the plan's order; None when it was stopped."""
    before = int(ray.get(shared.attempts_actor.count.remote(shard)))
    waiting = deque(_Job(index, item) for index, item in enumerate(items))
    rows: list[pa.Table | None] = [None] * len(items)
    running: dict[Any, tuple[Any, CrashTrace, _Job]] = {}
    while waiting or running:
        while waiting and len(running) < pool.size and not stopped():
            job = waiting.popleft()
            job.tries += 1
            actor, trace = pool.take()
            running[actor.edit.remote(shard, job.item, before + job.tries)] = (actor, trace, job)
        if not running:
            return None
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, trace, job = running.pop(ready)
        try:
            rows[job.index] = from_ipc(ray.get(ready))
            pool.give(actor, trace)
        except RayTaskError:
            raise  # a defect of this program, and no crash
        except RayError as error:  # the process died: a signal, no memory, a lost node
            ray.kill(actor)
            reason = cause_of_death(error, trace)
            logger.error("The process that ran image %s alone died: %s.", job.item.id, reason)
            if job.tries < IMAGE_TRIES:
                waiting.appendleft(job)
                continue
            rows[job.index] = crash_row(
                job.item,
                shared.config,
                error=f"The process died each of the {job.tries} times that it ran this image alone; "
                f"the last time {reason}.",
                attempts=before + job.tries,
                weights_label=shared.weights_label,
            )
    return [row for row in rows if row is not None]
