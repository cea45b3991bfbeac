"""The part of a run that needs a cluster: learn from the exemplars, run the shards, and tell how far they are."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from dmt_ray.errors import DmtError
from dmt_ray.jobs.job import Arrays
from dmt_ray.jobs.judging import JudgeReport
from dmt_ray.jobs.manifolds import save_manifold
from dmt_ray.output.layout import MANIFOLD_FOLDER
from dmt_ray.output.shard_file import committed
from dmt_ray.pipeline.actors import Shared
from dmt_ray.pipeline.cluster import Cluster
from dmt_ray.pipeline.devices import NoDeviceError
from dmt_ray.pipeline.dispatch import ShardStream
from dmt_ray.pipeline.failures import log_failure
from dmt_ray.pipeline.isolation import IsolationStream
from dmt_ray.pipeline.metrics import Metrics
from dmt_ray.pipeline.no_progress import LearningWatch, ProgressWatch
from dmt_ray.pipeline.outcome import RunOutcome
from dmt_ray.pipeline.prepare import PreparedRun, write_run
from dmt_ray.pipeline.progress import ActorGroup, Progress
from dmt_ray.pipeline.resources import PoolPlan
from dmt_ray.pipeline.sharing import share_exemplars, start_attempts
from dmt_ray.pipeline.start_progress import StartProgress
from dmt_ray.pipeline.stopping import Stopper, call_polling, poll_during
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.pipeline.waiting import asking_for_workers, wait_for_workers
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.models.manifolds import RECORD_NAME, open_arrays

logger = logging.getLogger(__name__)

#: Seconds between two looks at how many actors are at work.
BUSY_S = 2.0
#: Seconds that the run's ``Attempts`` has to answer at the end.
_ANSWER_S = 5.0


def run_on_ray(run: PreparedRun, outcome: RunOutcome, stopper: Stopper) -> None:
    """Do what is to do, and note in ``outcome`` what was done; log what ends it early.

    Raises:
        SettingsError: the exemplars, the options or the cluster do not allow the run, and no shard was done.
    """
    compute = run.config.compute
    with Cluster(compute.ray_address) as cluster, asking_for_workers(compute):
        attempts_actor = start_attempts()
        count = sum(len(found.items) for found in run.exemplars.values())
        start = StartProgress(attempts_actor, count, shown=run.config.run.progress)
        watch = ProgressWatch(run.config.run.no_progress_timeout)
        learning = LearningWatch(watch, attempts_actor)

        def look() -> None:
            cluster.check()
            start.look()
            learning.look()

        try:
            call_polling(lambda: wait_for_workers(compute), cluster.check)
            watch.note()
            shared, pools, learned = call_polling(lambda: share_exemplars(run, attempts_actor), look)
        except DmtError:
            raise
        except Exception as error:
            log_failure(error)
            # What an earlier run left is still as it was: a resumed one can be verified.
            outcome.written = not (run.fresh or run.extended)
            return
        outcome.skipped, outcome.judge = learned.skipped, learned.judge or run.judge_report
        if outcome.judge is not None:
            outcome.judge.log()
        logger.info("Actors: traversal %s, reconstruction %s.", pools.traversal, pools.reconstruction)
        if pools.reconstruction.least is None and len(run.todo) < pools.reconstruction.actors:
            logger.info("Fewer shards than actors: a smaller --shard-size would use more of this cluster.")
        for line in outcome.skipped:
            logger.warning("An exemplar was left out: %s", line)
        write_run(replace(run, judge_report=outcome.judge))
        outcome.written = True
        began = time.monotonic()
        try:
            start.wait_for_actors(pools, len(run.todo))
            _run_shards(run, shared, pools, cluster, outcome, stopper, start, watch)
            if shared.metrics is not None:
                shared.metrics.end()
        except Exception as error:
            if isinstance(error, NoDeviceError) and not outcome.finished:
                raise
            # What is committed stays; the closing check says what is missing, and the exit code tells.
            log_failure(error)
        since_start = time.monotonic() - began
        outcome.seconds = _since_first_shard(attempts_actor) or since_start


def _since_first_shard(attempts_actor: Any) -> float | None:
    """Return the seconds since the first shard began; None where none did, or the cluster does not say."""
    try:
        seconds: float | None = ray.get(attempts_actor.seconds.remote(), timeout=_ANSWER_S)
    except RayError:
        return None
    return seconds


def _run_shards(
    run: PreparedRun,
    shared: Shared,
    pools: PoolPlan,
    cluster: Cluster,
    outcome: RunOutcome,
    stopper: Stopper,
    start: StartProgress,
    watch: ProgressWatch,
) -> None:
    """Run the shards, and then those that were lost to crashes image by image.

    Raises:
        Exception: whatever stops the run before its end.
    """
    planned = len(run.config.strengths) * run.shards.images
    groups = {
        stage: ActorGroup(min(plan.actors, len(run.todo)), plan.num_gpus)
        for stage, plan in (("traverse", pools.traversal), ("reconstruct", pools.reconstruction))
    }
    progress = Progress(planned, planned - run.rows_todo, shown=run.config.run.progress, actors=groups)

    def count(summary: ShardSummary) -> None:
        start.end()
        outcome.add(summary)
        if shared.metrics is not None:
            shared.metrics.add(summary)
        progress.add(summary.rows, summary.errors)
        stopper.count(summary.rows, summary.errors)

    def work_through(stream: ShardStream | IsolationStream) -> None:
        tell = _Teller(stream, progress, shared.metrics)

        def look() -> None:
            stopper.look()
            cluster.check()
            start.look()
            watch.check()
            tell.look()

        for summary in poll_during(iter(stream), look):
            count(summary)
        tell.tell()

    keep_manifold(run, shared, outcome.judge)
    watch.note()
    with stopper, progress:
        with ShardStream(run.todo.numbers, shared, pools, watch) as stream:

            def stop_shards() -> None:
                stream.stop()
                shared.attempts_actor.stop.remote()

            stopper.stop_shards = stop_shards
            work_through(stream)
        lost = run.todo.without(outcome.finished)
        lost = lost.without(committed(lost, run.expected).sound.keys() - run.retry.keys())
        if lost and not stopper.stopping:
            # Only as many processes as have just had room: one that has to wait for it would hold up the others.
            plan = replace(pools.reconstruction, actors=stream.room)
            progress.actors = {"isolation": ActorGroup(plan.actors, plan.num_gpus)}
            work_through(IsolationStream(lost, shared, plan, lambda: stopper.stopping, watch))


class _Teller:
    """Tells the bar, the log and the metrics every ``BUSY_S`` which actors of a stream have something to do."""

    def __init__(self, stream: ShardStream | IsolationStream, progress: Progress, metrics: Metrics | None) -> None:
        self._stream, self._progress, self._metrics = stream, progress, metrics
        self._told = -math.inf

    def look(self) -> None:
        """Tell when it is time."""
        if time.monotonic() - self._told >= BUSY_S:
            self.tell()

    def tell(self) -> None:
        """Tell now."""
        self._told = time.monotonic()
        self._progress.note_busy(self._stream.busy)
        if self._metrics is not None:
            self._metrics.note(self._stream.busy, self._stream.begun)


def keep_manifold(run: PreparedRun, shared: Shared, judge: JudgeReport | None) -> None:
    """Save what a run of traversals alone learned beside its shards, unless it lies somewhere already."""
    place = files.join(run.config.output.output, MANIFOLD_FOLDER)
    if not run.config.output.traversal_only or run.manifold is not None:
        return
    try:
        open_arrays(place)
    except StorageError as error:
        if files.exists(files.join(place, RECORD_NAME)):
            logger.warning("The manifold is saved anew: %s", error)
        arrays: Arrays = ray.get(shared.exemplars)
        learned = run.learnable
        save_manifold(place, run.config, run.weights.sha256, learned.learned, arrays, learned.balance, judge)
