"""``dmt_ray.run``: a whole run from Python, and its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import pyarrow as pa

from dmt_ray.config import ReportOptions
from dmt_ray.jobs.job import JobConfig
from dmt_ray.output.read_rows import read_rows
from dmt_ray.pipeline.outcome import EXIT_COMPLETE, EXIT_ERRORS, EXIT_INCOMPLETE
from dmt_ray.pipeline.run import run_job
from dmt_ray.report.page import write_report
from dmt_ray.storage import files

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        output: its folder or URI.
        exit_code: 0 every planned photo has its rows; 3 some have none: run it again; 4 they have, but more of them
            are errors than ``max_error_rate`` allows.
        summary: the closing lines.
    """

    output: str
    exit_code: int
    summary: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every planned photo has a row for each strength, good or bad."""
        return self.exit_code in (EXIT_COMPLETE, EXIT_ERRORS)

    @overload
    def rows(
        self, columns: Sequence[str] | None = None, *, form: Literal["arrow"] = "arrow", batch_size: int = 64
    ) -> Iterator[pa.RecordBatch]: ...

    @overload
    def rows(
        self, columns: Sequence[str] | None = None, *, form: Literal["pandas"], batch_size: int = 64
    ) -> Iterator[pandas.DataFrame]: ...

    def rows(
        self,
        columns: Sequence[str] | None = None,
        *,
        form: Literal["arrow", "pandas"] = "arrow",
        batch_size: int = 64,
    ) -> Iterator[pa.RecordBatch] | Iterator[pandas.DataFrame]:
        """Yield the committed rows, lazily and in the plan's order, error rows among them.

        Parameters:
            columns: names of columns (docs/output.md). Default: all, with the pictures.
            form: ``arrow`` for record batches, ``pandas`` for data frames.
            batch_size: rows of a batch at most.

        Raises:
            SettingsError: nothing was written, or there is no such column.
            StorageError: a file cannot be read.
        """
        batches = read_rows(self.output, columns, batch_size)
        return batches if form == "arrow" else (batch.to_pandas() for batch in batches)


def run(config: JobConfig) -> RunResult:
    """Work through a dataset on Ray, as the command line does; the same call goes on with what is missing.

    Attaches to a running Ray, and starts a local one otherwise. The log says how it goes (``logging``, level INFO).

    ::

        config = dmt_ray.ColorizeConfig.of(input="photos/", reference="colour/", output="out/")
        for batch in dmt_ray.run(config).rows(["id", "status", "psnr_to_input"]):
            print(batch.to_pylist())

    Parameters:
        config: all options; ``ColorizeConfig.of`` and ``TransformConfig.of`` make them from keywords.

    Raises:
        SettingsError: the options, the input, the output or the cluster do not allow the run; nothing was written.
        KeyboardInterrupt: a signal came before the first shard, or a second one.
    """
    lines: list[str] = []
    code = run_job(config, emit=lines.append)
    if config.run.report and not config.run.dry_run and code != EXIT_INCOMPLETE:
        lines += write_report(config.output.output, ReportOptions()).sentences()
    return RunResult(files.absolute(config.output.output), code, tuple(lines))
