"""The frozen plan of a run, or some of its shards: made of a listing, extended, written and loaded.

However many images there are, the driver holds no more of them than a few thousand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.output.plan_file import PLAN_FILE, PLAN_SCHEMA, Binding, PlanFile, Shard, plan_footer
from dmt_ray.storage import files
from dmt_ray.storage.disk_space import is_out_of_space
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.scratch import scratch_folder

#: Images of a row group, which is what is read at a time: about this many, and always whole shards.
GROUP_ROWS = 8192


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

    @property
    def containers(self) -> Mapping[str, str]:
        """See ``PlanFile.containers``."""
        return self.file.containers

    def used_containers(self) -> list[str]:
        """Return the URIs of the tables and archives that the shards read from, sorted."""
        return self.file.used_containers(self._numbers)

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


def make_plan(listing: Listing, shard_size: int, input_columns: pa.Schema, binding: Binding | None = None) -> Plan:
    """Cut a listing into shards of ``shard_size`` images, in order; the last may be smaller.

    The plan is in a temporary file, which lives as long as the plan does; ``plan_bytes`` is what belongs into the
    output.

    Parameters:
        listing: the images.
        shard_size: images per shard.
        input_columns: the input's columns that the output has too, see ``PlanFile.input_columns``.
        binding: ties the plan to its run.

    Raises:
        StorageError: the temporary file cannot be written.
    """
    groups = _in_shards(listing.batches(), shard_size, first=0)
    return write_plan(plan_footer(input_columns, listing.containers, binding), groups)


def extend_plan(plan: Plan, listing: Listing, shard_size: int) -> Plan:
    """Return a plan with the same shards, and behind them new ones for the images of a listing that it lacks.

    The plan itself where there are no such images and no table or archive has changed; else in a temporary file, see
    ``make_plan``.

    Raises:
        StorageError: the plan cannot be read, or the temporary file cannot be written.
    """
    ids = pa.chunked_array([chunk for part in plan.file.ids() for chunk in part.chunks], pa.string())
    fresh = (batch.filter(pc.invert(pc.is_in(batch["id"], value_set=ids))) for batch in listing.batches())
    later = _in_shards(fresh, shard_size, first=plan.numbers[-1] + 1)
    began = next(later, None)
    containers = {**plan.containers, **listing.containers}
    if began is None and containers == plan.containers:
        return plan
    new = itertools.chain([] if began is None else [began], later)
    footer = plan_footer(plan.input_columns, containers, plan.file.binding)
    return write_plan(footer, itertools.chain(plan.file.groups(), new))


def bound_to(plan: Plan, binding: Binding) -> Plan:
    """Return the plan tied to a run: the plan itself where it is, else a copy in a temporary file."""
    if plan.file.binding == binding:
        return plan
    return write_plan(plan_footer(plan.input_columns, plan.containers, binding), plan.file.groups())


def _in_shards(batches: Iterable[pa.RecordBatch], shard_size: int, first: int) -> Iterator[pa.Table]:
    """Cut a listing into numbered shards; yield tables of ``PLAN_SCHEMA`` that hold whole shards."""
    start = 0
    for rows in _regroup(batches, shard_size * max(1, GROUP_ROWS // shard_size)):
        shards = first + np.arange(start, start + rows.num_rows) // shard_size
        yield rows.append_column("shard", pa.array(shards))
        start += rows.num_rows


def write_plan(footer: Mapping[bytes, bytes], groups: Iterable[pa.Table]) -> Plan:
    """Write a plan into a temporary file, a row group for each table.

    Raises:
        SettingsError: the disk of the temporary folder is full, or there is no such folder.
        StorageError: so full that no folder can be made there.
    """
    folder = scratch_folder("plan")
    place = str(folder.path.parent)
    try:
        path = folder.path / PLAN_FILE
        schema = PLAN_SCHEMA.with_metadata(footer)
        with pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=["shard", "origin"], write_page_checksum=True
        ) as writer:
            for table in groups:
                rows = table.replace_schema_metadata(schema.metadata)
                writer.write_table(rows, row_group_size=max(1, table.num_rows))
        return Plan(PlanFile(str(path), owned=folder))
    except OSError as error:
        if is_out_of_space(error, place):
            raise SettingsError(
                f"There is no space left in {place}, where the plan of this run is made. Make room, or let TMPDIR "
                "name a folder on another disk."
            ) from error
        raise


def plan_bytes(plan: Plan) -> bytes:
    """Return a plan's file, a few dozen bytes per image."""
    return files.read_bytes(plan.file.uri)


def write_plan_file(output: str, plan: Plan) -> None:
    """Write a plan into an output folder, on a local disk for the user's eyes only.

    Raises:
        StorageError: it cannot be written.
    """
    files.write_atomic(files.join(output, PLAN_FILE), plan_bytes(plan), private=True)


def plan_from_bytes(data: bytes) -> Plan:
    """Return the plan that ``plan_bytes`` gave, in a temporary file.

    Raises:
        StorageError: the temporary file cannot be written.
    """
    folder = scratch_folder("plan")
    path = folder.path / PLAN_FILE
    files.write_atomic(str(path), data, private=True)
    return Plan(PlanFile(str(path), owned=folder))


def load_plan(output: str) -> Plan:
    """Open the frozen plan of the run at ``output``.

    Raises:
        SettingsError: there is no plan, or it is damaged, or it is not one of ours.
    """
    uri = files.join(output, PLAN_FILE)
    if not files.exists(uri):
        raise SettingsError(f"{masked(output)} has no {PLAN_FILE}; is it the --output of a run?")
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
