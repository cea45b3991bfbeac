"""The chunks of a PNG file, read and put in without touching its pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Where the chunks behind the header begin: IHDR comes first and is 13 bytes long.
_BEHIND_HEADER = len(SIGNATURE) + 25


def chunk_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each chunk, up to the first that is cut short; none of what is no PNG file."""
    place = len(SIGNATURE) if data.startswith(SIGNATURE) else len(data)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return
        yield place, end
        place = end


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and content of each chunk behind the signature, as far as they are whole."""
    view = memoryview(data)
    for start, end in chunk_spans(data):
        yield bytes(view[start + 4 : start + 8]), view[start + 8 : end - 4]


def icc_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a PNG file, at most 16 MiB of it; None where there is none.

    Raises:
        zlib.error: it is damaged.
    """
    for kind, content in png_chunks(data):
        if kind == b"IDAT":
            break
        if kind == b"iCCP":
            packed = bytes(content).partition(b"\x00")[2][1:]
            return zlib.decompressobj().decompress(packed, 2**24)
    return None


def ancillary_chunks(data: bytes) -> bytes:
    """Return what lies between the header and the pixels of a PNG file."""
    place = _BEHIND_HEADER
    for kind, content in png_chunks(data):
        if kind == b"IDAT":
            break
        if kind != b"IHDR":
            place += 12 + len(content)
    return data[_BEHIND_HEADER:place]


def with_chunks(data: bytes, chunks: bytes) -> bytes:
    """Return a PNG file with whole chunks put in behind its header."""
    return data[:_BEHIND_HEADER] + chunks + data[_BEHIND_HEADER:]
