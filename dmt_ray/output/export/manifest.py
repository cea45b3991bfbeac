"""``manifest/``: what an export has written, in Parquet files; each is written when its pictures are there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.output.shard_file import DamagedShardError, footer_keys, reading_shard
from dmt_ray.storage import files

MANIFEST_FOLDER = "manifest"
#: In the footer of a part: what it was made of.
_KEY = "dmt_ray.unit"

MANIFEST_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # of the file, relative to the export
        ("member", pa.string()),  # inside of it, where it is an archive
        ("id", pa.string()),  # of the image; null in the row of an archive or Parquet file itself
        ("step", pa.int32()),
        ("strength", pa.float64()),
        ("sha256", pa.string()),  # of the picture, or of the file itself, in hexadecimal
        ("size", pa.int64()),  # in bytes
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


@dataclass(frozen=True)
class Part:
    """A file of the manifest."""

    key: str
    """What it was made of."""
    entries: list[Entry]


def part_uri(dest: str, number: int) -> str:
    """Return where a part of an export's manifest lies."""
    return files.join(dest, MANIFEST_FOLDER, f"part-{number:06d}.parquet")


def write_part(dest: str, number: int, key: str, entries: Sequence[Entry]) -> None:
    """Write a part of the manifest, also in place of an earlier one.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [{name: getattr(entry, name) for name in MANIFEST_SCHEMA.names} for entry in entries]
    table = pa.Table.from_pylist(rows, MANIFEST_SCHEMA)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, MANIFEST_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: key})
    files.write_atomic(part_uri(dest, number), sink.getvalue())


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
            return Part(footer_keys(file).get(_KEY, ""), entries)
    except DamagedShardError:
        return None
