"""A job from its options to its exit code: plan, stream, commit, verify."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.editors import JobConfig
from dmt_ray.jobs.exemplars import MANIFOLD_FOLDER, saved_manifold
from dmt_ray.jobs.manifolds import save_manifold
from dmt_ray.output.shard_file import committed
from dmt_ray.output.verify import VerifyReport, verify_output
from dmt_ray.pipeline.prepare import PreparedRun, prepare_run, write_run
from dmt_ray.pipeline.progress import Progress
from dmt_ray.pipeline.stopping import GraceOverError, Stopper, poll_during
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.models.manifolds import RECORD_NAME

if TYPE_CHECKING:
    from dmt_ray.pipeline.actors import Shared

logger = logging.getLogger(__name__)

EXIT_COMPLETE = 0
EXIT_INCOMPLETE = 3
EXIT_ERRORS = 4

_STAGES = ("read", "traverse", "reconstruct")


def run_job(config: JobConfig, emit: Callable[[str], None] = logger.info) -> int:
    """Work through a dataset and return the process's exit code.

    Attaches to a running Ray, and starts a local one otherwise. Every check that needs no actor comes before that.

    Parameters:
        config: all options.
        emit: gets the closing summary, a line at a time.

    Returns:
        0 every planned input has its rows; 3 some have none; 4 more error rows than ``max_error_rate``, or so many
        that the run was stopped.

    Raises:
        SettingsError: the options, the input, the output or the cluster do not allow the run; nothing was written.
    """
    run = prepare_run(config)
    config = run.config
    for line in _intentions(run):
        (emit if config.run.dry_run else logger.info)(line)
    if config.run.dry_run:
        emit("Dry run: everything was checked, nothing was written.")
        return EXIT_COMPLETE
    totals: dict[str, float] = defaultdict(float)
    # A retry does what failed before: that much of it fails again says nothing of the whole.
    allowed = None if config.run.retry_failed else config.run.max_error_rate
    stopper = Stopper(config.run.grace, allowed)
    if run.todo:
        skipped = _run_on_ray(run, totals, stopper)
        if skipped:
            count = sum(map(len, run.exemplars.values()))
            emit(f"{len(skipped)} of {count} {_exemplars(run)} were left out; the first: {skipped[0]}")
    else:
        write_run(run)
    report = verify_output(config.output.output)
    code = exit_code(report, config.run.max_error_rate, going_wrong=stopper.going_wrong)
    for line in _summary(run, report, totals, code):
        emit(line)
    return code


def exit_code(report: VerifyReport, max_error_rate: float, *, going_wrong: bool = False) -> int:
    """Tell complete, incomplete and too many error rows apart."""
    if going_wrong:
        return EXIT_ERRORS
    if not report.complete:
        return EXIT_INCOMPLETE
    return EXIT_ERRORS if report.error_rate > max_error_rate else EXIT_COMPLETE


def _run_on_ray(run: PreparedRun, totals: dict[str, float], stopper: Stopper) -> list[str]:
    """Do what is to do; add the shards' figures to ``totals``; return what was wrong with unread exemplars."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        # No resource arguments: a submitted job or RAY_ADDRESS attaches to its cluster, anything else starts one.
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=True)
        except (ConnectionError, ValueError) as error:  # not there, or no address
            where = os.environ.get("RAY_ADDRESS", "auto")
            raise SettingsError(
                f"No Ray cluster can be reached at RAY_ADDRESS={where} ({' '.join(str(error).split())}). Start it, "
                "mend or unset the address, or copy the cluster's token to this machine where it asks for one."
            ) from error
    try:
        return _run_shards(run, totals, stopper)
    finally:
        if started_here:
            ray.shutdown()


def _run_shards(run: PreparedRun, totals: dict[str, float], stopper: Stopper) -> list[str]:
    import ray

    from dmt_ray.pipeline.isolation import isolate_shards
    from dmt_ray.pipeline.stream import share_exemplars, stream_shards

    config = run.config
    shared, pools, skipped = share_exemplars(run)
    logger.info("Actors: traversal %s, reconstruction %s.", pools.traversal, pools.reconstruction)
    if len(run.todo) < pools.reconstruction.actors:
        logger.info("Fewer shards than actors: a smaller --shard-size would use more of this cluster.")
    for line in skipped:
        logger.warning("An exemplar was left out: %s", line)
    write_run(run)
    keep_manifold(run, shared)
    steps = len(config.strengths)
    planned = steps * run.shards.images
    began = time.monotonic()
    stopper.stop_shards = shared.attempts_actor.stop.remote
    with stopper, Progress(planned, planned - run.rows_todo, shown=config.run.progress) as progress:
        seen: set[int] = set()

        def count(summary: dict[str, Any]) -> None:
            seen.add(summary["shard"])
            progress.add(summary["rows"], summary["errors"])
            stopper.count(summary["rows"], summary["errors"])
            for name in ("rows", *(f"seconds_{stage}" for stage in _STAGES)):
                totals[name] += summary[name]

        try:
            for summary in poll_during(stream_shards(run.todo, shared, pools), stopper.look):
                count(summary)
            lost = run.todo.without(seen)
            lost = lost.without(committed(lost, run.expected).sound.keys() - run.retry.keys())
            if lost and not stopper.stopping:
                isolated = isolate_shards(lost, shared, pools.reconstruction, lambda: stopper.stopping)
                for summary in poll_during(isolated, stopper.look):
                    count(summary)
        except (ray.exceptions.RayError, DmtError, GraceOverError) as error:
            # What is committed stays; the check below says what is missing, and the exit code tells.
            logger.error("The run stopped early: %s", error)
    totals["seconds"] = time.monotonic() - began
    return skipped


def keep_manifold(run: PreparedRun, shared: Shared) -> None:
    """Save what a run of traversals alone learned beside its shards, unless it lies somewhere already."""
    import ray

    place = files.join(run.config.output.output, MANIFOLD_FOLDER)
    if not run.config.output.traversal_only or run.manifold is not None:
        return
    if files.exists(files.join(place, RECORD_NAME)):
        return
    arrays: Any = ray.get(shared.exemplars)
    save_manifold(place, run.config, run.weights, run.exemplars, arrays)


def _exemplars(run: PreparedRun) -> str:
    """Name the exemplars as the job's options do."""
    return " and ".join(f"{option}s" for option in run.exemplars)


def _counts(run: PreparedRun) -> str:
    if run.manifold is not None:
        return f"manifold {masked(saved_manifold(run.config) or '')}"
    return ", ".join(f"{len(items)} {option}s" for option, items in run.exemplars.items())


def _intentions(run: PreparedRun) -> list[str]:
    config = run.config
    planned = run.shards.images
    todo = run.todo.images
    lines = [
        f"{planned} images in {len(run.shards)} shards, {todo} of them in {len(run.todo)} shards to do; "
        f"{_counts(run)}; weights {run.weights_label} from {run.weights.origin}.",
        f"Output: {masked(config.output.output)}",
    ]
    if run.extended:
        lines.append("The plan has grown by the inputs that are new.")
    elif not run.fresh and not config.run.extend:
        lines.append("The plan is frozen; --extend adds inputs that have come since then.")
    if run.retry:
        lines.append(f"{sum(run.retry.values())} error rows in {len(run.retry)} of these shards are done again.")
    if run.replace:
        lines.append("The earlier run there is replaced.")
    return lines


def _summary(run: PreparedRun, report: VerifyReport, totals: dict[str, float], code: int) -> list[str]:
    lines = [f"Output: {masked(run.config.output.output)}", *report.sentences()]
    rows = round(totals["rows"])
    if rows:
        stages = ", ".join(f"{stage} {totals[f'seconds_{stage}'] / rows:.3f}" for stage in _STAGES)
        seconds = totals["seconds"]
        lines.append(
            f"{rows} rows in {seconds:.1f} s after start-up: {rows / seconds:.2f} rows/s; seconds per row: {stages}."
        )
    elif not run.todo:
        lines.append("Nothing was left to do.")
    if not report.complete:
        lines.append("Incomplete: run the same command again to do what is missing.")
    if code == EXIT_ERRORS:
        lines.append(
            f"{report.error_rate:.1%} of the rows are errors, more than --max-error-rate "
            f"{run.config.run.max_error_rate:.1%}."
        )
    return lines
