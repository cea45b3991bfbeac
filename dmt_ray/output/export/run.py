"""The run that is exported: finished, with pictures, and which of its rows are wanted."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import shard_name, shard_uri
from dmt_ray.output.expected import Expected
from dmt_ray.output.export.manifest import Entry
from dmt_ray.output.export.names import step_labels
from dmt_ray.output.plan import Plan, Shard, load_plan
from dmt_ray.output.run_record import read_run
from dmt_ray.output.shard_file import (
    DamagedShardError,
    ShardFacts,
    check_body,
    check_footer,
    committed,
    each,
    reading_shard,
)
from dmt_ray.output.verify import verify_output
from dmt_ray.output.versions import recorded_expected
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import is_bytes
from dmt_ray.storage.inputs.sql import matching_rows

Mask = npt.NDArray[np.bool_]

#: Rows whose condition is evaluated at a time.
_ROWS = 50_000
#: Rows whose pictures are held at a time.
_BATCH = 8


@dataclass(frozen=True)
class ExportedRun:
    """A finished run, and the rows of it that are exported."""

    output: str
    job: str
    plan: Plan
    expected: Expected
    facts: Mapping[int, ShardFacts]
    animated: bool
    """The run keeps animations."""
    wanted: Mapping[int, Mask] | None
    """By shard, the rows that the condition is true for; None where there is no condition."""

    def pictures(self, shard: int) -> int:
        """Return how many pictures of a shard are exported."""
        facts = self.facts[shard]
        return facts.rows - facts.errors if self.wanted is None else int(self.wanted[shard].sum())

    def batches(self, shard: int) -> Iterator[Batch]:
        """Yield the wanted rows of a shard with their pictures, a few at a time, from a file that was checked.

        Raises:
            SettingsError: the file is damaged.
            StorageError: it cannot be read.
        """
        try:
            yield from self._read(self.plan.file.shard(shard))
        except DamagedShardError as error:
            raise SettingsError(
                f"{shard_name(shard)} of {masked(self.output)} is damaged: {error}. Run dmt-ray verify --deep "
                "--discard, and the job."
            ) from error

    def _read(self, shard: Shard) -> Iterator[Batch]:
        uri = shard_uri(self.output, shard.number)
        data = files.read_bytes(uri)
        wanted = None if self.wanted is None else self.wanted[shard.number]
        start = 0
        with reading_shard(uri, pa.BufferReader(data)) as file:
            check_body(data, check_footer(file, shard, self.expected))
            labels = _labels(file.read(columns=["id", "step", "strength"]))
            for batch in file.iter_batches(batch_size=_BATCH):
                rows = pa.Table.from_batches([batch])
                end = start + len(rows)
                kept = np.asarray(pc.equal(rows["status"], "ok"), np.bool_)
                if wanted is not None:
                    kept &= wanted[start:end]
                chosen = rows.filter(pa.array(kept))
                yield Batch(chosen, self._pictures(chosen, list(itertools.compress(labels[start:end], kept))))
                start = end

    def _pictures(self, rows: pa.Table, labels: list[str]) -> list[Picture]:
        """Return the pictures of some rows.

        Raises:
            DamagedShardError: one is not the picture that was written.
        """
        pictures = []
        narrow = rows.select(["id", "step", "strength", "image_format", "image_sha256"]).to_pylist()
        for row, image, label in zip(narrow, rows["image"], labels, strict=True):
            data = image.as_py()
            if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
                raise DamagedShardError(f"the image of {row['id']} is not the one that was written (checksum)")
            picture = Picture(
                id=row["id"],
                step=row["step"],
                strength=row["strength"],
                label=label if self.expected.steps > 1 else None,
                suffix=_suffix(row["image_format"]),
                data=data,
                sha256=row["image_sha256"],
            )
            pictures.append(picture)
        return pictures


@dataclass(frozen=True)
class Batch:
    """Some rows to export."""

    rows: pa.Table
    """Rows that are ok, with all columns."""
    pictures: list[Picture]
    """Of the rows, in order."""


@dataclass(frozen=True)
class Picture:
    """A picture to export."""

    id: str
    step: int
    strength: float | None
    label: str | None
    """What tells it from the image's other steps; None where there is one step."""
    suffix: str
    """Of its format, with the dot."""
    data: bytes
    sha256: str

    def entry(self, path: str, member: str | None = None) -> Entry:
        """Return the row of the manifest that tells where the picture is."""
        return Entry(path, self.sha256, len(self.data), member, self.id, self.step, self.strength)


def open_run(output: str, only: str | None) -> ExportedRun:
    """Check a run, and find the rows to export.

    Parameters:
        output: the folder or URI of a run.
        only: a SQL expression over the columns of its rows, without those of bytes.

    Raises:
        SettingsError: the run is not complete or has no pictures, or the expression is not sound or true for no row.
        StorageError: a file cannot be read.
    """
    plan = load_plan(output)
    expected = recorded_expected(output, plan)
    if expected.traversal_only:
        raise SettingsError(
            f"{masked(output)} is of a run with --traversal-only: it holds displacements and no pictures. Make them "
            "with dmt-ray reconstruct, and export its output."
        )
    report = verify_output(output)
    if not report.complete:
        raise SettingsError(
            f"{masked(output)} is not complete, so it cannot be exported: {' '.join(report.sentences())}"
        )
    facts = committed(plan, expected).sound
    if all(known.errors == known.rows for known in facts.values()):
        raise SettingsError(f"{masked(output)} has no picture to export: all {report.errors} rows are error rows.")
    record = read_run(output)
    return ExportedRun(
        output=output,
        job=record.job,
        plan=plan,
        expected=expected,
        facts=facts,
        animated=bool(record.option("output", "save_path")),
        wanted=None if only is None else _matching(output, expected, sorted(facts), only),
    )


def _matching(output: str, expected: Expected, shards: list[int], only: str) -> dict[int, Mask]:
    """Return which rows that are ok the condition is true for, by shard."""
    names = [field.name for field in expected.schema if not _is_bytes(field.type)]

    def read(shard: int) -> tuple[int, pa.Table]:
        try:
            with reading_shard(shard_uri(output, shard)) as file:
                return shard, file.read(columns=names)
        except DamagedShardError as error:
            raise SettingsError(f"{shard_name(shard)} of {masked(output)} is damaged: {error}.") from error

    wanted: dict[int, Mask] = {}
    waiting: list[tuple[int, pa.Table]] = []

    def evaluate() -> None:
        table = pa.concat_tables(rows for _, rows in waiting)
        mask = np.zeros(len(table), np.bool_)
        mask[matching_rows(table, only, output)] = True
        mask &= np.asarray(pc.equal(table["status"], "ok"), np.bool_)
        ends = np.cumsum([len(rows) for _, rows in waiting])
        wanted.update(zip((shard for shard, _ in waiting), np.split(mask, ends[:-1]), strict=True))
        waiting.clear()

    for shard, rows in each(read, shards):
        waiting.append((shard, rows))
        if sum(len(rows) for _, rows in waiting) >= _ROWS:
            evaluate()
    if waiting:
        evaluate()
    if not any(mask.any() for mask in wanted.values()):
        raise SettingsError(f"The filter {only!r} leaves no picture of {masked(output)}.")
    return wanted


def _labels(rows: pa.Table) -> list[str]:
    """Return the label of each row; an image's rows lie side by side."""
    labels: list[str] = []
    keys = rows.to_pylist()
    for _, group in itertools.groupby(keys, key=lambda row: row["id"]):
        own = list(group)
        labels += step_labels([row["step"] for row in own], [row["strength"] for row in own])
    return labels


def _suffix(image_format: str) -> str:
    """Return the ending of a format's files: png16 is a PNG, too."""
    name = "".join(char for char in image_format.lower() if char.isalpha()) or "image"
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(name, f".{name}")


def _is_bytes(kind: pa.DataType) -> bool:
    return is_bytes(kind) or bool(pa.types.is_fixed_size_binary(kind))
