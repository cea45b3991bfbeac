"""Is every planned id in exactly one committed row per step? Reads a few columns of each shard, never the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.pipeline.commit import committed_shards, shard_uri
from dmt_ray.pipeline.plan import recorded_steps
from dmt_ray.pipeline.plan_file import load_plan
from dmt_ray.storage import files

#: Ids and errors that a report names; the rest is only counted.
SHOWN = 5
#: Shards read side by side; on an object store this is mostly waiting.
READERS = 8


@dataclass(frozen=True)
class VerifyReport:
    """What was found in an output folder."""

    planned: int
    rows: int
    errors: int
    steps: int = 1
    missing: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    first_errors: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every planned id has exactly one row per step, and no other id has any."""
        return not (self.missing or self.duplicated or self.unplanned)

    @property
    def error_rate(self) -> float:
        """Error rows over all rows, 0 to 1."""
        return self.errors / self.rows if self.rows else 0.0

    def sentences(self) -> list[str]:
        """Say what was found, one fact a line."""
        planned = f"{self.planned} planned" + (f" x {self.steps} steps" if self.steps > 1 else "")
        lines = [f"{planned}, {self.rows} rows: {self.rows - self.errors} ok, {self.errors} errors."]
        for name, ids in (("missing", self.missing), ("duplicated", self.duplicated), ("unplanned", self.unplanned)):
            if ids:
                shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
                lines.append(f"{len(ids)} {name}: {shown}")
        lines += [f"error row: {line}" for line in self.first_errors]
        if self.errors > len(self.first_errors):
            lines.append(f"... and {self.errors - len(self.first_errors)} more error rows.")
        return lines


def verify_output(output: str) -> VerifyReport:
    """Compare the plan of the run at ``output`` with its committed rows.

    Raises:
        SettingsError: there is no plan.
        StorageError: a file cannot be read.
    """
    planned = [id_ for ids in load_plan(output).file.ids() for id_ in ids.to_pylist()]
    steps = recorded_steps(output)
    found: Counter[tuple[str, int]] = Counter()
    errors = 0
    first_errors: list[str] = []
    uris = [shard_uri(output, shard) for shard in sorted(committed_shards(output))]
    with ThreadPoolExecutor(READERS) as threads:
        tables = list(threads.map(_read_columns, uris))
    for table in tables:
        found.update(zip(table["id"].to_pylist(), table["step"].to_pylist(), strict=True))
        for row in table.to_pylist():
            if row["status"] == "error":
                errors += 1
                if len(first_errors) < SHOWN:
                    first_errors.append(f"{row['id']}: {row['error']} ({row['error_type']})")
    known = {(id_, step) for id_ in planned for step in range(steps)}
    return VerifyReport(
        planned=len(planned),
        steps=steps,
        rows=found.total(),
        errors=errors,
        missing=[id_ for id_ in planned if any((id_, step) not in found for step in range(steps))],
        duplicated=_ids(key for key, count in found.items() if count > 1),
        unplanned=_ids(key for key in found if key not in known),
        first_errors=first_errors,
    )


def _ids(keys: Iterable[tuple[str, int]]) -> list[str]:
    return list(dict.fromkeys(id_ for id_, _ in keys))


def _read_columns(uri: str) -> pa.Table:
    try:
        with files.open_file(uri) as file:
            return pq.read_table(file, columns=["id", "step", "status", "error_type", "error"])
    except (pa.ArrowException, ValueError) as error:
        raise files.StorageError(uri, f"is not a shard of this program ({error})") from error
