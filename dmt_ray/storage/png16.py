"""PNG with 16 bits per channel, which Pillow cannot write: pixels through libpng, all other chunks through Pillow."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmt_ray.errors import SettingsError
from dmt_ray.storage.attachments import Attachments, save_options
from dmt_ray.storage.png_chunks import ancillary_chunks, with_chunks

#: Speed before size: photos of 16 bits are mostly noise in their lower half.
_LEVEL, _RUN_LENGTHS, _SUB = 1, 3, 16


def check_can_encode(image_format: str) -> None:
    """See that what writes a format is installed.

    Raises:
        SettingsError: it is not; says how to get it.
    """
    if image_format == "png16" and importlib.util.find_spec("imagecodecs") is None:
        raise SettingsError("--image-format png16 needs the package imagecodecs: pip install 'dmt-ray[png16]'.")


def encode_png16(rgb: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], attached: Attachments) -> bytes:
    """Encode H x W x 3 as a PNG of 16 bits per channel; uint8 is widened first, 255 to 65535."""
    import imagecodecs

    deep = rgb if rgb.dtype == np.uint16 else rgb.astype(np.uint16) * 257
    pixels = bytes(
        imagecodecs.png_encode(np.ascontiguousarray(deep), level=_LEVEL, strategy=_RUN_LENGTHS, filter=_SUB)
    )
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **save_options(attached, "png"))
    return with_chunks(pixels, ancillary_chunks(small.getvalue()))
