"""The frozen plan: which image goes into which shard, in a file that is written and read in parts.

However many images there are, neither the driver nor a worker holds more of them than a few thousand.
"""

from __future__ import annotations

import base64
import bisect
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.disk_space import is_out_of_space
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import LISTING_SCHEMA, InputItem, Listing, items_of
from dmt_ray.storage.scratch import ScratchFolder, scratch_folder

PLAN_FILE = "plan.parquet"
PLAN_SCHEMA = pa.schema([*LISTING_SCHEMA, ("shard", pa.int64())])

#: Columns that plans of earlier versions lack, the latest first.
_LATER_COLUMNS = ("origin", "identity")

#: Images of a row group, which is what is read at a time: about this many, and always whole shards.
GROUP_ROWS = 8192

#: In the plan's footer: the input's own columns (an Arrow schema in base64), the identities of tables and archives,
#: the fingerprint of the run's settings, and the name that run.json bears as well.
_COLUMNS_KEY = b"dmt_ray.carried"
_CONTAINERS_KEY = b"dmt_ray.containers"
_FINGERPRINT_KEY = b"dmt_ray.fingerprint"
_NAME_KEY = b"dmt_ray.plan"
#: Says what secrets a plan holds, to whoever finds the file; and whether it was written without them.
_SECRETS_KEY = b"dmt_ray.secrets"
_WHOLE = b"This file holds the URIs of inputs with all signatures and passwords in them: keep it private."
_MASKED = b"masked: this file holds no signatures and passwords; a resumed run takes them from its --input."

#: What names a place inside of a table or an archive, behind its URI.
_INSIDE = r"#(row|offset|sample|member)=.*$"


class DamagedPlanError(SettingsError):
    """A plan file is cut short, damaged, or no plan at all; the message names it."""


@dataclass(frozen=True)
class Binding:
    """What ties a plan to its ``run.json``."""

    fingerprint: str
    """Of the run's settings."""
    name: str
    """Drawn once per run, and the same in both files."""


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
        DamagedPlanError: it is damaged, or not one of ours.
    """

    def __init__(self, uri: str, owned: ScratchFolder | None = None) -> None:
        self.uri = uri
        self._owned = owned
        self._metadata: pq.FileMetaData | None = None
        with self._reading() as file:
            schema = file.schema_arrow
            if schema.names not in _known_columns():
                columns = ", ".join(schema.names)
                raise DamagedPlanError(f"{masked(uri)} is not a plan of this program: its columns are {columns}.")
            shards = [batch.column(0).to_numpy() for batch in file.iter_batches(columns=["shard"])]
            self._metadata = file.metadata
        numbers = np.concatenate([np.zeros(0, np.int64), *shards])
        self.numbers, self._starts, self._counts = np.unique(numbers, return_index=True, return_counts=True)
        self._groups: list[int] = [0]  # where each row group begins, and the end
        for index in range(self._metadata.num_row_groups):
            self._groups.append(self._groups[-1] + self._metadata.row_group(index).num_rows)
        keys = schema.metadata or {}
        #: The columns of the input that the run's output has too, as they are named there; each field's metadata says
        #: under ``column`` what the input calls it.
        self.input_columns: pa.Schema = pa.schema([])
        if packed := keys.get(_COLUMNS_KEY):
            self.input_columns = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(packed)))
        #: Identities of the tables and archives that rows are read from, by URI; none in an earlier plan.
        self.containers: Mapping[str, str] = json.loads(keys.get(_CONTAINERS_KEY, b"{}"))
        #: None in a plan of an earlier version.
        self.binding: Binding | None = None
        if _FINGERPRINT_KEY in keys and _NAME_KEY in keys:
            self.binding = Binding(keys[_FINGERPRINT_KEY].decode(), keys[_NAME_KEY].decode())
        #: It was written without the secrets in its URIs, see ``masked_plan``.
        self.masked = keys.get(_SECRETS_KEY) == _MASKED
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
            if self._kept is None or self._kept[0] != group:
                self._kept = group, self._group(group, LISTING_SCHEMA.names)
            rows = self._kept[1].slice(start - self._groups[group], left)
            items += items_of(rows)
            start, left = start + rows.num_rows, left - rows.num_rows
        return Shard(number, tuple(items))

    def ids(self) -> Iterator[pa.ChunkedArray]:
        """Yield the ids in the plan's order, a row group at a time."""
        for group in range(len(self._groups) - 1):
            with self._reading() as file:
                yield file.read_row_group(group, columns=["id"])["id"]

    def groups(self) -> Iterator[pa.Table]:
        """Yield the plan as it is written, in tables of ``PLAN_SCHEMA``, a row group at a time."""
        for group in range(len(self._groups) - 1):
            yield self._group(group, PLAN_SCHEMA.names)

    def used_containers(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """Return the URIs of the tables and archives that some shards read from, sorted."""
        if not self.containers:
            return []
        wanted = pa.array(numbers, pa.int64())
        used: set[str] = set()
        for group in range(len(self._groups) - 1):
            rows = self._group(group, ["uri", "record", "shard"])
            rows = rows.filter(pc.is_in(rows["shard"], value_set=wanted))
            for name in ("uri", "record"):
                places = pc.replace_substring_regex(rows[name].combine_chunks(), _INSIDE, "")
                used.update(place for place in pc.unique(places).to_pylist() if place is not None)
        return sorted(used & self.containers.keys())

    def _group(self, index: int, columns: Sequence[str]) -> pa.Table:
        with self._reading() as file:
            rows = file.read_row_group(index, columns=[name for name in columns if name in file.schema_arrow.names])
        for name in _LATER_COLUMNS:
            if name in columns and name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.string()))
        return rows.select(list(columns))

    @contextmanager
    def _reading(self) -> Iterator[pq.ParquetFile]:
        with files.open_file(self.uri) as source:
            try:
                file = pq.ParquetFile(source, metadata=self._metadata, page_checksum_verification=True)
            except (pa.ArrowException, ValueError) as error:
                raise DamagedPlanError(
                    f"{masked(self.uri)} is damaged, or is not a plan of this program: {error}"
                ) from error
            try:
                yield file
            except (pa.ArrowException, OSError) as error:
                raise DamagedPlanError(f"{masked(self.uri)} is damaged: {' '.join(str(error).split())}.") from error


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


def _known_columns() -> list[list[str]]:
    """Return the columns of plans of this version and of earlier ones."""
    known = [PLAN_SCHEMA.names]
    for later in _LATER_COLUMNS:
        known.append([name for name in known[-1] if name != later])
    return known


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


def plan_footer(
    input_columns: pa.Schema, containers: Mapping[str, str], binding: Binding | None, *, masked: bool = False
) -> dict[bytes, bytes]:
    """Return what a plan's file says beside its rows; see ``PlanFile``."""
    footer = {
        _SECRETS_KEY: _MASKED if masked else _WHOLE,
        _COLUMNS_KEY: base64.b64encode(input_columns.serialize().to_pybytes()),
        _CONTAINERS_KEY: json.dumps(dict(containers)).encode(),
    }
    if binding is not None:
        footer |= {_FINGERPRINT_KEY: binding.fingerprint.encode(), _NAME_KEY: binding.name.encode()}
    return footer


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
