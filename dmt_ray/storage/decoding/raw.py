"""Camera raw files to RGB, through LibRaw."""

from __future__ import annotations

import io

import numpy as np

from dmt_ray.errors import ImageError
from dmt_ray.storage.decoding.decoded import Rgb
from dmt_ray.storage.decoding.extra_formats import load
from dmt_ray.storage.decoding.refusing import check_pixels, one_line


def decode_raw(data: bytes, max_pixels: int) -> Rgb:
    """Develop a raw file as LibRaw does by default: the camera's white balance, sRGB, 8 bits, turned upright.

    LibRaw also brightens each picture until one pixel in a hundred is white.

    Returns:
        H x W x 3.

    Raises:
        ImageError: kind ``too-large``, ``truncated``, ``unreadable``, or ``unsupported``: LibRaw does not know the
            camera, or is not installed.
    """
    rawpy = load("rawpy", "a camera raw file")
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            sizes = raw.sizes
            check_pixels(sizes.width, sizes.height, max_pixels)
            check_pixels(sizes.raw_width, sizes.raw_height, max_pixels + max_pixels // 4)  # with its dark margins
            raw.unpack()
            rgb = raw.postprocess(use_camera_wb=True, output_color=rawpy.ColorSpace.sRGB, output_bps=8)
    except rawpy.LibRawFileUnsupportedError as error:
        raise ImageError("unsupported", "The data are a camera raw file that LibRaw does not know.") from error
    except rawpy.LibRawError as error:
        kind = "truncated" if isinstance(error, rawpy.LibRawIOError) else "unreadable"
        raise ImageError(kind, f"The camera raw file is {kind}: LibRaw says {_reason(error)}.") from error
    if rgb.ndim == 3 and rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError("unsupported", f"The camera raw file has {rgb.shape[-1]} colours; 1 or 3 are read.")
    return np.ascontiguousarray(rgb)


def _reason(error: Exception) -> str:
    """Return LibRaw's words, which come as bytes."""
    first = error.args[0] if error.args else b""
    return first.decode("ascii", "replace") if isinstance(first, bytes) else one_line(error)
