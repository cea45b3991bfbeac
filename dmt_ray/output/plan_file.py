"""A plan's file: which image goes into which shard, read a row group at a time, and what its footer says.

A worker holds no more of a plan than a few thousand images.
"""

from __future__ import annotations

import base64
import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import LISTING_SCHEMA, InputItem, items_of
from dmt_ray.storage.scratch import ScratchFolder

PLAN_FILE = "plan.parquet"
PLAN_SCHEMA = pa.schema([*LISTING_SCHEMA, ("shard", pa.int64())])

#: Columns that plans of earlier versions lack, the latest first.
_LATER_COLUMNS = ("origin", "identity")

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


def _known_columns() -> list[list[str]]:
    """Return the columns of plans of this version and of earlier ones."""
    known = [PLAN_SCHEMA.names]
    for later in _LATER_COLUMNS:
        known.append([name for name in known[-1] if name != later])
    return known


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
