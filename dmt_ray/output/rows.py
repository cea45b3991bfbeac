"""Are a shard's rows those of the plan, and free of contradictions? Commit and verify ask the same function."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.output.expected import Expected
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.schema import RESULT_COLUMNS, ROW_SCHEMAS, column_name
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

Key = tuple[str, int]
Mask = npt.NDArray[np.bool_]

#: Earlier versions committed figures that are not finite; their files are still sound by their own rules.
_FINITE_SINCE = 3
#: ``error_type`` of rows that no image is to blame for.
_UNFORESEEN = "ValueError"

_IMAGE_FACTS = ("image", "image_sha256", "image_format", "width", "height", "digital_source_type")


@dataclass(frozen=True)
class Fault:
    """Why the rows of an image cannot stand as they are."""

    error_type: str
    reason: str
    """Without a full stop."""


@dataclass(frozen=True)
class Judgement:
    """What is wrong with the rows of a shard."""

    rows: int
    errors: int
    """Rows whose status is ``error``."""
    missing: list[Key] = field(default_factory=list)
    """Planned ids and steps without a row."""
    extra: list[Key] = field(default_factory=list)
    """Rows beyond one for each planned id and step: doubled ones, and those of other ids."""
    disordered: bool = False
    """All planned rows are there once, but not in the plan's order."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """Images whose rows contradict themselves, by id."""

    @property
    def contradiction(self) -> str | None:
        """What is wrong with the rows that are there, without a full stop; None when nothing is."""
        if self.faults:
            id_, fault = next(iter(self.faults.items()))
            count = len(self.faults)
            images = f"{counted(count, 'image')} {agreed(count, 'has', 'have')} rows that contradict themselves"
            return f"{images}; the first, {id_}: {fault.reason}"
        return "its rows are not in the plan's order" if self.disordered else None


def planned_keys(shard: Shard, steps: int) -> list[Key]:
    """Return the id and step of every row that a shard must have, in order."""
    return [(item.id, step) for item in shard.items for step in range(steps)]


def columns_to_judge(expected: Expected) -> list[str]:
    """Return the narrow columns that ``judge_rows`` looks at: no images, animations or displacements."""
    schema = ROW_SCHEMAS[expected.version]
    return [column.name for column in schema if column.type != pa.large_binary()]


def judge_rows(rows: pa.Table, shard: Shard, expected: Expected) -> Judgement:
    """Compare the rows of a shard with its part of the plan, and each row with itself.

    Parameters:
        rows: all rows of the shard; at least the columns of ``columns_to_judge``. Wide columns are judged where they
            are there.
        shard: the images that they must be of.
        expected: what the run's files must be.
    """
    faults = _row_faults(rows, expected)
    ids = rows["id"].to_pylist()
    by_image: dict[str, Fault] = {}
    for index, fault in sorted(faults.items()):
        by_image.setdefault(str(ids[index]), fault)
    keys: list[Key] = list(zip(ids, rows["step"].to_pylist(), strict=True))
    planned = planned_keys(shard, expected.steps)
    errors = rows["status"].to_pylist().count("error")
    if keys == planned:
        return Judgement(len(keys), errors, faults=by_image)
    counts = Counter(keys)
    counts.subtract(planned)
    missing = [key for key in planned if counts[key] < 0]
    extra = [key for key, count in counts.items() for _ in range(count)]
    return Judgement(len(keys), errors, missing, extra, not missing and not extra, by_image)


def consistent(rows: pa.Table, items: Sequence[InputItem], expected: Expected) -> pa.Table:
    """Return rows that can be committed: an image whose rows contradict themselves gets error rows instead.

    So does an image with a figure that is not finite (``not-finite``), and one that lacks a row or has one twice.

    Parameters:
        rows: of some images, with the columns of the run's files.
        items: the images that there must be rows of, in the plan's order.
        expected: what the run's files must be.

    Returns:
        One row for each item and step, in order. Sound images' rows are unchanged, but for ``image_sha256``.
    """
    rows = with_checksums(rows)
    judged = judge_rows(rows, Shard(0, tuple(items)), expected)
    faults = dict(judged.faults)
    for id_, _ in [*judged.missing, *judged.extra]:
        faults.setdefault(id_, Fault(_UNFORESEEN, "there is not exactly one row for each step"))
    if not faults and not judged.disordered:
        return rows
    for id_, fault in faults.items():
        logger.warning("%s becomes an error row: %s.", id_, fault.reason)
    places: dict[Key, int] = {}
    first: dict[str, int] = {}
    for index, (id_, step) in enumerate(zip(rows["id"].to_pylist(), rows["step"].to_pylist(), strict=True)):
        places.setdefault((id_, step), index)
        first.setdefault(id_, index)
    keys = [(item.id, step) for item in items for step in range(expected.steps)]
    taken = rows.take(pa.array([places.get(key, first.get(key[0])) for key in keys], pa.int64()))
    uris = {item.id: masked(item.uri) for item in items if item.id not in first}
    return _with_error_rows(taken, keys, faults, _own_errors(rows), uris)


def _own_errors(rows: pa.Table) -> dict[str, Fault]:
    """Return what the error rows say already, by id."""
    errors = rows.select(["id", "error_type", "error"]).filter(pc.equal(rows["status"], "error"))
    return {
        row["id"]: Fault(row["error_type"], row["error"])
        for row in errors.to_pylist()
        if row["error_type"] is not None and row["error"] is not None
    }


def _with_error_rows(
    rows: pa.Table, keys: Sequence[Key], faults: dict[str, Fault], known: dict[str, Fault], uris: dict[str, str]
) -> pa.Table:
    """Make error rows of all rows of the images with faults; rows without an error of their own say the fault."""
    wrong = np.array([id_ in faults for id_, _ in keys], np.bool_)
    said = {
        id_: known.get(id_) or Fault(fault.error_type, f"The result was refused: {fault.reason}.")
        for id_, fault in faults.items()
    }
    own = [said.get(id_) for id_, _ in keys]
    values: dict[str, list[object]] = {
        "id": [id_ for id_, _ in keys],
        "step": [step for _, step in keys],
        "status": ["error"] * len(keys),
        "error_type": [fault and fault.error_type for fault in own],
        "error": [fault and fault.reason for fault in own],
        **{name: [None] * len(keys) for name in RESULT_COLUMNS},
    }
    for index, column in enumerate(rows.schema):
        mask = wrong
        if column.name not in values:
            if column.name not in _FLOATS:
                continue
            mask = wrong & ~_finite_or_null(rows[column.name])
            if not mask.any():
                continue
        new = pa.array(values.get(column.name, [None] * len(keys)), column.type)
        rows = rows.set_column(index, column, pc.if_else(pa.array(mask), new, rows[column.name]))
    unread = np.array([id_ in uris for id_, _ in keys], np.bool_)
    if unread.any():
        index = rows.schema.get_field_index("uri")
        named = pa.array([uris.get(id_) for id_, _ in keys], pa.string())
        rows = rows.set_column(index, rows.schema.field(index), pc.if_else(pa.array(unread), named, rows["uri"]))
    return rows


def with_checksums(rows: pa.Table) -> pa.Table:
    """Give every image its checksum; one that is there is kept, so that damage since then still shows."""
    index = rows.schema.get_field_index("image_sha256")
    images, sums = rows["image"], rows["image_sha256"].to_pylist()
    for row, known in enumerate(sums):
        if known is None and images[row].is_valid:
            sums[row] = hashlib.sha256(images[row].as_buffer()).hexdigest()
    return rows.set_column(index, rows.schema.field(index), pa.array(sums, pa.string()))


#: The program's own columns of figures.
_FLOATS = frozenset(column.name for column in ROW_SCHEMAS[max(ROW_SCHEMAS)] if column.type == pa.float64())


def _row_faults(rows: pa.Table, expected: Expected) -> dict[int, Fault]:
    """Return what is wrong with rows in themselves, by index."""
    found: dict[int, Fault] = {}

    def note(mask: Mask, reason: str, error_type: str = _UNFORESEEN) -> None:
        for index in np.flatnonzero(mask):
            found.setdefault(int(index), Fault(error_type, reason))

    # In an earlier version's file, a later one's column is the input's own.
    names = set(rows.column_names) & set(ROW_SCHEMAS[expected.version].names)
    status = rows["status"].to_pylist()
    ok = np.array([value == "ok" for value in status], np.bool_)
    failed = np.array([value == "error" for value in status], np.bool_)
    note(~(ok | failed), "its status is neither ok nor error")
    _note_mixed(rows, ok, failed, note)
    if expected.version >= _FINITE_SINCE:
        for name in sorted(_FLOATS & names):
            note(~_finite_or_null(rows[name]), f"{name} is not a finite number", "not-finite")
    for name in ("error_type", "error"):
        valid = _valid(rows[name])
        note(failed & ~valid, f"it is an error row without {name}")
        note(ok & valid, f"it is ok and has {name}")
    if failed.any():
        for column in RESULT_COLUMNS:
            name = column_name(column, expected.version)
            if name in names:
                note(failed & _valid(rows[name]), f"it is an error row with {name}")
    if "flipped" in names:
        told, before, after = (_valid(rows[name]) for name in ("flipped", "verdict_before", "verdict_after"))
        note(before != after, "it has one verdict without the other")
        note(told & ~before, "it has flipped without verdicts")
    note(ok & ~_valid(rows["displacement_norm"]), "it is ok without displacement_norm")
    for name in _IMAGE_FACTS:
        if name not in names:
            continue
        valid = _valid(rows[name])
        if expected.traversal_only:
            note(ok & valid, f"its run makes no images, and it has {name}")
        else:
            note(ok & ~valid, f"it is ok without {name}")
    if expected.traversal_only and "displacement" in names:
        first = np.array([step == 0 for step in rows["step"].to_pylist()], np.bool_)
        note(ok & first & ~_valid(rows["displacement"]), "it is ok without displacement")
    return found


def _note_mixed(rows: pa.Table, ok: Mask, failed: Mask, note: Callable[[Mask, str], None]) -> None:
    """An image fails as a whole: note images of which some steps are ok and others errors."""
    if not (ok.any() and failed.any()):
        return
    ids = rows["id"].to_pylist()
    mixed = {id_ for id_, good in zip(ids, ok, strict=True) if good}
    mixed &= {id_ for id_, bad in zip(ids, failed, strict=True) if bad}
    if mixed:
        note(np.array([id_ in mixed for id_ in ids], np.bool_), "some of its steps are ok and others are errors")


def _valid(column: pa.ChunkedArray) -> Mask:
    if column.null_count == 0:
        return np.ones(len(column), np.bool_)
    if column.null_count == len(column):
        return np.zeros(len(column), np.bool_)
    return np.asarray(column.is_valid().to_numpy(), np.bool_)


def _finite_or_null(column: pa.ChunkedArray) -> Mask:
    if column.null_count == len(column):
        return np.ones(len(column), np.bool_)
    values: Mask = np.isfinite(column.to_numpy())
    return values if column.null_count == 0 else values | ~_valid(column)
