"""A job from its options to its exit code: plan, stream, commit, verify."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.exemplar_sets import describe_balance
from dmt_ray.jobs.job import Arrays, JobConfig
from dmt_ray.jobs.judging import JudgeReport
from dmt_ray.jobs.manifolds import save_manifold
from dmt_ray.output.layout import MANIFOLD_FOLDER
from dmt_ray.output.run_record import RUN_FILE, recorded_fingerprint
from dmt_ray.output.shard_file import committed
from dmt_ray.output.verify import VerifyReport, verify_output
from dmt_ray.pipeline.planning import KIND_OPTION
from dmt_ray.pipeline.prepare import PreparedRun, prepare_run, write_run
from dmt_ray.pipeline.progress import ActorGroup, Progress
from dmt_ray.pipeline.stopping import Stopper, call_polling, poll_during
from dmt_ray.pipeline.summary import STAGES, ShardSummary
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.models.manifolds import RECORD_NAME, open_arrays

if TYPE_CHECKING:
    from dmt_ray.pipeline.actors import Shared
    from dmt_ray.pipeline.cluster import Cluster
    from dmt_ray.pipeline.no_progress import ProgressWatch
    from dmt_ray.pipeline.resources import PoolPlan
    from dmt_ray.pipeline.start_progress import StartProgress

logger = logging.getLogger(__name__)

#: Seconds between two questions how many actors are at work.
BUSY_S = 2.0
#: Seconds that the run's ``Attempts`` has to answer at the end.
_ANSWER_S = 5.0

EXIT_COMPLETE = 0
EXIT_INCOMPLETE = 3
EXIT_ERRORS = 4


@dataclass
class RunOutcome:
    """What a run did itself, whatever its output holds besides."""

    written: bool = False
    """The plan and ``run.json`` are in the output."""
    skipped: list[str] = field(default_factory=list)
    """One sentence for each exemplar that could not be read."""
    judge: JudgeReport | None = None
    """How good the judge is, where there is one."""
    finished: set[int] = field(default_factory=set)
    """Shards of which a summary came."""
    rows: int = 0
    seconds: float = 0.0
    """From the first shard's begin to the last one's end."""
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Summed over the rows."""

    def add(self, summary: ShardSummary) -> None:
        """Add the figures of a shard."""
        self.finished.add(summary.shard)
        self.rows += summary.rows
        for stage in STAGES:
            self.stage_seconds[stage] += getattr(summary, f"seconds_{stage}")

    def not_retried(self, run: PreparedRun) -> int:
        """Return how many error rows ``--retry-failed`` was to try again and did not; verify cannot tell."""
        return sum(errors for shard, errors in run.retry.items() if shard not in self.finished)


def run_job(config: JobConfig, emit: Callable[[str], None] = logger.info) -> int:
    """Work through a dataset and return the process's exit code.

    Attaches to a running Ray, and starts a local one otherwise. Every check that needs no actor comes before that.
    When the cluster is lost on the way, the caller should end its process soon: Ray's native code will.

    Parameters:
        config: all options.
        emit: gets the closing summary, a line at a time.

    Returns:
        0 every planned input has its rows, and ``--retry-failed`` has tried all error rows again; 3 some have none,
        or were not tried again; 4 more error rows than ``max_error_rate``, or so many that the run was stopped.

    Raises:
        SettingsError: the options, the input, the output or the cluster do not allow the run, and nothing was
            written; or another run took the output over meanwhile.
        KeyboardInterrupt: a signal came before the first shard, or a second one.
    """
    run = prepare_run(config)
    config = run.config
    for line in _intentions(run):
        (emit if config.run.dry_run else logger.info)(line)
    if config.run.dry_run:
        from dmt_ray.pipeline.estimating import estimate_sentences

        for line in estimate_sentences(run):
            emit(line)
        emit("Dry run: the settings and places were checked, nothing was written.")
        return EXIT_COMPLETE
    # A retry does what failed before: that much of it fails again says nothing of the whole.
    allowed = None if config.run.retry_failed else config.run.max_error_rate
    stopper = Stopper(config.run.grace, allowed)
    outcome = RunOutcome()
    if run.todo:
        _run_on_ray(run, outcome, stopper)
        if outcome.skipped:
            count = sum(len(found.items) for found in run.exemplars.values())
            names = _exemplars(run)
            emit(f"{len(outcome.skipped)} of {count} {names} were left out; the first: {outcome.skipped[0]}")
        if not outcome.written:
            emit("The run stopped before its first shard and has written nothing: run the same command again.")
            return EXIT_INCOMPLETE
    else:
        write_run(run)
    report = _verify_own(run)
    not_retried = outcome.not_retried(run)
    code = exit_code(
        report, config.run.max_error_rate, going_wrong=stopper.going_wrong, finished_retries=not not_retried
    )
    for line in _summary(run, report, outcome, code):
        emit(line)
    return code


def exit_code(
    report: VerifyReport, max_error_rate: float, *, going_wrong: bool = False, finished_retries: bool = True
) -> int:
    """Tell complete, incomplete and too many error rows apart.

    Parameters:
        report: on the output.
        max_error_rate: share of the rows that may be errors.
        going_wrong: the run stopped by itself because of its error rows.
        finished_retries: every error row that the run was to try again was tried.
    """
    if going_wrong:
        return EXIT_ERRORS
    if not report.complete or not finished_retries:
        return EXIT_INCOMPLETE
    return EXIT_ERRORS if report.error_rate > max_error_rate else EXIT_COMPLETE


def _verify_own(run: PreparedRun) -> VerifyReport:
    """Verify the output, and that it is this run's own before and after that.

    Raises:
        SettingsError: another run has taken the output over.
    """
    _check_own(run)
    report = verify_output(run.config.output.output)
    _check_own(run)
    return report


def _check_own(run: PreparedRun) -> None:
    output = run.config.output.output
    try:
        found = recorded_fingerprint(output)
    except SettingsError:
        found = None
    if found != run.fingerprint:
        what = "is gone" if found is None else "is of a run with other settings"
        raise SettingsError(
            f"{files.join(masked(output), RUN_FILE)} {what}: another run has taken this output over while this one "
            "worked, and none of this run's rows count. Give each run an --output of its own."
        )


def _run_on_ray(run: PreparedRun, outcome: RunOutcome, stopper: Stopper) -> None:
    """Do what is to do, and note in ``outcome`` what was done; log what ends it early.

    Raises:
        SettingsError: the exemplars, the options or the cluster do not allow the run, and no shard was done.
    """
    from dmt_ray.pipeline.cluster import Cluster
    from dmt_ray.pipeline.devices import NoDeviceError
    from dmt_ray.pipeline.failures import log_failure
    from dmt_ray.pipeline.no_progress import LearningWatch, ProgressWatch
    from dmt_ray.pipeline.sharing import share_exemplars, start_attempts
    from dmt_ray.pipeline.start_progress import StartProgress
    from dmt_ray.pipeline.waiting import asking_for_workers, wait_for_workers

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
    import ray
    from ray.exceptions import RayError

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
    from dmt_ray.pipeline.asking import Question
    from dmt_ray.pipeline.dispatch import ShardStream
    from dmt_ray.pipeline.isolation import isolate_shards

    planned, shown = len(run.config.strengths) * run.shards.images, run.config.run.progress
    actors = {
        stage: ActorGroup(min(plan.actors, len(run.todo)), plan.num_gpus)
        for stage, plan in (("traverse", pools.traversal), ("reconstruct", pools.reconstruction))
    }
    progress = Progress(planned, planned - run.rows_todo, shown=shown, actors=actors)
    busy = Question(lambda: shared.attempts_actor.busy.remote(), BUSY_S)

    def look() -> None:
        stopper.look()
        cluster.check()
        start.look()
        watch.check()
        if shown and (answer := busy.answer()) is not None:
            progress.note_busy(answer)

    keep_manifold(run, shared, outcome.judge)
    watch.note()
    with stopper, progress:

        def count(summary: ShardSummary) -> None:
            start.end()
            outcome.add(summary)
            if shared.metrics is not None:
                shared.metrics.add(summary)
            progress.add(summary.rows, summary.errors)
            stopper.count(summary.rows, summary.errors)

        with ShardStream(run.todo.numbers, shared, pools, watch) as stream:

            def stop_shards() -> None:
                stream.stop()
                shared.attempts_actor.stop.remote()

            stopper.stop_shards = stop_shards
            for summary in poll_during(iter(stream), look):
                count(summary)
        lost = run.todo.without(outcome.finished)
        lost = lost.without(committed(lost, run.expected).sound.keys() - run.retry.keys())
        if lost and not stopper.stopping:
            # Only as many processes as have just had room: one that has to wait for it would hold up the others.
            plan = replace(pools.reconstruction, actors=stream.room)
            isolated = isolate_shards(lost, shared, plan, lambda: stopper.stopping, watch)
            for summary in poll_during(isolated, look):
                count(summary)


def keep_manifold(run: PreparedRun, shared: Shared, judge: JudgeReport | None) -> None:
    """Save what a run of traversals alone learned beside its shards, unless it lies somewhere already."""
    import ray

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


def _exemplars(run: PreparedRun) -> str:
    """Name the exemplars as the job's options do."""
    return " and ".join(f"{option}s" for option in run.exemplars)


def _counts(run: PreparedRun) -> str:
    if run.manifold is not None:
        return f"manifold {masked(run.manifold.place)}"
    return ", ".join(f"{len(found.items)} {option}s" for option, found in run.exemplars.items())


def _intentions(run: PreparedRun) -> list[str]:
    config = run.config
    planned = run.shards.images
    todo = run.todo.without(run.retry)
    lines = [
        f"{planned} images in {len(run.shards)} shards, {todo.images} of them in {len(todo)} shards to do; "
        f"{_counts(run)}; weights {run.weights_label} from {run.weights.origin}.",
        f"Output: {masked(config.output.output)}",
    ]
    if run.listing is not None:
        lines += run.listing.passed_over.sentences(run.listing.kind, KIND_OPTION)
    if run.learnable.balance is not None:
        lines.append(describe_balance(run.learnable.balance))
    if run.extended:
        grown = planned - (0 if run.found.plan is None else run.found.plan.images)
        if grown:
            lines.append(f"The plan has grown by {grown} new image{'' if grown == 1 else 's'}.")
        else:
            lines.append("No image is new; the plan takes the tables and archives as they are now.")
    elif not run.fresh and not config.run.extend:
        lines.append("The plan is frozen; --extend adds inputs that have come since then.")
    if run.retry:
        lines.append(f"{sum(run.retry.values())} error rows in {len(run.retry)} other shards are done again.")
    if run.replace:
        lines.append("The earlier run there is replaced.")
    return lines


def _flips(run: PreparedRun, report: VerifyReport) -> str:
    """Say how many results became of the target class, of those whose inputs were not; for each strength."""
    shares = {
        step: f"{flipped} of {judged} ({flipped / judged:.0%})"
        for step, (flipped, judged) in sorted(report.flips.items())
    }
    if not shares:
        return "none, as the judge calls every input the target class already"
    if len(run.config.strengths) == 1:
        return shares[0]
    names = [
        f"step {step}" if strength is None else f"{strength:g}" for step, strength in enumerate(run.config.strengths)
    ]
    return "by strength, " + ", ".join(f"{names[step]}: {share}" for step, share in shares.items())


def _summary(run: PreparedRun, report: VerifyReport, outcome: RunOutcome, code: int) -> list[str]:
    lines = [f"Output: {masked(run.config.output.output)}", *report.sentences()]
    judge = outcome.judge or run.judge_report
    if judge is not None and not run.config.output.traversal_only and report.rows > report.errors:
        lines.append(f"Flipped: {_flips(run, report)} ({judge}).")
    if outcome.rows:
        stages = ", ".join(
            f"{stage} {seconds / outcome.rows:.3f}" for stage, seconds in outcome.stage_seconds.items()
        )
        lines.append(
            f"{outcome.rows} rows in {outcome.seconds:.1f} s after start-up: {outcome.rows / outcome.seconds:.2f} "
            f"rows/s; seconds per row: {stages}."
        )
    elif not run.todo:
        lines.append("Nothing was left to do.")
    if not report.complete:
        lines.append("Incomplete: run the same command again to do what is missing.")
    if not_retried := outcome.not_retried(run):
        lines.append(
            f"The run stopped early: {not_retried} of the {sum(run.retry.values())} error rows were not tried again. "
            "Run the same command again."
        )
    if code == EXIT_ERRORS:
        lines.append(
            f"{report.error_rate:.1%} of the rows are errors, more than --max-error-rate "
            f"{run.config.run.max_error_rate:.1%}."
        )
    return lines
