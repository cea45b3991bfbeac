"""What travels from the traversal to the reconstruction: each image as it was read, and a small displacement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

#: One row per image; the fields of ``TraversedImage``.
TRAVERSED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("input_sha256", pa.string()),
        ("frames", pa.int32()),
        ("truncated", pa.bool_()),
        ("source", pa.large_binary()),
        ("mask", pa.large_binary()),
        ("displacement", pa.large_binary()),
        ("working_shape", pa.list_(pa.int32())),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
    ]
)


@dataclass
class TraversedImage:
    """An image after the traversal: what was read and found, or why there is nothing."""

    id: str
    uri: str
    input_sha256: str | None = None
    """Of the encoded bytes that were read, in hexadecimal."""
    frames: int | None = None
    """Frames or pages of the file, of which the first was taken."""
    truncated: bool | None = None
    """The file's end is missing, and what could be decoded was taken."""
    source: bytes | None = None
    """The encoded bytes; None where they are not needed any more."""
    mask: bytes | None = None
    """The encoded mask, where the run has masks."""
    displacement: bytes | None = None
    """A serialised ``Displacement``."""
    working_shape: list[int] | None = None
    """Shape of the working picture: pictures of one shape are inverted side by side."""
    error_type: str | None = None
    error: str | None = None
    seconds_read: float | None = None
    seconds_traverse: float | None = None


def to_table(images: Iterable[TraversedImage]) -> pa.Table:
    """Return a table of ``TRAVERSED_SCHEMA``, a row for each image."""
    return pa.Table.from_pylist([vars(image) for image in images], TRAVERSED_SCHEMA)


def from_table(table: pa.Table) -> list[TraversedImage]:
    """Return the images of a table of ``TRAVERSED_SCHEMA``."""
    return [TraversedImage(**row) for row in table.to_pylist()]
