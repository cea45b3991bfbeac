"""Does every planned image have exactly one row per step, in its own shard, whole and unharmed?

The quick check reads the footer and the narrow columns of each shard, never the images; the deep one reads every
byte, compares checksums and decodes every image. What is wrong is reported, not raised.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError
from dmt_ray.output.commit import SHARDS_FOLDER, committed_shards, shard_uri
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan, load_plan
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.report import SHOWN, VerifyReport
from dmt_ray.output.rows import Judgement, Key, columns_to_judge, judge_rows, planned_keys
from dmt_ray.output.schema import ROW_SCHEMAS
from dmt_ray.output.shard_file import (
    READERS,
    DamagedShardError,
    check_body,
    check_footer,
    each,
    reading_shard,
    strangers,
)
from dmt_ray.output.versions import recorded_expected
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.images import decode_image
from dmt_ray.words import agreed, counted

#: Shards held whole at a time by the deep check.
DEEP_READERS = 3

_IMAGE_COLUMNS = ["id", "status", "image", "image_sha256", "image_format", "width", "height"]


@dataclass
class _Found:
    """What one file holds."""

    shard: int | None
    """None for a file of no planned shard."""
    rows: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    missing: list[Key] = field(default_factory=list)
    extra: list[Key] = field(default_factory=list)
    """Rows beyond one for each planned id and step: doubled ones, and those of other ids."""
    damage: str | None = None
    foreign: bool = False
    damaged_images: list[str] = field(default_factory=list)
    judged: Counter[int] = field(default_factory=Counter)
    """By step: results of inputs that a judge did not call the target class."""
    flipped: Counter[int] = field(default_factory=Counter)
    """By step: those of them that it calls so."""
    inputs: Counter[str] = field(default_factory=Counter)
    """Photos whose files have more than one frame (``paged``), or were cut short and accepted (``truncated``)."""


def verify_output(output: str, *, deep: bool = False) -> VerifyReport:
    """Compare the plan of the run at ``output`` with its committed rows.

    An output of an earlier schema version is judged by the columns of that version.

    Parameters:
        output: the folder or URI of a run.
        deep: read everything, compare all checksums and decode every image.

    Raises:
        SettingsError: there is no plan, no ``run.json``, or a later version of this program wrote the output.
        StorageError: a file cannot be read, so nothing can be said of it.
    """
    plan = load_plan(output)
    expected = recorded_expected(output, plan)
    steps = expected.steps
    present = committed_shards(output) & {int(number) for number in plan.file.numbers}
    others = strangers(output, plan)

    def look(shard: Shard) -> _Found:
        if shard.number not in present:
            return _Found(shard.number, missing=planned_keys(shard, steps))
        return _look(shard, expected, deep)

    totals = Counter[str]()
    judged, flipped = Counter[int](), Counter[int]()
    first_errors: list[str] = []
    damaged: dict[int, str] = {}
    foreign: list[int] = []
    damaged_images: list[str] = []
    missing: list[Key] = []
    extra: list[Key] = []
    found_in = each(look, plan, DEEP_READERS if deep else READERS)
    found_elsewhere = (_look_at_stranger(output, name) for name in others)
    for files_found in (found_in, found_elsewhere):
        for found in files_found:
            totals.update(rows=found.rows, errors=found.errors)
            totals.update(found.inputs)
            judged.update(found.judged)
            flipped.update(found.flipped)
            first_errors += found.first_errors[: SHOWN - len(first_errors)]
            if found.shard is not None and found.damage is not None:
                damaged[found.shard] = found.damage
                foreign += [found.shard] if found.foreign else []
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
        foreign=foreign,
        damaged_images=damaged_images,
        strangers=others,
        present=len(present),
        flips={step: (flipped[step], count) for step, count in judged.items()},
        schema_version=expected.version,
        paged=totals["paged"],
        truncated=totals["truncated"],
        first_errors=first_errors,
        deep=deep,
    )


def _look(shard: Shard, expected: Expected, deep: bool) -> _Found:
    """Check one file. Rows of a file that is damaged do not count."""
    damaged_images: list[str] = []
    uri = shard_uri(expected.output, shard.number)
    data = files.read_bytes(uri) if deep else None
    try:
        with reading_shard(uri, None if data is None else pa.BufferReader(data)) as file:
            facts = check_footer(file, shard, expected)
            rows = file.read(columns=None if deep else columns_to_judge(expected))
            if rows["id"].null_count or rows["step"].null_count:
                raise DamagedShardError("it has rows without an id or a step")
            judged = judge_rows(rows, shard, expected)
            if data is not None:
                damaged_images = wrong_images(file)
            if facts.errors != judged.errors:
                rows_are = f"{counted(judged.errors, 'row')} {agreed(judged.errors, 'is an error', 'are errors')}"
                raise DamagedShardError(f"{rows_are}, and its footer says {facts.errors}")
            if damaged_images:
                count = len(damaged_images)
                raise DamagedShardError(f"{counted(count, 'image')} {agreed(count, 'is', 'are')} damaged")
            if data is not None:
                check_body(data, facts)
            if judged.contradiction is not None:
                raise DamagedShardError(judged.contradiction)
    except DamagedShardError as error:
        return _Found(
            shard.number,
            damage=str(error),
            foreign=error.foreign,
            damaged_images=damaged_images,
            missing=planned_keys(shard, expected.steps),
        )
    found = _found(shard.number, rows, judged, expected.steps)
    if "flipped" in ROW_SCHEMAS[expected.version].names:
        told = rows.select(["step", "flipped"]).filter(pc.is_valid(rows["flipped"]))
        found.judged.update(told["step"].to_pylist())
        found.flipped.update(told.filter(told["flipped"])["step"].to_pylist())
    if "frames" in ROW_SCHEMAS[expected.version].names:
        first = rows.select(["frames", "truncated"]).filter(pc.equal(rows["step"], 0))
        paged, truncated = pc.sum(pc.greater(first["frames"], 1)).as_py(), pc.sum(first["truncated"]).as_py()
        found.inputs.update(paged=paged or 0, truncated=truncated or 0)
    return found


def _found(number: int | None, rows: pa.Table, judged: Judgement, steps: int) -> _Found:
    failed = rows.select(["id", "step", "error_type", "error"]).filter(pc.equal(rows["status"], "error"))
    first_errors = []
    for row in failed.slice(0, SHOWN).to_pylist():
        step = f", step {row['step']}" if steps > 1 else ""
        first_errors.append(f"{row['id']}{step}: {row['error']} ({row['error_type']})")
    return _Found(number, judged.rows, judged.errors, first_errors, judged.missing, judged.extra)


def _look_at_stranger(output: str, name: str) -> _Found:
    """Return the rows that readers of the folder take for the run's, where the file has rows with ids and steps."""
    found = _Found(None)
    try:
        with reading_shard(files.join(output, SHARDS_FOLDER, name)) as file:
            schema = file.schema_arrow
            if not {"id", "step"} <= set(schema.names):
                return found
            if schema.field("id").type != pa.string() or not pa.types.is_integer(schema.field("step").type):
                return found
            rows = file.read(columns=[column for column in ("id", "step", "status") if column in schema.names])
    except (DamagedShardError, StorageError):  # a folder, or no Parquet file
        return found
    found.rows = rows.num_rows
    if "status" in rows.column_names:
        found.errors = rows["status"].to_pylist().count("error")
    keys = zip(rows["id"].to_pylist(), rows["step"].to_pylist(), strict=True)
    found.extra = [(id_, step) for id_, step in keys if id_ is not None and step is not None]
    return found


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


def _ids(keys: Iterable[Key]) -> list[str]:
    return list(dict.fromkeys(id_ for id_, _ in keys))
