"""The libraries of the extra ``formats``, loaded when a file needs them first."""

from __future__ import annotations

import functools
import importlib
import threading
from typing import Any

from dmt_ray.errors import ImageError

INSTALL = 'pip install "dmt-ray[formats]"'

_lock = threading.Lock()


def load(module: str, what: str) -> Any:
    """Return a library of the extra, ready to be used.

    Parameters:
        module: ``pillow_heif``, ``pillow_jxl``, ``rawpy`` or ``tifffile``.
        what: the kind of the image, with its article, for the message.

    Raises:
        ImageError: kind ``unsupported``: it is not installed, or does not work here.
    """
    with _lock:
        try:
            return _loaded(module)
        except ImportError as error:
            raise ImageError("unsupported", f"The data are {what}, which needs {INSTALL}.") from error


@functools.cache
def _loaded(module: str) -> Any:
    library = importlib.import_module(module)
    if module == "pillow_heif":
        library.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    elif module == "pillow_jxl":  # registers itself with Pillow
        plugin: Any = importlib.import_module("pillow_jxl.JpegXLImagePlugin")
        plugin.DECODE_THREADS = 0
    return library
