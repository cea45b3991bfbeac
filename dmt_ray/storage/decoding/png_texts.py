"""The texts and the colour profile of a PNG file, taken out where they are too large for Pillow."""

from __future__ import annotations

import zlib

from dmt_ray.storage.png_chunks import chunk_spans

_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_PROFILE = b"iCCP"
#: The texts that Pillow takes an orientation from; of no other is there any use here.
_USEFUL = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
#: Pillow refuses texts and profiles of more bytes than this, once decompressed.
_PILLOW_BYTES = 2**20
#: A profile of more bytes than this is left out.
_PROFILE_BYTES = 2**26


def without_large_texts(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG file that Pillow accepts whatever its texts are, and its colour profile where that was taken out.

    Texts without use, or of more than 1 MiB, are left out. Chunks are copied only where there is such a one.
    """
    kept: list[bytes] = []
    profile = None
    done = 0
    for start, end in chunk_spans(data):
        kind, body = data[start + 4 : start + 8], memoryview(data)[start + 8 : end - 4]
        if kind in _TEXTS:
            if _is_useful(kind, bytes(body[: _PILLOW_BYTES + 1])):
                continue
        elif kind == _PROFILE:
            compressed = bytes(body).partition(b"\0")[2][1:]
            if len(_inflated(compressed, _PILLOW_BYTES + 1)) <= _PILLOW_BYTES:
                continue
            found = _inflated(compressed, _PROFILE_BYTES + 1)
            profile = found if len(found) <= _PROFILE_BYTES else None
        else:
            continue
        kept.append(data[done:start])
        done = end
    if not done:
        return data, None
    return b"".join([*kept, data[done:]]), profile


def _is_useful(kind: bytes, body: bytes) -> bool:
    if not body.startswith(_USEFUL) or len(body) > _PILLOW_BYTES:
        return False
    rest = body.partition(b"\0")[2]
    if kind == b"zTXt":
        return len(_inflated(rest[1:], _PILLOW_BYTES + 1)) <= _PILLOW_BYTES
    if kind == b"iTXt" and rest[:1] != b"\0":
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return len(_inflated(text, _PILLOW_BYTES + 1)) <= _PILLOW_BYTES
    return True


def _inflated(data: bytes, most: int) -> bytes:
    """Return at most so many decompressed bytes; none where the data are damaged."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b""
