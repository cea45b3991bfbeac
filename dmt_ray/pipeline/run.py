"""A job from its options to its exit code: plan, stream, commit, verify."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.output.run_record import RUN_FILE, recorded_fingerprint
from dmt_ray.output.verify import VerifyReport, verify_output
from dmt_ray.pipeline.outcome import EXIT_COMPLETE, EXIT_INCOMPLETE, RunOutcome, exit_code
from dmt_ray.pipeline.prepare import PreparedRun, prepare_run, write_run
from dmt_ray.pipeline.run_sentences import closing_summary, intentions, name_exemplars
from dmt_ray.pipeline.stopping import Stopper
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.words import agreed

logger = logging.getLogger(__name__)


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
    for line in intentions(run):
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
        from dmt_ray.pipeline.run_on_ray import run_on_ray

        run_on_ray(run, outcome, stopper)
        if outcome.skipped:
            count = sum(len(found.items) for found in run.exemplars.values())
            names = name_exemplars(run)
            were = agreed(len(outcome.skipped), "was", "were")
            emit(f"{len(outcome.skipped)} of {count} {names} {were} left out; the first: {outcome.skipped[0]}")
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
    for line in closing_summary(run, report, outcome, code):
        emit(line)
    return code


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
