"""An export is done in units: some shards, the files that their pictures become, and a part of the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from dmt_ray.output.export.manifest import Entry, write_part
from dmt_ray.output.export.run import ExportedRun
from dmt_ray.output.export.writing import Destination
from dmt_ray.output.grouping import group_by_size


@dataclass(frozen=True)
class Unit:
    """Shards that are exported together."""

    number: int
    shards: tuple[int, ...]
    key: str
    """SHA-256 of what the shards' files say of themselves."""


@dataclass(frozen=True)
class Written:
    """What exporting a unit gave."""

    entries: list[Entry]
    """Of all its files, also of those that were there."""
    created: int
    """Pictures that were not there before."""


class Writer(Protocol):
    """A form of export."""

    most_threads: int
    """Units to work on side by side at most: some forms hold much of each."""
    whole: bool
    """Its files depend on all shards of the run, so an export of a run that has grown is another one."""

    def units(self) -> list[Unit]:
        """Return the units, the same each time for the same run and options."""
        ...

    def write(self, unit: Unit, earlier: dict[str, str]) -> Written:
        """Write the files of a unit.

        Parameters:
            unit: one of them.
            earlier: SHA-256 of the files that this export wrote for this unit before, by path.

        Raises:
            SettingsError: a shard is damaged, or somebody's own file has the name of one to write.
            StorageError: a file cannot be read or written.
        """
        ...

    def finish(self, destination: Destination) -> None:
        """Write what belongs to the export as a whole."""
        ...


def announce(destination: Destination, unit: Unit, entries: Sequence[Entry]) -> None:
    """Say in the manifest what the unit's file will be; do it when the file is complete and has no name yet.

    Raises:
        StorageError: the manifest cannot be written.
    """
    write_part(destination.dest, unit.number, unit.key, entries, announced=True)


def cut(run: ExportedRun, sizes: Iterable[tuple[int, int]], limit: int) -> list[Unit]:
    """Group shards into units of at least ``limit``; see ``group_by_size``."""
    groups = group_by_size(sizes, limit)
    return [Unit(number, tuple(group), rows_key(run, group)) for number, group in enumerate(groups)]


def cut_by_bytes(run: ExportedRun, file_size: int) -> list[Unit]:
    """Group the shards that have pictures to export into units of about ``file_size`` megabytes of pictures."""
    sizes = [
        (shard, run.facts[shard].size * run.pictures(shard) // run.facts[shard].rows)
        for shard in sorted(run.facts)
        if run.pictures(shard)
    ]
    return cut(run, sizes, file_size * 10**6)


def rows_key(run: ExportedRun, shards: Iterable[int]) -> str:
    """Return the SHA-256 of what the files of some shards say of themselves."""
    return hashlib.sha256("\n".join(run.facts[shard].body_sha256 for shard in shards).encode()).hexdigest()


def without_pictures(run: ExportedRun, rows: pa.Table) -> pa.Table:
    """Return rows without the program's own columns of bytes: picture, animation and displacement."""
    own = [field.name for field in run.expected.own_schema if field.type == pa.large_binary()]
    return rows.drop_columns(own)
