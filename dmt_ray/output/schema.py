"""The columns of a shard's rows, and the versions that they went through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

#: The schema version that this program writes. Earlier ones can still be verified, compacted and read.
SCHEMA_VERSION = 6
#: Versions up to this one did not write their number into the footer.
LAST_UNNUMBERED_VERSION = 2

#: In a shard file's footer: its schema version, and how many of its rows are error rows.
SCHEMA_KEY = "dmt_ray.schema_version"
ERRORS_KEY = "dmt_ray.errors"
#: In a shard file's footer: what it was made for (see ``shard_stamp``), and the SHA-256 of all bytes before it.
STAMP_KEY = "dmt_ray.stamp"
BODY_KEY = "dmt_ray.body_sha256"

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
        ("digital_source_type", pa.string()),  # how the image came to be: a term of the IPTC's vocabulary
        ("animation", pa.large_binary()),  # an animation of the way from the input to the image
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
        ("colorfulness", pa.float64()),  # of the image, by Hasler and Suesstrunk
        ("confidence", pa.float64()),  # of the colours that colorize found, in 0..1
        ("verdict_before", pa.float64()),  # decision values of the run's judge, above 0 for the target class
        ("verdict_after", pa.float64()),
        ("flipped", pa.bool_()),  # null where the input was of the target class already
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
        ("seconds_reconstruct", pa.float64()),
        ("worker", pa.string()),  # "<node address>:<process id>", and the GPU that Ray gave it
        ("device", pa.string()),  # of the reconstruction: "cpu", or "cuda:" and the GPU's model
        ("weights", pa.string()),  # "<backbone>:<first 12 digits of the SHA-256>", or "random:<seed>"
        ("input_sha256", pa.string()),  # of the encoded input bytes as they were read, in hexadecimal
        ("frames", pa.int32()),  # frames or pages of the input's file, of which the first is used
        ("truncated", pa.bool_()),  # the input's end is missing, and what could be decoded is used
        ("warning", pa.string()),  # what is wrong with an image's row that has a result all the same
    ]
)

#: The version that introduced a column; all others are of version 1.
_SINCE = {
    "displacement": 2,
    **dict.fromkeys(("input_sha256", "warning"), 3),
    **dict.fromkeys(("verdict_before", "verdict_after", "flipped"), 4),
    **dict.fromkeys(("digital_source_type", "frames", "truncated"), 5),
    "device": 6,
    **dict.fromkeys(("colorfulness", "confidence"), 6),
}

#: Columns that had another name up to a version: that version, and the name.
_RENAMED = {"animation": (4, "path")}


def column_name(column: str, version: int) -> str:
    """Return what a column of ``ROW_SCHEMA`` is called in files of a version that has it."""
    last, earlier = _RENAMED.get(column, (0, column))
    return earlier if version <= last else column


#: The columns of each version.
ROW_SCHEMAS = {
    version: pa.schema(
        [
            field.with_name(column_name(field.name, version))
            for field in ROW_SCHEMA
            if _SINCE.get(field.name, 1) <= version
        ]
    )
    for version in range(1, SCHEMA_VERSION + 1)
}

#: What an image's result is described by: null in an error row.
RESULT_COLUMNS = (
    "image",
    "image_sha256",
    "image_format",
    "width",
    "height",
    "digital_source_type",
    "animation",
    "displacement",
    "budget_weight",
    "rbf_variance",
    "displacement_norm",
    "witness_before",
    "witness_after",
    "feature_loss_before",
    "feature_loss_after",
    "iterations",
    "psnr_to_input",
    "ssim_to_input",
    "lpips_to_input",
    "colorfulness",
    "confidence",
    "verdict_before",
    "verdict_after",
    "flipped",
)


def row_schema(input_columns: pa.Schema, version: int = SCHEMA_VERSION) -> pa.Schema:
    """Return the schema of a run's shards: the version's own columns, then those that the input brought along."""
    return pa.schema([*ROW_SCHEMAS[version], *(field.remove_metadata() for field in input_columns)])


def rows_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of exactly ``ROW_SCHEMA``; keys that a row lacks become nulls.

    Raises:
        ValueError: a row has a key that is no column.
    """
    rows = list(rows)
    unknown = {key for row in rows for key in row} - set(ROW_SCHEMA.names)
    if unknown:
        raise ValueError(f"rows have columns outside the schema: {sorted(unknown)}")
    return pa.Table.from_pylist([{name: row.get(name) for name in ROW_SCHEMA.names} for row in rows], ROW_SCHEMA)


def unnumbered_version(schema: pa.Schema) -> int:
    """Return the version of a file whose footer has no version number: 1 or 2, by its columns.

    An input's own column may be called ``displacement`` too; it stands behind all of version 1's columns.
    """
    return 2 if "displacement" in schema.names[: len(ROW_SCHEMAS[1])] else 1
