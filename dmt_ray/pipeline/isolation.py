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
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from dmt_ray.output.input_columns import InputColumns
from dmt_ray.output.plan import Plan
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.actors import Shared, expected_of, finish_shard, from_ipc, items_todo
from dmt_ray.pipeline.blame import Blame, Verdict
from dmt_ray.pipeline.cluster_nodes import dead_nodes, is_lost_with_node
from dmt_ray.pipeline.error_rows import crash_row
from dmt_ray.pipeline.isolation_pool import IsolationPool, IsolationWorker
from dmt_ray.pipeline.no_progress import ProgressWatch
from dmt_ray.pipeline.resources import ActorPlan
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.storage.inputs.registry import InputItem
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: Seconds between two looks for images that make no progress.
LOOK_S = 1.0
#: Tries that an image alone gets after a process died over it, because a process can also die of something else.
IMAGE_RETRIES = 1
#: What ``Blame`` knows this stage by.
_STAGE = "isolation"


@dataclass
class _ImageTries:
    """One image of a shard, and how often it was begun alone."""

    index: int
    item: InputItem
    tries: int = 0
    reason: str = ""
    """How the last process died that had it."""


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
        self._pool = IsolationPool(shared, plan, watch)
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
                reason = "Shard %d was lost to a crash, a hang or a failed write; its %s %s one by one."
                run = agreed(len(items), "runs", "run")
                logger.warning(reason, shard.number, counted(len(items), "image"), run)
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


def _run_one_by_one(
    shard: int, items: Sequence[InputItem], shared: Shared, pool: IsolationPool, stopped: Callable[[], bool]
) -> pa.Table:
    """Return the rows of some images of a shard, in the plan's order; without images, an empty table.

    Raises:
        _StoppedError: no image may begin any more.
    """
    before = int(ray.get(shared.attempts_actor.count.remote(shard)))
    waiting = deque(_ImageTries(index, item) for index, item in enumerate(items))
    rows: list[pa.Table | None] = [None] * len(items)
    running: dict[Any, tuple[IsolationWorker, _ImageTries]] = {}
    undecided: list[_ImageTries] = []
    blame = Blame(IMAGE_RETRIES)
    while waiting or running or undecided:
        while waiting and len(running) < pool.size and not stopped():
            image = waiting.popleft()
            image.tries += 1
            worker = pool.take()
            running[worker.actor.edit.remote(shard, image.item, before + image.tries)] = (worker, image)
        if not running:
            if stopped():
                raise _StoppedError
            time.sleep(LOOK_S)
        done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S) if running else ([], [])
        if not done:
            pool.end_stuck()
        for ready in done:
            pool.watch.note()
            worker, image = running.pop(ready)
            try:
                rows[image.index] = from_ipc(ray.get(ready))
                pool.give_back(worker)
            except RayTaskError:
                raise  # a defect of this program, and no crash
            except RayError as error:  # the process died: a signal, no memory, a lost node
                image.reason = pool.replace(worker, error)
                logger.error("The process that ran image %s alone died: %s.", image.item.id, image.reason)
                if not is_lost_with_node(error):
                    surely = isinstance(error, ActorDiedError)
                    blame.died(_STAGE, image.index, worker.place.node, surely=surely)
                undecided.append(image)
        if undecided:
            blame.lost_nodes(dead_nodes())
        for image in list(undecided):
            verdict = blame.verdict(_STAGE, image.index)
            if verdict is Verdict.WAIT:
                continue
            undecided.remove(image)
            if verdict is Verdict.AGAIN:
                waiting.appendleft(image)
                continue
            rows[image.index] = crash_row(
                image.item,
                shared.config,
                error=f"The process died each of the {1 + IMAGE_RETRIES} times that it ran this image alone; "
                f"the last time {image.reason}.",
                attempts=before + image.tries,
                weights_label=shared.weights_label,
            )
    return pa.concat_tables([rows_table([]), *(row for row in rows if row is not None)])
