"""The processes of an isolation: each does one image at a time, and may die over it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from dmt_ray.pipeline.actors import IsolationActor, Shared
from dmt_ray.pipeline.attempts import Place
from dmt_ray.pipeline.cluster_nodes import is_lost_with_node
from dmt_ray.pipeline.crash_report import CrashTrace, cause_of_death, discard_traces
from dmt_ray.pipeline.no_progress import ProgressWatch, end_processes
from dmt_ray.pipeline.resources import ActorPlan

logger = logging.getLogger(__name__)

#: How a process died that made none.
STUCK = "it made no progress for --no-progress-timeout and was ended"


@dataclass(eq=False)
class IsolationWorker:
    """An isolation actor with a loaded model, and what will tell how its process died."""

    actor: Any
    place: Place
    trace: CrashTrace
    since: float
    """When it was given its image."""
    stuck: bool = False
    """It was ended because it made no progress."""


class IsolationPool:
    """Isolation actors, as many as the plan has; a dead one is replaced when the next is needed."""

    def __init__(self, shared: Shared, plan: ActorPlan, watch: ProgressWatch) -> None:
        self._shared, self._plan = shared, plan
        self.watch = watch
        self.size = plan.actors
        self._idle: list[IsolationWorker] = []
        self._busy: list[IsolationWorker] = []

    def __enter__(self) -> IsolationPool:
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

    def take(self) -> IsolationWorker:
        """Return a worker for one image."""
        worker = self._idle.pop() if self._idle else self._start()
        self._busy.append(worker)
        worker.since = time.monotonic()
        return worker

    def give_back(self, worker: IsolationWorker) -> None:
        """Take back a worker that lives."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def replace(self, worker: IsolationWorker, error: RayError) -> str:
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

    def _start(self) -> IsolationWorker:
        kind: Any = ray.remote(
            num_cpus=self._plan.num_cpus, num_gpus=self._plan.num_gpus, max_restarts=0, max_task_retries=0
        )(IsolationActor)
        while True:
            actor = kind.remote(self._shared, self._plan.threads)
            try:
                place, trace = ray.get([actor.loaded.remote(), actor.ready.remote()], timeout=self.watch.timeout)
            except RayError as error:
                if not is_lost_with_node(error):
                    raise
                logger.warning("A process for an image alone was lost with its node while it started.")
                continue
            self.watch.note()
            return IsolationWorker(actor, place, trace, time.monotonic())
