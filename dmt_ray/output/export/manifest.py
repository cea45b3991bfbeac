"""``manifest/``: what an export has written, in Parquet files; each is written when its pictures are there."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.output.shard_file import DamagedShardError, footer_keys, reading_shard
from dmt_ray.storage import files

MANIFEST_FOLDER = "manifest"
#: In the footer of a part: what it was made of.
_KEY = "dmt_ray.unit"
#: In the footer of a part: its file is about to get its name.
_ANNOUNCED_KEY = "dmt_ray.announced"

_PART_NAME = re.compile(r"part-[0-9]{6,}\.parquet")

MANIFEST_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # of the file, relative to the export
        ("member", pa.string()),  # inside of it, where it is an archive
        ("id", pa.string()),  # of the image; null in the row of an archive or Parquet file itself
        ("step", pa.int32()),
        ("strength", pa.float64()),
        ("sha256", pa.string()),  # of the picture, or of the file itself, in hexadecimal
        ("size", pa.int64()),  # in bytes
        ("animation", pa.bool_()),  # the way to a picture, not the picture itself
    ]
)


@dataclass(frozen=True)
class Entry:
    """A row of the manifest."""

    path: str
    sha256: str
    size: int
    member: str | None = None
    id: str | None = None
    step: int | None = None
    strength: float | None = None
    animation: bool = False


@dataclass(frozen=True)
class Part:
    """A file of the manifest."""

    key: str
    """What it was made of."""
    entries: list[Entry]
    announced: bool
    """Its file may not be there yet, or be somebody else's: only the checksum tells."""


def part_uri(dest: str, number: int) -> str:
    """Return where a part of an export's manifest lies."""
    return files.join(dest, MANIFEST_FOLDER, f"part-{number:06d}.parquet")


def write_part(dest: str, number: int, key: str, entries: Sequence[Entry], *, announced: bool = False) -> None:
    """Write a part of the manifest, also in place of an earlier one.

    Parameters:
        dest: the export.
        number: of the part.
        key: what it was made of.
        entries: its rows.
        announced: the file is complete, and gets its name next. A file that would come out otherwise a second time,
            as a signed one does, is known again by this.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [{name: getattr(entry, name) for name in MANIFEST_SCHEMA.names} for entry in entries]
    table = pa.Table.from_pylist(rows, MANIFEST_SCHEMA)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, MANIFEST_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: key} | ({_ANNOUNCED_KEY: "true"} if announced else {}))
    files.write_atomic(part_uri(dest, number), sink.getvalue())


def drop_parts(dest: str, count: int) -> None:
    """Delete the parts from a number on, of an earlier export of the same rows that had more of them.

    Raises:
        StorageError: one cannot be deleted.
    """
    known = {part_uri("", number).rpartition("/")[2] for number in range(count)}
    for name in files.list_names(files.join(dest, MANIFEST_FOLDER)) - known:
        if _PART_NAME.fullmatch(name):
            files.delete(files.join(files.join(dest, MANIFEST_FOLDER), name))


def read_part(dest: str, number: int) -> Part | None:
    """Return a part of the manifest; None where there is none, or none that can be read.

    Raises:
        StorageError: the place cannot be read.
    """
    uri = part_uri(dest, number)
    if not files.exists(uri):
        return None
    try:
        with reading_shard(uri) as file:
            if file.schema_arrow.names != MANIFEST_SCHEMA.names:
                return None
            entries = [Entry(**row) for row in file.read().to_pylist()]
            keys = footer_keys(file)
            return Part(keys.get(_KEY, ""), entries, _ANNOUNCED_KEY in keys)
    except DamagedShardError:
        return None
