"""A job from its options to its exit code: plan, stream, commit, verify."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dmt_ray.errors import DmtError
from dmt_ray.pipeline.editors import JobConfig
from dmt_ray.pipeline.plan import PreparedRun, prepare_run, write_run
from dmt_ray.pipeline.progress import Progress
from dmt_ray.pipeline.shard_file import committed
from dmt_ray.pipeline.verify import VerifyReport, verify_output
from dmt_ray.storage.files import masked

logger = logging.getLogger(__name__)

EXIT_COMPLETE = 0
EXIT_INCOMPLETE = 3
EXIT_ERRORS = 4

_STAGES = ("read", "traverse", "reconstruct")


def run_job(config: JobConfig, say: Callable[[str], None] = logger.info) -> int:
    """Work through a dataset and return the process's exit code.

    Attaches to a running Ray, and starts a local one otherwise. Every check that needs no actor comes before that.

    Parameters:
        config: all options.
        say: gets the closing summary, a line at a time.

    Returns:
        0 every planned input has its rows; 3 some have none; 4 more error rows than ``max_error_rate``.

    Raises:
        SettingsError: the options, the input or the output do not allow the run; nothing was written.
    """
    run = prepare_run(config)
    config = run.config
    for line in _intentions(run):
        (say if config.run.dry_run else logger.info)(line)
    if config.run.dry_run:
        say("Dry run: everything was checked, nothing was written.")
        return EXIT_COMPLETE
    totals: dict[str, float] = defaultdict(float)
    if run.todo:
        skipped = _run_on_ray(run, totals)
        if skipped:
            count = sum(map(len, run.exemplars.values()))
            say(f"{len(skipped)} of {count} {_exemplars(run)} were left out; the first: {skipped[0]}")
    else:
        write_run(run)
    report = verify_output(config.output.output)
    for line in _summary(run, report, totals):
        say(line)
    return exit_code(report, config.run.max_error_rate)


def exit_code(report: VerifyReport, max_error_rate: float) -> int:
    """Tell complete, incomplete and too many error rows apart."""
    if not report.complete:
        return EXIT_INCOMPLETE
    return EXIT_ERRORS if report.error_rate > max_error_rate else EXIT_COMPLETE


def _run_on_ray(run: PreparedRun, totals: dict[str, float]) -> list[str]:
    """Do what is to do; add the shards' figures to ``totals``; return what was wrong with unread exemplars."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        # No resource arguments: a submitted job or RAY_ADDRESS attaches to its cluster, anything else starts one.
        ray.init(logging_level=logging.WARNING, log_to_driver=True)
    try:
        return _run_shards(run, totals)
    finally:
        if started_here:
            ray.shutdown()


def _run_shards(run: PreparedRun, totals: dict[str, float]) -> list[str]:
    import ray

    from dmt_ray.pipeline.isolate import isolate_shards
    from dmt_ray.pipeline.stream import share_exemplars, stream_shards

    config = run.config
    shared, pools, skipped = share_exemplars(run)
    logger.info("Actors: traversal %s, reconstruction %s.", pools.traversal, pools.reconstruction)
    if len(run.todo) < pools.reconstruction.actors:
        logger.info("Fewer shards than actors: a smaller --shard-size would use more of this cluster.")
    for line in skipped:
        logger.warning("An exemplar was left out: %s", line)
    write_run(run)
    steps = len(config.strengths)
    planned = steps * run.shards.images
    finished = planned - steps * run.todo.images
    began = time.monotonic()
    with Progress(planned, finished, shown=config.run.progress) as progress:
        seen: set[int] = set()

        def count(summary: dict[str, Any]) -> None:
            seen.add(summary["shard"])
            progress.add(summary["rows"], summary["errors"])
            for name in ("rows", *(f"seconds_{stage}" for stage in _STAGES)):
                totals[name] += summary[name]

        try:
            for summary in stream_shards(run.todo, shared, pools):
                count(summary)
            lost = run.todo.without(seen)
            lost = lost.without(committed(lost, run.expected).sound)
            if lost:
                for summary in isolate_shards(lost, shared, pools.reconstruction):
                    count(summary)
        except (ray.exceptions.RayError, DmtError) as error:
            # What is committed stays; the check below says what is missing, and the exit code tells.
            logger.error("The run stopped early: %s", error)
    totals["seconds"] = time.monotonic() - began
    return skipped


def _exemplars(run: PreparedRun) -> str:
    """Name the exemplars as the job's options do."""
    return " and ".join(f"{option}s" for option in run.exemplars)


def _counts(run: PreparedRun) -> str:
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
    if not run.fresh:
        lines.append("The plan is frozen: files added to the input since then are not part of it.")
    if run.replace:
        lines.append("The earlier run there is replaced.")
    return lines


def _summary(run: PreparedRun, report: VerifyReport, totals: dict[str, float]) -> list[str]:
    lines = [f"Output: {masked(run.config.output.output)}", *report.sentences()]
    rows = round(totals["rows"])
    if rows:
        stages = ", ".join(f"{stage} {totals[f'seconds_{stage}'] / rows:.3f}" for stage in _STAGES)
        seconds = totals["seconds"]
        lines.append(
            f"{rows} images in {seconds:.1f} s after start-up: {rows / seconds:.2f} images/s; "
            f"seconds per image: {stages}."
        )
    else:
        lines.append("Nothing was left to do.")
    code = exit_code(report, run.config.run.max_error_rate)
    if code == EXIT_INCOMPLETE:
        lines.append("Incomplete: run the same command again to do what is missing.")
    elif code == EXIT_ERRORS:
        lines.append(
            f"{report.error_rate:.1%} of the rows are errors, more than --max-error-rate "
            f"{run.config.run.max_error_rate:.1%}."
        )
    return lines
