"""What a JPEG XL image's header says, which the library that decodes it tells only afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
#: Width over height, by the header's code.
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
#: Bytes of the header that are looked at; the flags that are read end before that.
_HEADER_BYTES = 32


@dataclass(frozen=True)
class JxlHeader:
    """The beginning of ISO/IEC 18181-1's image header."""

    width: int
    """In pixels, before any orientation."""
    height: int
    is_animated: bool


def jxl_header(data: bytes) -> JxlHeader | None:
    """Return what the header says; None where it is damaged or cut short."""
    start = 0 if data.startswith(_CODESTREAM) else _find_codestream(data)
    if start is None or data[start : start + 2] != _CODESTREAM:
        return None
    header = data[start + 2 : start + 2 + _HEADER_BYTES]
    if len(header) < 4:  # no image is that small
        return None
    bits = _Bits(int.from_bytes(header, "little"))
    width, height = _size(bits)
    return JxlHeader(width, height, _is_animated(bits))


def _is_animated(bits: _Bits) -> bool:
    if bits.take(1) or not bits.take(1):  # all is default, or there are no extra fields
        return False
    bits.take(3)  # the orientation
    if bits.take(1):  # the size that it is meant to be shown at
        _size(bits)
    if bits.take(1):
        _preview_size(bits)
    return bool(bits.take(1))


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    return _sides(bits, lambda: 8 * (bits.take(5) + 1) if small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30)))


def _preview_size(bits: _Bits) -> tuple[int, int]:
    if bits.take(1):
        return _sides(bits, lambda: 8 * bits.choose((16, 0), (32, 0), (1, 5), (33, 9)))
    return _sides(bits, lambda: bits.choose((1, 6), (65, 8), (321, 10), (1345, 12)))


def _sides(bits: _Bits, side: Callable[[], int]) -> tuple[int, int]:
    """Return width and height; the height comes first, and the width perhaps by its ratio to it."""
    height = side()
    ratio = bits.take(3)
    if not ratio:
        return side(), height
    over, under = _RATIOS[ratio]
    return height * over // under, height


class _Bits:
    """Bits of a number, from the lowest on."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken

    def choose(self, *choices: tuple[int, int]) -> int:
        """Take the number of one of four choices, each a least value and the bits of what is added to it."""
        least, count = choices[self.take(2)]
        return least + self.take(count)


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
