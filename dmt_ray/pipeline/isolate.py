"""Shards that crashed again and again: their images run one by one, and the one that crashes becomes an error row."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from dmt_ray.pipeline.actors import IsolationActor, Shared, from_ipc, summarise
from dmt_ray.pipeline.carry import Carrier
from dmt_ray.pipeline.commit import commit_shard
from dmt_ray.pipeline.plan_file import Plan, Shard
from dmt_ray.pipeline.resources import ActorPlan
from dmt_ray.pipeline.work import crash_row
from dmt_ray.storage.inputs import InputItem

logger = logging.getLogger(__name__)

#: Tries of one image alone: a second one, because a process can also die of something else.
IMAGE_TRIES = 2


@dataclass
class _Job:
    """One image of a shard, and how often it was begun alone."""

    index: int
    item: InputItem
    tries: int = 0


def isolate_shards(shards: Plan, shared: Shared, plan: ActorPlan) -> Iterator[dict[str, Any]]:
    """Do each image of the shards in a process of its own kind; commit the shards; yield a summary of each.

    Raises:
        ray.exceptions.RayError: a process dies before it got an image, so no image is to blame.
        StorageError: a shard cannot be written.
    """
    carrier = Carrier(shards.carried)
    with _Pool(shared, plan) as pool:
        for shard in shards:
            logger.warning("Shard %d crashed; its %d images run one by one.", shard.number, len(shard.items))
            table = carrier.add(pa.concat_tables(_one_by_one(shard, shared, pool)), shard.items)
            commit_shard(shared.config.output.output, shard.number, [table], shared.fingerprint)
            yield summarise(shard.number, table)


class _Pool:
    """As many isolation actors as the plan has; a dead one is replaced when it is next needed."""

    def __init__(self, shared: Shared, plan: ActorPlan) -> None:
        self._shared, self._plan = shared, plan
        self.size = plan.actors
        self._idle: list[Any] = []

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._idle:
            ray.kill(actor)

    def take(self) -> Any:
        """Return an actor with a loaded model."""
        if self._idle:
            return self._idle.pop()
        kind: Any = ray.remote(
            num_cpus=self._plan.num_cpus, num_gpus=self._plan.num_gpus, max_restarts=0, max_task_retries=0
        )(IsolationActor)
        actor = kind.remote(self._shared, self._plan.threads)
        ray.get(actor.ready.remote())
        return actor

    def give(self, actor: Any) -> None:
        """Take back an actor that lives."""
        self._idle.append(actor)


def _one_by_one(shard: Shard, shared: Shared, pool: _Pool) -> list[pa.Table]:
    """Return the row of each image, in the plan's order."""
    before = int(ray.get(shared.attempts.count.remote(shard.number)))
    waiting = deque(_Job(index, item) for index, item in enumerate(shard.items))
    rows: list[pa.Table | None] = [None] * len(shard.items)
    running: dict[Any, tuple[Any, _Job]] = {}
    while waiting or running:
        while waiting and len(running) < pool.size:
            job = waiting.popleft()
            job.tries += 1
            actor = pool.take()
            running[actor.edit.remote(job.item, before + job.tries)] = (actor, job)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, job = running.pop(ready)
        try:
            rows[job.index] = from_ipc(ray.get(ready))
            pool.give(actor)
        except RayTaskError:
            raise  # a defect of this program, and no crash
        except RayError as error:  # the process died: a signal, no memory, a lost node
            ray.kill(actor)
            if job.tries < IMAGE_TRIES:
                waiting.appendleft(job)
                continue
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.error("Image %s crashes its process: %s", job.item.id, reason)
            rows[job.index] = crash_row(
                job.item,
                shared.config,
                error=f"The process died each of the {job.tries} times that it ran this image alone: {reason}",
                attempts=before + job.tries,
                weights_label=shared.weights_label,
            )
    return [row for row in rows if row is not None]
