"""What a check of an output found, and the sentences that say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dmt_ray.output.commit import SHARDS_FOLDER, shard_name
from dmt_ray.output.schema import SCHEMA_VERSION
from dmt_ray.words import agreed, counted

#: Ids, names and errors that a report names; the rest is only counted.
SHOWN = 5


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
    misplaced: list[str] = field(default_factory=list)
    """Ids whose only row is in another shard than the plan says."""
    damaged: dict[int, str] = field(default_factory=dict)
    """What is wrong with the file of a shard; its rows count as missing."""
    foreign: list[int] = field(default_factory=list)
    """The damaged shards whose files are of other settings, images or columns, and may be sound themselves."""
    damaged_images: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Visible names in the shards' folder that no shard of the plan has."""
    present: int = 0
    """Planned shards that have a file."""
    flips: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By step: results that a judge calls the target class, and results of inputs that it did not call so."""
    paged: int = 0
    """Photos whose files have more frames or pages than the one that was taken."""
    truncated: int = 0
    """Photos whose files' ends are missing, and that were accepted all the same."""
    schema_version: int = SCHEMA_VERSION
    first_errors: list[str] = field(default_factory=list)
    deep: bool = False

    @property
    def complete(self) -> bool:
        """Every planned id has exactly one sound row per step, readers see no other file, and none is damaged."""
        wrong = (self.missing, self.duplicated, self.unplanned, self.misplaced, self.damaged, self.strangers)
        return not any(wrong)

    @property
    def error_rate(self) -> float:
        """Error rows over all rows, 0 to 1."""
        return self.errors / self.rows if self.rows else 0.0

    def sentences(self) -> list[str]:
        """Say what was found, one fact a line."""
        planned = f"{self.planned} planned" + (f" x {counted(self.steps, 'step')}" if self.steps > 1 else "")
        rows, errors = counted(self.rows, "row"), counted(self.errors, "error")
        lines = [f"{planned}, {rows}: {self.rows - self.errors} ok, {errors}."]
        if self.schema_version != SCHEMA_VERSION:
            lines.append(
                f"Its schema version is {self.schema_version}; this program writes version {SCHEMA_VERSION}."
            )
        if self.paged:
            files = f"{counted(self.paged, 'file')} {agreed(self.paged, 'has', 'have')}"
            lines.append(f"{files} more than one frame or page; the first was taken (column frames).")
        if self.truncated:
            are = agreed(self.truncated, "is", "are")
            lines.append(f"{counted(self.truncated, 'file')} {are} truncated, and what could be decoded was taken.")
        for number, reason in list(self.damaged.items())[:SHOWN]:
            lines.append(f"damaged: {shard_name(number)}: {reason}.")
        if len(self.damaged) > SHOWN:
            lines.append(f"... and {counted(len(self.damaged) - SHOWN, 'more damaged shard')}.")
        if self.strangers:
            count = len(self.strangers)
            names = f"{counted(count, 'name')} in {SHARDS_FOLDER}/ {agreed(count, 'is', 'are')} of no planned shard"
            lines.append(f"{names}: {some_of(self.strangers)}")
        for name, ids in (
            (agreed(len(self.damaged_images), "image damaged", "images damaged"), self.damaged_images),
            ("missing", self.missing),
            ("duplicated", self.duplicated),
            ("unplanned", self.unplanned),
            ("in the wrong shard", self.misplaced),
        ):
            if ids:
                lines.append(f"{len(ids)} {name}: {some_of(ids)}")
        lines += [f"error row: {line}" for line in self.first_errors]
        if self.errors > len(self.first_errors):
            lines.append(f"... and {counted(self.errors - len(self.first_errors), 'more error row')}.")
        if self.deep and self.complete:
            lines.append("Every checksum is right and every image can be decoded.")
        return lines


def some_of(names: Sequence[str]) -> str:
    """Return the first few names, and dots where there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
