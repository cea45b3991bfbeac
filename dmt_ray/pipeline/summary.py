"""What the driver learns about a committed shard: counts, times and where it was done, without the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

#: The stages of an image, each with a column ``seconds_*``.
STAGES = ("read", "traverse", "reconstruct")


@dataclass(frozen=True)
class ShardSummary:
    """The figures of the rows that one run made of one shard."""

    shard: int
    rows: int
    errors: int
    """How many of the rows are error rows."""
    seconds_read: float
    """Summed over the rows, as are the next two."""
    seconds_traverse: float
    seconds_reconstruct: float
    error_types: Mapping[str, int] = field(default_factory=dict)
    """How many error rows there are of each ``error_type``."""
    worker: str = ""
    """The process that reconstructed the shard; empty for a shard whose images ran one by one."""
    device: str = ""
    """Where its network is."""
    gpus: str = ""
    """The GPU ids that Ray gave it, joined by commas."""
    visible_gpus: str = ""
    """Its CUDA_VISIBLE_DEVICES."""


def summarize(shard: int, rows: pa.Table) -> ShardSummary:
    """Return the figures of a shard's rows.

    Parameters:
        shard: its number.
        rows: with the columns ``status``, ``error_type`` and ``seconds_*`` of ``ROW_SCHEMA``.
    """
    read, traverse, reconstruct = (
        float(sum(value or 0.0 for value in rows[f"seconds_{stage}"].to_pylist())) for stage in STAGES
    )
    return ShardSummary(
        shard,
        rows=rows.num_rows,
        errors=rows["status"].to_pylist().count("error"),
        error_types=Counter(kind for kind in rows["error_type"].to_pylist() if kind is not None),
        seconds_read=read,
        seconds_traverse=traverse,
        seconds_reconstruct=reconstruct,
    )
