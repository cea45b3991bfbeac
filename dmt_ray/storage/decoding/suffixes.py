"""File name suffixes of images: those that Pillow reads, and those of the extra ``formats`` where it is installed."""

from __future__ import annotations

import functools
from importlib.util import find_spec

_PILLOW = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "webp", "avif"),
    *("tif", "tiff", "bmp", "dib", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx"),
)
#: By the module that reads them, one of the extra ``formats``.
_EXTRA = {
    "pillow_heif": ("heic", "heif", "hif", "heics", "heifs"),
    "pillow_jxl": ("jxl",),
    "rawpy": (
        *("3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw", "nef"),
        *("nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    ),
}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes, lower case and with their dot, that a listing takes for images."""
    readable = [names for module, names in _EXTRA.items() if is_installed(module)]
    return _dotted(*_PILLOW, *(name for names in readable for name in names))


@functools.cache
def suffixes_of_missing_formats() -> frozenset[str]:
    """Return the suffixes of images that could be read if the extra ``formats`` were installed; else as above."""
    return _dotted(*(name for names in _EXTRA.values() for name in names)) - image_suffixes()


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    return find_spec(module) is not None


def _dotted(*names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names)
