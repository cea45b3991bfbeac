"""What all rows of an output come to: counts, errors by reason, distributions, time per stage, rows over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import ERROR_REMEDIES, ERROR_TYPES, OTHER_REMEDY
from dmt_ray.report.figures import Distribution, figure_names
from dmt_ray.storage.files import masked

#: Error rows that the page shows of each reason; the list has all.
_EXAMPLES = 5
#: Parts of the time from the first shard to the last.
_PARTS = 40

_STAGES = {
    "seconds_read": "Reading",
    "seconds_traverse": "Traversal",
    "seconds_reconstruct": "Reconstruction",
}


@dataclass
class ErrorGroup:
    """The error rows of one reason."""

    error_type: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Ids and messages of the first few."""

    @property
    def meaning(self) -> str:
        """What the reason means."""
        return ERROR_TYPES.get(self.error_type, "something that was not foreseen")

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return ERROR_REMEDIES.get(self.error_type, OTHER_REMEDY)


@dataclass(frozen=True)
class Stage:
    """The time of one stage, summed over the rows of all processes."""

    name: str
    seconds: float
    share: float
    """Of all stages, 0 to 1."""
    median: float
    """Of the rows."""


@dataclass(frozen=True)
class Throughput:
    """Rows over time, told by when the shards' files were written."""

    seconds: float
    """From the first file to the last."""
    per_minute: Sequence[float]
    """Rows per minute in equal parts of that time."""

    @property
    def mean(self) -> float:
        """Rows per minute over the whole time."""
        return float(np.mean(self.per_minute))


class Summary:
    """Takes in the rows of all shards."""

    def __init__(self) -> None:
        self.rows = 0
        self.errors = 0
        self.warnings = 0
        self.flips: dict[float | None, Counter[bool]] = {}
        """By strength: results that the judge calls the target class, and others."""
        self._groups: dict[str, ErrorGroup] = {}
        self._distributions = {name: Distribution(name) for name in figure_names()}

    def add(self, rows: pa.Table) -> None:
        """Take in rows with the columns of ``narrow_columns``."""
        self.rows += rows.num_rows
        names = rows.column_names
        if "warning" in names:
            self.warnings += rows.num_rows - rows["warning"].null_count
        for name, distribution in self._distributions.items():
            if name in names:
                distribution.add(rows[name].to_pylist())
        failed = rows.select(["id", "error_type", "error"]).filter(pc.equal(rows["status"], "error"))
        self.errors += failed.num_rows
        for row in failed.to_pylist():
            kind = row["error_type"] or "unknown"
            group = self._groups.setdefault(kind, ErrorGroup(kind))
            group.count += 1
            example = (row["id"], masked(row["error"] or ""))
            if len(group.examples) < _EXAMPLES and example not in group.examples:  # each step says the same
                group.examples.append(example)
        if "flipped" in names:
            told = rows.select(["strength", "flipped"]).filter(pc.is_valid(rows["flipped"]))
            for row in told.to_pylist():
                self.flips.setdefault(row["strength"], Counter())[row["flipped"]] += 1

    @property
    def groups(self) -> list[ErrorGroup]:
        """Error rows by reason, the most frequent first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.error_type))

    @property
    def distributions(self) -> list[Distribution]:
        """The figures that any row has."""
        return [distribution for distribution in self._distributions.values() if distribution.count]

    @property
    def flipped(self) -> tuple[int, int]:
        """Results that the judge calls the target class, and results of inputs that it did not call so."""
        counts = sum(self.flips.values(), Counter())
        return counts[True], counts.total()

    @property
    def stages(self) -> list[Stage]:
        """The time of each stage that took any."""
        known = [self._distributions[name] for name in _STAGES if self._distributions[name].count]
        total = sum(stage.total for stage in known)
        return [
            Stage(_STAGES[stage.name], stage.total, stage.total / total, stage.quantile(0.5))
            for stage in known
            if total > 0
        ]


def throughput(rows: Mapping[str, int], times: Mapping[str, float]) -> Throughput | None:
    """Return rows over time; None where the times of fewer than three files tell nothing.

    Parameters:
        rows: of each file, by name.
        times: when it was written, in seconds, by name.
    """
    known = [name for name in rows if name in times]
    moments = np.array([times[name] for name in known])
    if len(set(moments)) < 3:
        return None
    span = float(moments.max() - moments.min())
    parts = min(_PARTS, len(known))
    counts, _ = np.histogram(
        moments, parts, (moments.min(), moments.max()), weights=np.array([rows[name] for name in known])
    )
    return Throughput(span, [float(count) for count in counts / (span / parts / 60)])
