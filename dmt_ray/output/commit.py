"""One shard becomes one Parquet file, atomically and always under the same name.

Writing a shard twice writes the same name again, so a retry, a zombie worker or a second driver changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmt_ray.output.expected import Expected, shard_stamp
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.rows import judge_rows, with_checksums
from dmt_ray.output.schema import (
    BODY_KEY,
    ERRORS_KEY,
    ROW_SCHEMA,
    SCHEMA_KEY,
    SCHEMA_VERSION,
    STAMP_KEY,
    row_schema,
)
from dmt_ray.storage import files
from dmt_ray.words import counted

SHARDS_FOLDER = "shards"

_SHARD_NAME = re.compile(r"shard-([0-9]{6,18})\.parquet")


def shard_name(shard: int) -> str:
    """Return the file name of a shard, such as ``shard-000012.parquet``."""
    return f"shard-{shard:06d}.parquet"


def shard_uri(output: str, shard: int) -> str:
    """Return where a shard of the run at ``output`` lives."""
    return files.join(output, SHARDS_FOLDER, shard_name(shard))


def shard_number(name: str) -> int | None:
    """Return the number of the shard whose file has this name; None where it is no shard's name.

    Every number has one name: ``shard-0000002.parquet`` is nobody's.
    """
    match = _SHARD_NAME.fullmatch(name)
    if match is None or shard_name(int(match[1])) != name:
        return None
    return int(match[1])


def committed_shards(output: str) -> set[int]:
    """Return the numbers of the shards whose file exists.

    Raises:
        StorageError: the folder cannot be listed.
    """
    names = files.list_names(files.join(output, SHARDS_FOLDER))
    return {number for name in names if (number := shard_number(name)) is not None}


def commit_shard(shard: Shard, rows: pa.Table, expected: Expected) -> None:
    """Write all rows of a shard as its file, which appears whole or not at all.

    Parameters:
        shard: with all its images.
        rows: with the columns of ``expected``; one row for each image and step, in the plan's order. Images without
            a checksum get one.
        expected: what the run's files must be.

    Raises:
        ValueError: ``dmt-ray verify`` would refuse these rows (see ``consistent``). Nothing was written.
        StorageError: the file cannot be written.
    """
    rows = with_checksums(rows)
    judged = judge_rows(rows, shard, expected)
    if judged.missing or judged.extra:
        lacking, beyond = counted(len(judged.missing), "row"), counted(len(judged.extra), "row")
        raise ValueError(f"shard {shard.number} lacks {lacking} of its plan and has {beyond} beyond it")
    if judged.contradiction is not None:
        raise ValueError(f"shard {shard.number} cannot be committed: {judged.contradiction}")
    if not rows.schema.remove_metadata().equals(expected.schema):
        raise ValueError(f"shard {shard.number} has other columns than its run: {rows.schema.names}")
    write_shard(expected.output, shard.number, rows, expected.fingerprint)


def write_shard(output: str, number: int, rows: pa.Table, fingerprint: str) -> None:
    """Write rows as the file of a shard, whatever they say; ``commit_shard`` checks them before.

    Images without a checksum get one, every page has its CRC, and the footer says what the file is: schema version,
    stamp, number of error rows, and a checksum of all bytes before the footer.

    Parameters:
        output: the run's output.
        number: the shard's.
        rows: an image's rows side by side; columns beside those of ``ROW_SCHEMA`` come after them.
        fingerprint: of the run's settings.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = with_checksums(rows)
    input_columns = pa.schema([field for field in rows.schema if field.name not in ROW_SCHEMA.names])
    rows = rows.cast(row_schema(input_columns))
    footer = {
        SCHEMA_KEY: str(SCHEMA_VERSION),
        ERRORS_KEY: str(pc.sum(pc.equal(rows["status"], "error")).as_py() or 0),
        STAMP_KEY: shard_stamp(fingerprint, dict.fromkeys(rows["id"].to_pylist())),
    }
    files.write_atomic(shard_uri(output, number), _parquet(rows, footer))


def _parquet(rows: pa.Table, footer: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with shard_writer(sink, rows.schema) as writer:
        writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        writer.add_key_value_metadata(footer | {BODY_KEY: hashlib.sha256(sink.getbuffer()).hexdigest()})
    return sink.getvalue()


def shard_writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer for rows of images: each page has a checksum, and images are stored uncompressed."""
    # Encoded images do not shrink; everything else does.
    compression = {name: "none" if name == "image" else "zstd" for name in schema.names}
    return pq.ParquetWriter(sink, schema, compression=compression, use_dictionary=False, write_page_checksum=True)
