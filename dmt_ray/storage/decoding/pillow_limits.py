"""Pillow's process-wide switches, held right for each decoding while several threads decode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

_changed = threading.Condition()
_active: list[int] = []
_exclusive = False
_waiting = 0
_outer_limit: int | None = None


@contextmanager
def decoding(max_pixels: int) -> Iterator[None]:
    """Lift Pillow's own pixel limit to ours while any thread decodes, and put it back after the last.

    Some of Pillow's plugins check that limit before they allocate, so it must be ours rather than none.
    """
    with _changed:
        _changed.wait_for(lambda: not _exclusive and not _waiting)
        _begin(max_pixels)
    try:
        yield
    finally:
        _end(max_pixels)


@contextmanager
def decoding_truncated(max_pixels: int) -> Iterator[None]:
    """Let Pillow keep what it can of a truncated image.

    The switch is one for the whole process, so this waits until no other thread decodes and keeps them out meanwhile.
    """
    global _exclusive, _waiting
    with _changed:
        _waiting += 1
        try:
            _changed.wait_for(lambda: not _exclusive and not _active)
        finally:
            _waiting -= 1
        _exclusive = True
        _begin(max_pixels)
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
        with _changed:
            _exclusive = False
        _end(max_pixels)


def _begin(max_pixels: int) -> None:
    global _outer_limit
    if not _active:
        _outer_limit = Image.MAX_IMAGE_PIXELS
    _active.append(max_pixels)
    _set_limit()


def _end(max_pixels: int) -> None:
    with _changed:
        _active.remove(max_pixels)
        _set_limit()
        _changed.notify_all()


def _set_limit() -> None:
    if not _active:
        Image.MAX_IMAGE_PIXELS = _outer_limit
    elif _outer_limit is not None:
        Image.MAX_IMAGE_PIXELS = max(_outer_limit, *_active)
