"""The size of a JPEG XL image, read from its header: the library that decodes it allocates before it tells."""

from __future__ import annotations

_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
#: Width over height, by the header's code.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels, before any orientation; None where the header is damaged or cut short."""
    start = 0 if data.startswith(_CODESTREAM) else _find_codestream(data)
    if start is None or data[start : start + 2] != _CODESTREAM or len(data) < start + 2 + 10:
        return None
    bits = _Bits(int.from_bytes(data[start + 2 : start + 2 + 10], "little"))
    small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if small else _side(bits)
    ratio = bits.take(3)
    if ratio:
        over, under = _RATIOS[ratio]
        return height * over // under, height
    return (8 * (bits.take(5) + 1) if small else _side(bits)), height


def _side(bits: _Bits) -> int:
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


class _Bits:
    """Bits of a number, from the lowest on."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def _find_codestream(data: bytes) -> int | None:
    """Return where the codestream begins in a container: in the box jxlc, or in the first box jxlp."""
    if not data.startswith(_CONTAINER):
        return None
    place = len(_CONTAINER)
    while place + 8 <= len(data):
        size, kind, header = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if kind == b"jxlc":
            return place + header
        if kind == b"jxlp":
            return place + header + 4  # behind the part's number
        if size < header:  # 0: up to the end
            return None
        place += size
    return None
