"""One shard becomes one Parquet file, atomically and always under the same name; and the schema of its rows.

Writing a shard twice writes the same name again, so a retry, a zombie worker or a second driver changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.storage import files

SHARDS_FOLDER = "shards"

#: One row per planned image and step. An error row has nulls wherever the image's own figures are missing.
ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("step", pa.int32()),  # which of the strengths asked for, from 0
        ("strength", pa.float64()),
        ("status", pa.string()),  # "ok" or "error"
        ("error_type", pa.string()),  # a short slug such as "truncated"
        ("error", pa.string()),
        ("attempts", pa.int32()),  # how often this run began the image's shard, this time included
        ("image", pa.large_binary()),
        ("image_sha256", pa.string()),  # of the image column's bytes, in hexadecimal
        ("image_format", pa.string()),
        ("width", pa.int32()),  # of the image column, in pixels
        ("height", pa.int32()),
        ("path", pa.large_binary()),  # an animation of the way from the input to the image
        ("displacement", pa.large_binary()),  # of all the image's steps, in the row of the first one
        ("budget_weight", pa.float64()),
        ("rbf_variance", pa.float64()),
        ("displacement_norm", pa.float64()),
        ("witness_before", pa.float64()),
        ("witness_after", pa.float64()),
        ("feature_loss_before", pa.float64()),
        ("feature_loss_after", pa.float64()),
        ("iterations", pa.int32()),
        ("psnr_to_input", pa.float64()),
        ("ssim_to_input", pa.float64()),
        ("lpips_to_input", pa.float64()),
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
        ("seconds_reconstruct", pa.float64()),
        ("worker", pa.string()),  # "<node address>:<process id>", and the GPU that Ray gave it
        ("weights", pa.string()),  # "<backbone>:<first 12 digits of the SHA-256>", or "random:<seed>"
    ]
)

#: In a shard file's footer: what it was made for (see ``shard_stamp``), and the SHA-256 of all bytes before it.
STAMP_KEY = "dmt_ray.stamp"
BODY_KEY = "dmt_ray.body_sha256"

_SHARD_NAME = re.compile(r"shard-(\d{6,})\.parquet")


def shard_name(shard: int) -> str:
    """Return the file name of a shard, such as ``shard-000012.parquet``."""
    return f"shard-{shard:06d}.parquet"


def shard_uri(output: str, shard: int) -> str:
    """Return where a shard of the run at ``output`` lives."""
    return files.join(output, SHARDS_FOLDER, shard_name(shard))


def committed_shards(output: str) -> set[int]:
    """Return the numbers of the shards whose file exists."""
    names = files.list_names(files.join(output, SHARDS_FOLDER))
    return {int(match[1]) for name in names if (match := _SHARD_NAME.fullmatch(name))}


def row_schema(input_columns: pa.Schema) -> pa.Schema:
    """Return the schema of a run's shards: ``ROW_SCHEMA``, and after it the columns that the input brought along."""
    return pa.schema([*ROW_SCHEMA, *(field.remove_metadata() for field in input_columns)])


def rows_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of exactly ``ROW_SCHEMA``; keys that a row lacks become nulls."""
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(ROW_SCHEMA.names)
    if unknown:
        raise ValueError(f"rows have columns outside the schema: {sorted(unknown)}")
    return pa.Table.from_pylist([{name: row.get(name) for name in ROW_SCHEMA.names} for row in rows], ROW_SCHEMA)


def shard_stamp(fingerprint: str, ids: Iterable[str]) -> str:
    """Return what tells a shard of this run from one of other settings or other images.

    Parameters:
        fingerprint: of the run's settings.
        ids: of the shard's images, in the plan's order.
    """
    return hashlib.sha256("\n".join([fingerprint, *ids]).encode()).hexdigest()


def commit_shard(output: str, shard: int, tables: Sequence[pa.Table], fingerprint: str) -> None:
    """Write the shard's rows as one Parquet file that appears whole or not at all.

    Columns beside those of ``ROW_SCHEMA`` (see ``carry``) come after them. Images without a checksum get one, every
    page has its CRC, and the footer has the shard's stamp and a checksum of all that is before it.

    Parameters:
        output: the run's output.
        shard: its number.
        tables: all its rows, an image's rows side by side, images in the plan's order.
        fingerprint: of the run's settings.

    Raises:
        StorageError: the file cannot be written.
    """
    table = _with_checksums(pa.concat_tables(tables))
    table = table.cast(row_schema(pa.schema([field for field in table.schema if field.name not in ROW_SCHEMA.names])))
    stamp = shard_stamp(fingerprint, dict.fromkeys(table["id"].to_pylist()))
    files.write_atomic(shard_uri(output, shard), _parquet(table, stamp))


def _parquet(table: pa.Table, stamp: str) -> bytes:
    sink = io.BytesIO()
    with shard_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({STAMP_KEY: stamp, BODY_KEY: hashlib.sha256(sink.getbuffer()).hexdigest()})
    return sink.getvalue()


def shard_writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a Parquet writer as it suits rows of images: a checksum for each page, no labour lost on pictures."""
    # Encoded images do not shrink; everything else does.
    compression = {name: "none" if name == "image" else "zstd" for name in schema.names}
    return pq.ParquetWriter(sink, schema, compression=compression, use_dictionary=False, write_page_checksum=True)


def _with_checksums(table: pa.Table) -> pa.Table:
    """Give every image its checksum; one that is there is kept, so that damage since then still shows."""
    index = table.schema.get_field_index("image_sha256")
    images, sums = table["image"], table["image_sha256"].to_pylist()
    for row, known in enumerate(sums):
        if known is None and images[row].is_valid:
            sums[row] = hashlib.sha256(images[row].as_buffer()).hexdigest()
    return table.set_column(index, table.schema.field(index), pa.array(sums, pa.string()))
