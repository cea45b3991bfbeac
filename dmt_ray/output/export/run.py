"""The run that is exported: finished, with pictures, and which of its rows are wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.output.expected import Expected
from dmt_ray.output.export.names import step_labels
from dmt_ray.output.export.pictures import Batch, read_batch, sign_batch
from dmt_ray.output.export.sources import Source, open_source, read_columns, said_of
from dmt_ray.output.shard_file import ShardFacts
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import is_bytes
from dmt_ray.storage.inputs.sql import matching_rows
from dmt_ray.storage.signing import Signer

Mask = npt.NDArray[np.bool_]

#: Rows whose condition is evaluated at a time.
_ROWS = 50_000
#: Rows whose pictures are held at a time.
_BATCH = 8


@dataclass(frozen=True)
class ExportedRun:
    """A finished run, and the rows of it that are exported."""

    source: Source
    wanted: Mapping[int, Mask] | None
    """By file, the rows that the condition is true for; None where there is no condition."""
    signer: Signer | None = None
    """What signs the pictures."""

    @property
    def expected(self) -> Expected:
        """What the run's files are."""
        return self.source.expected

    @property
    def facts(self) -> Mapping[int, ShardFacts]:
        """What is known of each file."""
        return self.source.facts

    def pictures(self, shard: int) -> int:
        """Return how many pictures of a file are exported."""
        facts = self.facts[shard]
        return facts.rows - facts.errors if self.wanted is None else int(self.wanted[shard].sum())

    def batches(self, shard: int) -> Iterator[Batch]:
        """Yield the wanted rows of a file with their pictures, a few at a time.

        Raises:
            SettingsError: the file is damaged, or a picture cannot be signed.
            StorageError: it cannot be read.
        """
        with said_of(self.source, shard), self.source.opened(shard) as file:
            yield from self._read(file, None if self.wanted is None else self.wanted[shard])

    def _read(self, file: pq.ParquetFile, wanted: Mask | None) -> Iterator[Batch]:
        start = 0
        labels = _labels(file.read(columns=["id", "step", "strength"]))
        for batch in file.iter_batches(batch_size=_BATCH):
            rows = pa.Table.from_batches([batch])
            end = start + len(rows)
            kept = np.asarray(pc.equal(rows["status"], "ok"), np.bool_)
            if wanted is not None:
                kept &= wanted[start:end]
            read = read_batch(
                rows.filter(pa.array(kept)),
                list(itertools.compress(labels[start:end], kept)) if self.expected.steps > 1 else None,
                self.expected.version,
            )
            if self.signer is not None:
                read = sign_batch(read, self.signer, self.expected.fingerprint, self.expected.version)
            yield read
            start = end


def open_run(output: str, only: str | None, signer: Signer | None = None) -> ExportedRun:
    """Check a run, and find the rows to export.

    Parameters:
        output: the folder or URI of a run, or of a compaction.
        only: a SQL expression over the columns of its rows, without those of bytes.
        signer: what signs the pictures.

    Raises:
        SettingsError: the run is not complete or has no pictures, the expression is not sound or true for no row, or
            the pictures cannot be signed.
        StorageError: a file cannot be read.
    """
    source = open_source(output)
    if signer is not None:
        for image_format in _image_formats(source):
            signer.check(image_format)
    return ExportedRun(source, None if only is None else _matching(source, only), signer)


def _image_formats(source: Source) -> list[str]:
    """Return the formats of all pictures."""
    tables = (rows for _, rows in read_columns(source, ["image_format"]))
    return sorted({name for rows in tables for name in pc.unique(rows["image_format"]).to_pylist()} - {None})


def _matching(source: Source, only: str) -> dict[int, Mask]:
    """Return which rows that are ok the condition is true for, by file."""
    output = source.expected.output
    names = [field.name for field in source.expected.schema if not _is_bytes(field.type)]
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

    for shard, rows in read_columns(source, names):
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


def _is_bytes(kind: pa.DataType) -> bool:
    return is_bytes(kind) or bool(pa.types.is_fixed_size_binary(kind))
