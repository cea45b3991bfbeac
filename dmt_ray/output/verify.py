"""Does every planned image have exactly one row per step, in its own shard, whole and unharmed?

The quick check reads the footer and a few narrow columns of each shard, never the images; the deep one reads every
byte, compares checksums and decodes every image. What is wrong is reported, not raised.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError
from dmt_ray.output.commit import committed_shards, shard_name, shard_uri
from dmt_ray.output.plan import Plan, Shard, load_plan
from dmt_ray.output.run_record import recorded_fingerprint, recorded_steps
from dmt_ray.output.shard_file import (
    READERS,
    DamagedShardError,
    Expected,
    check_body,
    check_footer,
    each,
    reading_shard,
)
from dmt_ray.storage import files
from dmt_ray.storage.images import decode_image

#: Ids and errors that a report names; the rest is only counted.
SHOWN = 5
#: Shards held whole at a time by the deep check.
DEEP_READERS = 3

_COLUMNS = ["id", "step", "status", "error_type", "error"]
_IMAGE_COLUMNS = ["id", "status", "image", "image_sha256", "image_format", "width", "height"]

Key = tuple[str, int]


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
    damaged_images: list[str] = field(default_factory=list)
    strangers: list[int] = field(default_factory=list)
    """Shards that have a file and are not in the plan."""
    first_errors: list[str] = field(default_factory=list)
    deep: bool = False

    @property
    def complete(self) -> bool:
        """Every planned id has exactly one sound row per step, no other id has any, and no file is damaged."""
        wrong = (self.missing, self.duplicated, self.unplanned, self.misplaced, self.damaged, self.strangers)
        return not any(wrong)

    @property
    def error_rate(self) -> float:
        """Error rows over all rows, 0 to 1."""
        return self.errors / self.rows if self.rows else 0.0

    def sentences(self) -> list[str]:
        """Say what was found, one fact a line."""
        planned = f"{self.planned} planned" + (f" x {self.steps} steps" if self.steps > 1 else "")
        lines = [f"{planned}, {self.rows} rows: {self.rows - self.errors} ok, {self.errors} errors."]
        for number, reason in list(self.damaged.items())[:SHOWN]:
            lines.append(f"damaged: {shard_name(number)}: {reason}.")
        if len(self.damaged) > SHOWN:
            lines.append(f"... and {len(self.damaged) - SHOWN} more damaged shards.")
        if self.strangers:
            names = ", ".join(map(shard_name, self.strangers[:SHOWN])) + (", ..." if self.strangers[SHOWN:] else "")
            lines.append(f"{len(self.strangers)} shards that are not in the plan: {names}")
        for name, ids in (
            ("images damaged", self.damaged_images),
            ("missing", self.missing),
            ("duplicated", self.duplicated),
            ("unplanned", self.unplanned),
            ("in the wrong shard", self.misplaced),
        ):
            if ids:
                shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
                lines.append(f"{len(ids)} {name}: {shown}")
        lines += [f"error row: {line}" for line in self.first_errors]
        if self.errors > len(self.first_errors):
            lines.append(f"... and {self.errors - len(self.first_errors)} more error rows.")
        if self.deep and self.complete:
            lines.append("Every checksum is right and every image can be decoded.")
        return lines


@dataclass
class _Found:
    """What one shard's file holds."""

    shard: Shard
    rows: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    missing: list[Key] = field(default_factory=list)
    extra: list[Key] = field(default_factory=list)
    """Rows beyond one for each planned id and step: doubled ones, and those of other ids."""
    damage: str | None = None
    damaged_images: list[str] = field(default_factory=list)


def verify_output(output: str, *, deep: bool = False) -> VerifyReport:
    """Compare the plan of the run at ``output`` with its committed rows.

    Parameters:
        output: the folder or URI of a run.
        deep: read everything, compare all checksums and decode every image.

    Raises:
        SettingsError: there is no plan, or no ``run.json``.
        StorageError: a file cannot be read, so nothing can be said of it.
    """
    plan = load_plan(output)
    steps = recorded_steps(output)
    expected = Expected.of(output, plan, steps, recorded_fingerprint(output))
    present = committed_shards(output)
    strangers = sorted(present - set(plan.numbers))

    def look(shard: Shard) -> _Found:
        if shard.number not in present:
            return _Found(shard, missing=_keys(shard, steps))
        return _look(shard, expected, deep)

    shards = itertools.chain(plan, (Shard(number, ()) for number in strangers))
    totals = Counter[str]()
    first_errors: list[str] = []
    damaged: dict[int, str] = {}
    damaged_images: list[str] = []
    missing: list[Key] = []
    extra: list[Key] = []
    for found in each(look, shards, DEEP_READERS if deep else READERS):
        totals.update(rows=found.rows, errors=found.errors)
        first_errors += found.first_errors[: SHOWN - len(first_errors)]
        if found.damage is not None:
            damaged[found.shard.number] = found.damage
        damaged_images += found.damaged_images
        missing += found.missing
        extra += found.extra
    unplanned, duplicated, misplaced = _judge_extra(extra, missing, plan, steps)
    elsewhere = set(misplaced)
    return VerifyReport(
        planned=plan.images,
        steps=steps,
        rows=totals["rows"],
        errors=totals["errors"],
        missing=_ids(key for key in missing if key not in elsewhere),
        duplicated=_ids(duplicated) + _doubled_in(plan),
        unplanned=_ids(unplanned),
        misplaced=_ids(misplaced),
        damaged=damaged,
        damaged_images=damaged_images,
        strangers=strangers,
        first_errors=first_errors,
        deep=deep,
    )


def discard_unsound(output: str, report: VerifyReport) -> int:
    """Delete the files of damaged shards and of shards outside the plan; return how many.

    Raises:
        StorageError: a file cannot be deleted.
    """
    numbers = {*report.damaged, *report.strangers}
    for number in sorted(numbers):
        files.delete(shard_uri(output, number))
    return len(numbers)


def _look(shard: Shard, expected: Expected, deep: bool) -> _Found:
    """Check one file. Rows of a file that is damaged do not count."""
    found = _Found(shard)
    uri = shard_uri(expected.output, shard.number)
    data = files.read_bytes(uri) if deep else None
    try:
        with reading_shard(uri, None if data is None else pa.BufferReader(data)) as file:
            if shard.items:
                facts = check_footer(file, shard, expected)
            table = file.read(columns=_COLUMNS)
            _count(found, table, expected.steps)
            if data is not None:
                found.damaged_images = wrong_images(file)
            if shard.items and facts.errors != found.errors:
                raise DamagedShardError(f"{found.errors} rows are errors, and {facts.errors} have no result")
            if found.damaged_images:
                raise DamagedShardError(f"{len(found.damaged_images)} images are damaged")
            if data is not None and shard.items:
                check_body(data, facts)
                file.read()
    except DamagedShardError as error:
        return _Found(
            shard, damage=str(error), damaged_images=found.damaged_images, missing=_keys(shard, expected.steps)
        )
    return found


def _count(found: _Found, table: pa.Table, steps: int) -> None:
    """Compare a shard's rows with its part of the plan."""
    found.rows = table.num_rows
    failed = table.filter(pc.equal(table["status"], "error"))
    found.errors = failed.num_rows
    found.first_errors = [
        f"{row['id']}: {row['error']} ({row['error_type']})" for row in failed.slice(0, SHOWN).to_pylist()
    ]
    planned = _keys(found.shard, steps)
    keys: list[Key] = list(zip(table["id"].to_pylist(), table["step"].to_pylist(), strict=True))
    if keys == planned:
        return
    counts = Counter(keys)
    counts.subtract(planned)
    found.missing = [key for key in planned if counts[key] < 0]
    found.extra = [key for key, count in counts.items() for _ in range(count)]


def wrong_images(file: pq.ParquetFile) -> list[str]:
    """Return the ids of the images whose checksum or size is wrong, or that cannot be decoded."""
    wrong = []
    for batch in file.iter_batches(batch_size=8, columns=_IMAGE_COLUMNS):
        images = batch.column("image")
        for index, row in enumerate(batch.drop_columns("image").to_pylist()):
            if row["status"] != "error" and not _is_sound(images[index], row):
                wrong.append(row["id"])
    return list(dict.fromkeys(wrong))


def _is_sound(image: pa.LargeBinaryScalar, row: dict[str, object]) -> bool:
    if not image.is_valid:
        return row["image_format"] is None  # it is of a run of traversals alone
    data = image.as_buffer()
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        return False
    try:
        picture = decode_image(data.to_pybytes(), max_pixels=2**62)
    except DmtError:
        return False
    return picture.shape[:2] == (row["height"], row["width"])


def _judge_extra(
    extra: list[Key], missing: list[Key], plan: Plan, steps: int
) -> tuple[list[Key], list[Key], list[Key]]:
    """Tell rows of unplanned ids, second rows of planned ones, and rows that only lie in the wrong shard apart."""
    if not extra:
        return [], [], []
    asked = pa.array({id_ for id_, _ in extra}, pa.string())
    planned: set[str] = set()
    for ids in plan.file.ids():
        planned.update(ids.filter(pc.is_in(ids, value_set=asked)).to_pylist())
    lacking = set(missing)
    unplanned, duplicated, misplaced = [], [], []
    for key in extra:
        if key[0] not in planned or not 0 <= key[1] < steps:
            unplanned.append(key)
        elif key in lacking:
            lacking.discard(key)
            misplaced.append(key)
        else:
            duplicated.append(key)
    return unplanned, duplicated, misplaced


def _doubled_in(plan: Plan) -> list[str]:
    """Return ids that the plan itself has more than once."""
    ids = pa.chunked_array([chunk for part in plan.file.ids() for chunk in part.chunks], pa.string())
    if pc.count_distinct(ids).as_py() == len(ids):
        return []
    counts = ids.value_counts()
    doubled: list[str] = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    return doubled


def _keys(shard: Shard, steps: int) -> list[Key]:
    return [(item.id, step) for item in shard.items for step in range(steps)]


def _ids(keys: Iterable[Key]) -> list[str]:
    return list(dict.fromkeys(id_ for id_, _ in keys))
