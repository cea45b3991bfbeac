"""What a run did, as opposed to what its output holds, and the exit code that this comes to."""

from __future__ import annotations

from dataclasses import dataclass, field

from dmt_ray.jobs.judging import JudgeReport
from dmt_ray.output.verify import VerifyReport
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.summary import STAGES, ShardSummary

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
