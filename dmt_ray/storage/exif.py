"""EXIF blocks, copied value by value: what describes the photo stays, what describes the old file goes.

Pillow's own writer is no help here: it guesses types, and turns text that is not ASCII into question marks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

PREFIX = b"Exif\x00\x00"

ORIENTATION = 0x0112
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
XMP, IPTC, ICC_PROFILE = 0x02BC, 0x83BB, 0x8773
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_COLOR_SPACE, _WIDTH, _HEIGHT = 0xA001, 0xA002, 0xA003
_SRGB = 1

#: Bytes of one value that is kept: longer ones are previews and editing states, not descriptions.
_MOST_BYTES = 16_384
#: Bytes of each type, by its number in TIFF 6.0 and Exif 3.0.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_SHORT, _LONG, _RATIONAL = 3, 4, 5

#: What is kept of the main directory. The rest of it says how the pixels of the old file were stored.
_KEPT = frozenset(
    (
        *(0x000B, 0x010D, 0x010E, 0x010F, 0x0110),  # software, document name, description, make, model
        *(ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT),
        *(0x0131, 0x0132, 0x013B, 0x013C),  # software, date and time, artist, host computer
        *(0x4746, 0x4749),  # rating, rating in per cent
        *(0x8298, 0x9286),  # copyright, user comment
        *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # Windows: title, comment, author, keywords, subject
        *(0xC614, 0xC62F),  # unique camera model, camera serial number
    )
)
_DESCRIPTION = 0x010E
#: Descriptions that programs write for themselves, of how the old file's pixels lie: wrong in a result.
_LAYOUT = re.compile(rb'\s*(\{"shape":|ImageJ=|(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<OME\b)', re.DOTALL)
#: What is left out of the photo's directory.
_LEFT_OUT = frozenset(
    (
        0x9101,  # order of the old file's components
        0x9102,  # bits per pixel of the old file
        0x927C,  # the maker's note: its offsets count from the old file's start, and it may hold a preview
        0xA005,  # interoperability: the old file's colour space
        0xA500,  # gamma of the old file
        0xA40B,  # device settings, opaque
    )
)


#: Type, count and raw bytes of each value of a directory, by tag.
Values = Mapping[int, tuple[int, int, bytes]]


class ExifError(ValueError):
    """A block is no EXIF, or cut short; the message says how."""


@dataclass
class Directory:
    """One directory: type, count and raw bytes of each value, by tag."""

    order: str
    """Of bytes: ``<`` or ``>``, as ``struct`` has it."""
    values: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    dropped: int = 0
    """Values that were damaged."""

    def raw(self, tag: int) -> bytes | None:
        """Return a value's bytes; None where there is none."""
        return self.values[tag][2] if tag in self.values else None

    def whole(self, tag: int) -> int | None:
        """Return a whole number, the first of several; None where there is none."""
        type_, _, raw = self.values.get(tag, (0, 0, b""))
        if type_ not in (_SHORT, _LONG):
            return None
        (number,) = struct.unpack_from(self.order + ("H" if type_ == _SHORT else "I"), raw)
        return int(number)

    def ratio(self, tag: int) -> float | None:
        """Return a fraction; None where there is none, or it divides by zero."""
        type_, _, raw = self.values.get(tag, (0, 0, b""))
        if type_ != _RATIONAL:
            return None
        above, below = struct.unpack_from(self.order + "II", raw)
        return float(above / below) if below else None


@dataclass
class Exif:
    """A block's directories."""

    main: Directory
    photo: Directory
    gps: Directory

    @property
    def dropped(self) -> int:
        """How many values were damaged."""
        return self.main.dropped + self.photo.dropped + self.gps.dropped

    def dpi(self) -> tuple[float, float] | None:
        """Return the resolution in pixels per inch, across and down; None where there is none that makes sense."""
        scale = {2: 1.0, 3: 2.54, None: 1.0}.get(self.main.whole(RESOLUTION_UNIT))
        across, down = self.main.ratio(X_RESOLUTION), self.main.ratio(Y_RESOLUTION)
        if scale is None or across is None or down is None:
            return None
        return across * scale, down * scale


def parse_exif(block: bytes | memoryview, keep: Callable[[int], bool] | None = None) -> Exif:
    """Read an EXIF block, or the first directory of a TIFF file with those that hang on it.

    The directory of the thumbnail, which shows the old picture, is never read. Damaged and overlong values are left
    out; the former are counted.

    Parameters:
        block: with or without ``PREFIX``.
        keep: which tags of the main directory are read whatever their length, such as a TIFF file's XMP.

    Raises:
        ExifError: it is no such block.
    """
    view = memoryview(block)
    if bytes(view[:6]) == PREFIX:
        view = view[6:]
    orders = {b"II*\x00": "<", b"MM\x00*": ">"}
    order = orders.get(bytes(view[:4]))
    if order is None or len(view) < 8:
        raise ExifError("it does not begin as EXIF does")
    main = _read(view, order, struct.unpack_from(order + "I", view, 4)[0], keep)
    exif = Exif(main, Directory(order), Directory(order))
    for tag, name in ((_EXIF_IFD, "photo"), (_GPS_IFD, "gps")):
        offset = main.whole(tag)
        if offset is not None:
            try:
                setattr(exif, name, _read(view, order, offset, None))
            except ExifError:
                main.dropped += 1
    return exif


def _read(view: memoryview, order: str, offset: int, keep: Callable[[int], bool] | None) -> Directory:
    if offset < 8 or offset + 2 > len(view):
        raise ExifError("its directory lies outside of it")
    (count,) = struct.unpack_from(order + "H", view, offset)
    found = Directory(order)
    for place in range(offset + 2, offset + 2 + 12 * count, 12):
        if place + 12 > len(view):
            found.dropped += 1
            break
        tag, type_, number = struct.unpack_from(order + "HHI", view, place)
        size = _TYPE_SIZES.get(type_, 0) * number
        if size > _MOST_BYTES and not (keep is not None and keep(tag)):
            continue
        start = place + 8 if size <= 4 else struct.unpack_from(order + "I", view, place + 8)[0]
        if size == 0 or start + size > len(view):
            found.dropped += type_ not in _TYPE_SIZES or number != 0
            continue
        found.values[tag] = type_, number, bytes(view[start : start + size])
    return found


def rebuild_exif(exif: Exif | None, width: int, height: int, dpi: tuple[float, float] | None = None) -> bytes | None:
    """Return a block for a result: its orientation is 1, its dimensions are right, there is no thumbnail.

    Parameters:
        exif: of the input; None makes a block of the resolution alone.
        width, height: of the result, in pixels.
        dpi: pixels per inch, across and down, to note where the input's EXIF does not say; None notes none.

    Returns:
        The block with ``PREFIX``; None where there is nothing to say.
    """
    exif = Exif(Directory("<"), Directory("<"), Directory("<")) if exif is None else exif
    order = exif.main.order
    main = {tag: value for tag, value in exif.main.values.items() if tag in _KEPT}
    photo = {tag: value for tag, value in exif.photo.values.items() if tag not in _LEFT_OUT}
    if _LAYOUT.match(main.get(_DESCRIPTION, (0, 0, b""))[2]):
        del main[_DESCRIPTION]
    if ORIENTATION in main:
        main[ORIENTATION] = _SHORT, 1, struct.pack(order + "H", 1)
    if dpi is not None and X_RESOLUTION not in main:
        for tag, value in zip((X_RESOLUTION, Y_RESOLUTION), dpi, strict=True):
            ratio = Fraction(value).limit_denominator(1000)
            main[tag] = _RATIONAL, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator)
        main[RESOLUTION_UNIT] = _SHORT, 1, struct.pack(order + "H", 2)
    if photo:
        photo[_WIDTH] = _LONG, 1, struct.pack(order + "I", width)
        photo[_HEIGHT] = _LONG, 1, struct.pack(order + "I", height)
        photo[_COLOR_SPACE] = _SHORT, 1, struct.pack(order + "H", _SRGB)
    if not main and not photo and not exif.gps.values:
        return None
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return PREFIX + head + written_directories(main, photo, exif.gps.values, order, 8)


def written_directories(main: Values, photo: Values, gps: Values, order: str, offset: int) -> bytes:
    """Return the main directory, which will lie at ``offset``, and those that hang on it behind it.

    Parameters:
        main: type, count and raw bytes of each value, by tag.
        photo, gps: the same; left out where empty.
        order: of bytes: ``<`` or ``>``.
        offset: in the file or block; even.
    """
    pointers = {tag: values for tag, values in ((_EXIF_IFD, photo), (_GPS_IFD, gps)) if values}
    main = dict(main) | {tag: (_LONG, 1, bytes(4)) for tag in pointers}
    end = offset + _length(main)
    body = b""
    for tag, values in pointers.items():
        main[tag] = _LONG, 1, struct.pack(order + "I", end + len(body))
        body += _written(values, order, end + len(body))
    return _written(main, order, offset) + body


def _length(values: Values) -> int:
    """Return the bytes that ``_written`` takes."""
    return 6 + sum(12 + (len(raw) + len(raw) % 2 if len(raw) > 4 else 0) for _, _, raw in values.values())


def _written(values: Values, order: str, offset: int) -> bytes:
    """Return a directory that will lie at ``offset``, with its values behind it and none to follow."""
    entries, data = struct.pack(order + "H", len(values)), b""
    start = offset + 6 + 12 * len(values)
    for tag, (type_, count, raw) in sorted(values.items()):
        entries += struct.pack(order + "HHI", tag, type_, count)
        if len(raw) <= 4:
            entries += raw.ljust(4, b"\x00")
        else:
            entries += struct.pack(order + "I", start + len(data))
            data += raw + bytes(len(raw) % 2)
    return entries + bytes(4) + data
