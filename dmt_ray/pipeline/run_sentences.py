"""What a run says in sentences: before it, what it will do; after it, what came of it."""

from __future__ import annotations

from dmt_ray.jobs.exemplar_sets import describe_balance, exemplar_noun
from dmt_ray.output.verify import VerifyReport
from dmt_ray.pipeline.outcome import EXIT_ERRORS, RunOutcome
from dmt_ray.pipeline.planning import KIND_OPTION
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.storage.files import masked
from dmt_ray.words import agreed, counted


def name_exemplars(run: PreparedRun) -> str:
    """Name the sets of exemplars."""
    return " and ".join(f"{exemplar_noun(option)}s" for option in run.exemplars)


def _counts(run: PreparedRun) -> str:
    if run.manifold is not None:
        return f"manifold {masked(run.manifold.place)}"
    return ", ".join(counted(len(found.items), exemplar_noun(option)) for option, found in run.exemplars.items())


def intentions(run: PreparedRun) -> list[str]:
    """Return what a run will do, as sentences for the log."""
    config = run.config
    planned = run.shards.images
    todo = run.todo.without(run.retry)
    lines = [
        f"{counted(planned, 'image')} in {counted(len(run.shards), 'shard')}, {todo.images} of them in "
        f"{counted(len(todo), 'shard')} to do; "
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
            lines.append(f"The plan has grown by {counted(grown, 'new image')}.")
        else:
            lines.append("No image is new; the plan takes the tables and archives as they are now.")
    elif not run.fresh and not config.run.extend:
        lines.append("The plan is frozen; --extend adds inputs that have come since then.")
    if run.retry:
        failed = sum(run.retry.values())
        lines.append(
            f"{counted(failed, 'error row')} in {counted(len(run.retry), 'other shard')} "
            f"{agreed(failed, 'is', 'are')} done again."
        )
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


def closing_summary(run: PreparedRun, report: VerifyReport, outcome: RunOutcome, code: int) -> list[str]:
    """Return what came of a run, as sentences.

    Parameters:
        run: what was prepared.
        report: on the output.
        outcome: what the run did itself.
        code: its exit code.
    """
    lines = [f"Output: {masked(run.config.output.output)}", *report.sentences()]
    judge = outcome.judge or run.judge_report
    if judge is not None and not run.config.output.traversal_only and report.rows > report.errors:
        lines.append(f"Flipped: {_flips(run, report)} ({judge}).")
    if outcome.rows:
        stages = ", ".join(
            f"{stage} {seconds / outcome.rows:.3f}" for stage, seconds in outcome.stage_seconds.items()
        )
        lines.append(
            f"{counted(outcome.rows, 'row')} in {outcome.seconds:.1f} s after start-up: "
            f"{outcome.rows / outcome.seconds:.2f} rows/s; seconds per row: {stages}."
        )
    elif not run.todo:
        lines.append("Nothing was left to do.")
    if not report.complete:
        lines.append("Incomplete: run the same command again to do what is missing.")
    if not_retried := outcome.not_retried(run):
        lines.append(
            f"The run stopped early: {not_retried} of the {counted(sum(run.retry.values()), 'error row')} "
            f"{agreed(not_retried, 'was', 'were')} not tried again. Run the same command again."
        )
    if code == EXIT_ERRORS:
        lines.append(
            f"{report.error_rate:.1%} of the rows are errors, more than --max-error-rate "
            f"{run.config.run.max_error_rate:.1%}."
        )
    return lines
