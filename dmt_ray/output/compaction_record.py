"""``compaction.json``: which run's rows lie in which files of a compaction."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from dmt_ray.errors import SettingsError
from dmt_ray.output.run_record import PROGRAM
from dmt_ray.storage import files

COMPACTION_FILE = "compaction.json"
#: What the record says wrote it.
COMPACT_PROGRAM = f"{PROGRAM} compact"
PART_NAME = re.compile(r"part-([0-9]{6,})\.parquet")


@dataclass(frozen=True)
class Part:
    """One file of a compaction."""

    name: str
    shards: tuple[int, ...]
    rows: int
    stamp: str
    """SHA-256 of what its shards' files say of themselves."""
    errors: int = 0
    """Error rows; known while the file is made."""


@dataclass(frozen=True)
class CompactionRecord:
    """What ``compaction.json`` says of a finished compaction."""

    fingerprint: str
    """Of the run's settings."""
    parts: tuple[Part, ...]
    steps: int
    """Rows per image."""
    job: str | None
    """That made the run; earlier versions did not say it."""


def is_compaction(place: str) -> bool:
    """Tell whether a place is the DEST of a compaction."""
    return files.exists(files.join(place, COMPACTION_FILE))


def read_compaction(dest: str) -> CompactionRecord:
    """Return what ``compaction.json`` says.

    Raises:
        SettingsError: there is no compaction, it was never finished, or its record is damaged.
        StorageError: the record is missing or cannot be read.
    """
    said = read_claim(dest)
    if said.get("parts") is None:
        raise SettingsError(f"The compaction at {dest} was never finished; run it again.")
    parts, steps, job = _parts_of(said["parts"]), said.get("steps"), said.get("job")
    if parts is None or type(steps) is not int or not isinstance(job, str | None):
        raise _damaged(dest)
    return CompactionRecord(said["fingerprint"], parts, steps, job)


def read_claim(dest: str) -> dict[str, Any]:
    """Return the content of ``compaction.json``, which names a fingerprint.

    Raises:
        SettingsError: it is damaged, or not one of ours.
        StorageError: it is missing or cannot be read.
    """
    uri = files.join(dest, COMPACTION_FILE)
    try:
        record = json.loads(files.read_bytes(uri))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("program") != COMPACT_PROGRAM:
        raise SettingsError(f"{files.masked(uri)} was not written by this program; name another place.")
    parts = record.get("parts")
    if not isinstance(record.get("fingerprint"), str) or (parts is not None and _parts_of(parts) is None):
        raise _damaged(dest)
    return record


def _damaged(dest: str) -> SettingsError:
    uri = files.masked(files.join(dest, COMPACTION_FILE))
    return SettingsError(f"{uri} is damaged; compact the run again into an empty place.")


def _parts_of(said: object) -> tuple[Part, ...] | None:
    """Return the parts that a record names; None where it is damaged."""
    if not isinstance(said, list):
        return None
    parts = []
    for part in said:
        if not isinstance(part, dict):
            return None
        name, rows, stamp = part.get("name"), part.get("rows"), part.get("stamp")
        if not isinstance(name, str) or not isinstance(stamp, str) or type(rows) is not int:
            return None
        if not PART_NAME.fullmatch(name):
            return None
        parts.append(Part(name, (), rows, stamp))
    return tuple(parts)


def part_names(dest: str) -> set[str]:
    """Return the names of all files in a place that are called as parts are."""
    return {name for name in files.list_names(dest) if PART_NAME.fullmatch(name)}
