"""Whether an unreadable file looks as if its end is missing; this only chooses the word for its error."""

from __future__ import annotations

from typing import Literal


def is_cut_short(data: bytes, kind: str | None, error: Exception | None = None) -> bool:
    """Tell whether a file seems to be truncated rather than damaged.

    Parameters:
        data: the file.
        kind: its format, see ``image_format``.
        error: what its decoder raised.
    """
    words = "" if error is None else str(error).lower()
    if isinstance(error, EOFError) or any(text in words for text in ("truncated", "end of file", "failed to read")):
        return True
    if kind == "PNG":
        return b"IEND" not in data[-64:]
    if kind == "JPEG":
        return b"\xff\xd9" not in data[-64:]
    if kind == "GIF":
        return b"\x3b" not in data[-8:]
    if kind == "TIFF":
        order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        big = b"+" in data[2:4]
        return int.from_bytes(data[8:16] if big else data[4:8], order) >= len(data)  # the first directory is missing
    if kind == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return kind in ("HEIF", "AVIF", "JXL") and not data.startswith(b"\xff\x0a") and _lacks_boxes(data)


def _lacks_boxes(data: bytes) -> bool:
    """Tell whether the last box of an ISO base media file ends behind the file's end."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        elif size == 0:  # up to the end
            return False
        if size < 8:
            return False
        place += size
    return place != len(data)
