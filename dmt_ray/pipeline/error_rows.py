"""The rows of images that have no result: what went wrong, in a word and in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from dmt_ray.errors import DmtError, ImageError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.output.row import Row
from dmt_ray.output.schema import rows_table
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import InputItem


def crash_row(item: InputItem, config: JobConfig, *, error: str, attempts: int, weights_label: str) -> pa.Table:
    """Return the rows of an image whose process died each time it was tried."""
    row = Row(
        id=item.id, uri=masked(item.uri), error_type="crash", error=error, attempts=attempts, weights=weights_label
    )
    return rows_table(vars(each) for each in error_rows(row, config))


def error_rows(row: Row, config: JobConfig) -> list[Row]:
    """Return the rows, one per step as for every image, of one that failed."""
    return [
        replace(row, step=step, strength=strength, status="error") for step, strength in enumerate(config.strengths)
    ]


def describe_error(error: Exception) -> tuple[str, str]:
    """Return the ``error_type`` and the ``error`` of a row."""
    if isinstance(error, ImageError):
        kind = error.kind
    elif isinstance(error, DmtError):
        kind = "storage"
    else:
        kind = type(error).__name__
    return kind, str(error) or type(error).__name__
