"""The frozen plan: which image goes into which shard, in a file that is written and read in parts.

However many images there are, neither the driver nor a worker holds more of them than a few thousand.
"""

from __future__ import annotations

import base64
import bisect
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.inputs.listing import LISTING_SCHEMA, items_of
from dmt_ray.storage.inputs.registry import InputItem, Listing

PLAN_FILE = "plan.parquet"
PLAN_SCHEMA = pa.schema([*LISTING_SCHEMA, ("shard", pa.int64())])

#: Images of a row group, which is what is read at a time: about this many, and always whole shards.
GROUP_ROWS = 8192

_CARRIED_KEY = b"dmt_ray.input_columns"


@dataclass(frozen=True)
class Shard:
    """A numbered group of inputs: one Parquet file, and one unit of retry."""

    number: int
    items: tuple[InputItem, ...]


class PlanFile:
    """A plan file that is read a row group at a time; the last one is kept.

    Parameters:
        uri: the file.
        owned: a folder to delete with this object.

    Raises:
        SettingsError: it is not one of ours.
    """

    def __init__(self, uri: str, owned: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.uri = uri
        self._owned = owned
        self._metadata: pq.FileMetaData | None = None
        with self._reading() as file:
            schema = file.schema_arrow
            if not schema.remove_metadata().equals(PLAN_SCHEMA):
                columns = ", ".join(schema.names)
                raise SettingsError(f"{uri} is not a plan of this program: its columns are {columns}.")
            shards = [batch.column(0).to_numpy() for batch in file.iter_batches(columns=["shard"])]
            self._metadata = file.metadata
        numbers = np.concatenate([np.zeros(0, np.int64), *shards])
        self.numbers, self._starts, self._counts = np.unique(numbers, return_index=True, return_counts=True)
        self._groups: list[int] = [0]  # where each row group begins, and the end
        for index in range(self._metadata.num_row_groups):
            self._groups.append(self._groups[-1] + self._metadata.row_group(index).num_rows)
        packed = (schema.metadata or {}).get(_CARRIED_KEY)
        #: The columns that the run carries through to its output, as they are named there; each field's metadata
        #: says under ``column`` what the input calls it.
        self.input_columns: pa.Schema = pa.schema([])
        if packed:
            self.input_columns = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(packed)))
        self._kept: tuple[int, pa.Table] | None = None

    def images(self, numbers: npt.NDArray[np.int64]) -> int:
        """Return how many images some shards have together."""
        return int(self._counts[np.searchsorted(self.numbers, numbers)].sum())

    def shard(self, number: int) -> Shard:
        """Read one shard; shards in order cost one pass over the file.

        Raises:
            KeyError: the plan has no such shard.
            StorageError: the file cannot be read.
        """
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            raise KeyError(f"the plan has no shard {number}")
        start, left = int(self._starts[place]), int(self._counts[place])
        items: list[InputItem] = []
        while left:
            group = bisect.bisect_right(self._groups, start) - 1
            rows = self._group(group).slice(start - self._groups[group], left)
            items += items_of(rows)
            start, left = start + rows.num_rows, left - rows.num_rows
        return Shard(number, tuple(items))

    def ids(self) -> Iterator[pa.ChunkedArray]:
        """Yield the ids in the plan's order, a row group at a time."""
        for group in range(len(self._groups) - 1):
            with self._reading() as file:
                yield file.read_row_group(group, columns=["id"])["id"]

    def groups(self) -> Iterator[pa.Table]:
        """Yield the plan as it is written, a row group at a time."""
        for group in range(len(self._groups) - 1):
            with self._reading() as file:
                yield file.read_row_group(group)

    def _group(self, index: int) -> pa.Table:
        if self._kept is None or self._kept[0] != index:
            with self._reading() as file:
                self._kept = index, file.read_row_group(index, columns=LISTING_SCHEMA.names)
        return self._kept[1]

    @contextmanager
    def _reading(self) -> Iterator[pq.ParquetFile]:
        with files.open_file(self.uri) as source:
            try:
                file = pq.ParquetFile(source, metadata=self._metadata)
            except (pa.ArrowException, ValueError) as error:
                raise SettingsError(f"{self.uri} is not a plan of this program: {error}") from error
            try:
                yield file
            except pa.ArrowException as error:
                raise files.StorageError(self.uri, f"cannot be read as a plan ({error})") from error


class Plan(Sequence[Shard]):
    """Some or all shards of a plan file, in order of their numbers. A shard is read when it is asked for.

    Parameters:
        file: the plan file.
        numbers: the shards; None: all.
    """

    def __init__(self, file: PlanFile, numbers: npt.NDArray[np.int64] | None = None) -> None:
        self.file = file
        self._numbers = file.numbers if numbers is None else numbers

    @property
    def numbers(self) -> list[int]:
        """The shards' numbers, rising."""
        return [int(number) for number in self._numbers]

    @property
    def images(self) -> int:
        """How many images the shards have together."""
        return self.file.images(self._numbers)

    @property
    def input_columns(self) -> pa.Schema:
        """See ``PlanFile.input_columns``."""
        return self.file.input_columns

    def without(self, numbers: Iterable[int]) -> Plan:
        """Return the shards but some."""
        return Plan(self.file, np.setdiff1d(self._numbers, np.fromiter(numbers, np.int64)))

    def only(self, numbers: Iterable[int]) -> Plan:
        """Return just some of the shards."""
        return Plan(self.file, np.intersect1d(self._numbers, np.fromiter(numbers, np.int64)))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Plan: ...
    def __getitem__(self, index: int | slice) -> Shard | Plan:
        if isinstance(index, slice):
            return Plan(self.file, np.sort(self._numbers[index]))
        return self.file.shard(int(self._numbers[index]))

    def __iter__(self) -> Iterator[Shard]:
        return (self.file.shard(int(number)) for number in self._numbers)


def make_plan(listing: Listing, shard_size: int, input_columns: pa.Schema) -> Plan:
    """Cut a listing into shards of ``shard_size`` images, in order; the last may be smaller.

    The plan is in a temporary file, which lives as long as the plan does; ``plan_bytes`` is what belongs into the
    output.

    Parameters:
        listing: the images.
        shard_size: images per shard.
        input_columns: the columns to carry through, see ``PlanFile.input_columns``.
    """
    return _written(input_columns, _in_shards(listing.batches(), shard_size, first=0))


def extend_plan(plan: Plan, listing: Listing, shard_size: int) -> Plan:
    """Return a plan with the same shards, and behind them new ones for the images of a listing that it lacks.

    The plan itself where there are no such images; else in a temporary file, see ``make_plan``.

    Raises:
        StorageError: the plan cannot be read.
    """
    ids = pa.chunked_array([chunk for part in plan.file.ids() for chunk in part.chunks], pa.string())
    fresh = (batch.filter(pc.invert(pc.is_in(batch["id"], value_set=ids))) for batch in listing.batches())
    later = _in_shards(fresh, shard_size, first=plan.numbers[-1] + 1)
    began = next(later, None)
    if began is None:
        return plan
    return _written(plan.input_columns, itertools.chain(plan.file.groups(), [began], later))


def _in_shards(batches: Iterable[pa.RecordBatch], shard_size: int, first: int) -> Iterator[pa.Table]:
    """Cut a listing into numbered shards; yield tables of ``PLAN_SCHEMA`` that hold whole shards."""
    start = 0
    for rows in _regroup(batches, shard_size * max(1, GROUP_ROWS // shard_size)):
        shards = first + np.arange(start, start + rows.num_rows) // shard_size
        yield rows.append_column("shard", pa.array(shards))
        start += rows.num_rows


def _written(input_columns: pa.Schema, groups: Iterable[pa.Table]) -> Plan:
    """Write a plan into a temporary file, a row group for each table."""
    folder = tempfile.TemporaryDirectory(prefix="dmt-ray-plan-")
    path = Path(folder.name) / PLAN_FILE
    packed = base64.b64encode(input_columns.serialize().to_pybytes())
    schema = PLAN_SCHEMA.with_metadata({_CARRIED_KEY: packed})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["shard"]) as writer:
        for table in groups:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(1, table.num_rows))
    return Plan(PlanFile(str(path), owned=folder))


def plan_bytes(plan: Plan) -> bytes:
    """Return a plan's file, a few dozen bytes per image."""
    return files.read_bytes(plan.file.uri)


def load_plan(output: str) -> Plan:
    """Open the frozen plan of the run at ``output``.

    Raises:
        SettingsError: there is no plan, or it is not one of ours.
    """
    uri = files.join(output, PLAN_FILE)
    if not files.exists(uri):
        raise SettingsError(f"{output} has no {PLAN_FILE}; is it the --output of a run?")
    return Plan(PlanFile(uri))


def _regroup(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of batches in tables of exactly ``rows`` rows; the last may be smaller."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, rows)
            waiting = table.slice(rows).to_batches()
            count -= rows
    if count:
        yield pa.Table.from_batches(waiting)
