"""The tags of a TIFF file that say how its pixels lie, read before any library decodes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from dmt_ray.words import agreed

#: Directories, entries of one and of all of them, and values of an entry, that are read; a small file may claim more.
_MOST_PAGES, _MOST_ENTRIES, _MOST_ENTRIES_IN_ALL, _MOST_VALUES = 100_000, 4096, 500_000, 64
#: By type number: format and bytes of the integers that are read.
_TYPES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 6: ("b", 1), 8: ("h", 2), 9: ("i", 4), 13: ("I", 4), 16: ("Q", 8)}
_TYPES |= {17: ("q", 8), 18: ("Q", 8)}

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _PLANAR, _SUB_DIRECTORIES, _EXTRA, _SAMPLE_FORMAT = 274, 277, 284, 330, 338, 339
_READ = frozenset(
    {_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR}
    | {_SUB_DIRECTORIES, _EXTRA, _SAMPLE_FORMAT}
)
#: Photometric interpretations of sensor data: a colour filter array, and linear raw.
_SENSOR = frozenset({32803, 34892})
#: Compressions that only cameras write: Sony, Nikon, Pentax, Samsung, Kodak.
_CAMERAS = frozenset({32767, 32769, 32770, 34713, 65000, 65535})

_Tags = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class TiffLayout:
    """How the first page's pixels lie, and what else there is."""

    tags: _Tags = field(repr=False)
    little_endian: bool
    big_tiff: bool
    pages: int
    """Directories that are no previews or reduced copies of others; at least 1."""
    is_raw: bool
    """It is a camera's raw file, whose first page may be a preview."""

    def _first(self, tag: int, default: int) -> int:
        return self.tags.get(tag, (default,))[0]

    @property
    def width(self) -> int:
        """In pixels, 0 where it is not stated."""
        return self._first(_WIDTH, 0)

    @property
    def height(self) -> int:
        """In pixels, 0 where it is not stated."""
        return self._first(_HEIGHT, 0)

    @property
    def bits(self) -> int:
        """Of a sample; the first one's where they differ."""
        return self._first(_BITS, 1)

    @property
    def samples(self) -> int:
        """Of a pixel."""
        return self._first(_SAMPLES, 1)

    @property
    def compression(self) -> int:
        """The scheme's number; 1 is none."""
        return self._first(_COMPRESSION, 1)

    @property
    def photometric(self) -> int:
        """0 and 1 grey, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, ..."""
        return self._first(_PHOTOMETRIC, 1)

    @property
    def planar(self) -> bool:
        """Each channel is stored as a plane of its own."""
        return self._first(_PLANAR, 1) == 2

    @property
    def sample_format(self) -> int:
        """1 unsigned, 2 signed, 3 float."""
        return self._first(_SAMPLE_FORMAT, 1)

    @property
    def extra_samples(self) -> tuple[int, ...]:
        """What samples beyond the colours are: 1 associated alpha, 2 unassociated alpha, 0 not said."""
        return self.tags.get(_EXTRA, ())

    @property
    def orientation(self) -> int:
        """As in EXIF, 1 to 8."""
        return self._first(_ORIENTATION, 1)

    def describe(self) -> str:
        """Say how the pixels lie, for messages."""
        kind = {2: "signed ", 3: "float "}.get(self.sample_format, "")
        planes = " in planes" if self.planar else ""
        packed = "" if self.compression == 1 else f", compression {self.compression}"
        colors = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
        space = colors.get(self.photometric, f"photometric interpretation {self.photometric}")
        samples = agreed(self.samples, "sample", "samples")
        return f"{space}, {self.samples} x {self.bits}-bit {kind}{samples}{planes}{packed}"


def tiff_layout(data: bytes) -> TiffLayout | None:
    """Return how the pixels of a TIFF or BigTIFF file lie; None where its first directory is damaged."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    try:
        place = struct.unpack_from(f"{order}Q", data, 8)[0] if big else struct.unpack_from(f"{order}I", data, 4)[0]
        first, place = _directory(data, place, order, big)
    except (struct.error, OverflowError, ValueError):
        return None
    directories = [first]
    pages, seen = int(not _is_reduced(first)), {0}
    entries = 0
    while place not in seen and len(seen) < _MOST_PAGES and entries < _MOST_ENTRIES_IN_ALL:
        seen.add(place)
        try:
            entries += _entries(data, place, order, big)
            tags, place = _directory(data, place, order, big)
        except (struct.error, OverflowError, ValueError):
            break
        pages += _WIDTH in tags and not _is_reduced(tags)
        if len(directories) < 8:
            directories.append(tags)
    for place in first.get(_SUB_DIRECTORIES, ()):
        try:
            directories.append(_directory(data, place, order, big)[0])
        except (struct.error, OverflowError, ValueError):
            break
    raw = any(_is_sensor(tags) for tags in directories)
    return TiffLayout(first, order == "<", big, max(pages, 1), raw)


def _directory(data: bytes, place: int, order: str, big: bool) -> tuple[_Tags, int]:
    """Return a directory's tags, and where the next one lies."""
    count = _entries(data, place, order, big)
    start, size, inline = (place + 8, 20, 8) if big else (place + 2, 12, 4)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(start, start + count * size, size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag not in _READ or kind not in _TYPES:
            continue
        number = struct.unpack_from(order + ("Q" if big else "I"), data, entry + 4)[0]
        letter, width = _TYPES[kind]
        where = entry + size - inline
        if number * width > inline:
            where = struct.unpack_from(order + ("Q" if big else "I"), data, where)[0]
        number = min(number, _MOST_VALUES)
        if number:
            tags[tag] = struct.unpack_from(f"{order}{number}{letter}", data, where)
    end = start + count * size
    try:
        following = struct.unpack_from(order + ("Q" if big else "I"), data, end)[0]
    except struct.error:  # the last directory, at the file's very end
        following = 0
    return tags, following


def _entries(data: bytes, place: int, order: str, big: bool) -> int:
    """Return how many entries a directory has."""
    count: int = struct.unpack_from(order + ("Q" if big else "H"), data, place)[0]
    if count > _MOST_ENTRIES or place == 0:
        raise ValueError("no directory")
    return count


def _is_reduced(tags: _Tags) -> bool:
    return bool(tags.get(_SUBFILE, (0,))[0] & 1)


def _is_sensor(tags: _Tags) -> bool:
    photometric, compression = tags.get(_PHOTOMETRIC, (0,))[0], tags.get(_COMPRESSION, (0,))[0]
    return photometric in _SENSOR or compression in _CAMERAS
