"""PNG with 16 bits per channel, which Pillow cannot write: pixels through libpng, all other chunks through Pillow."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmt_ray.storage.attachments import Attachments, save_options
from dmt_ray.storage.png_chunks import ancillary_chunks, with_chunks

#: Speed before size: photos of 16 bits are mostly noise in their lower half.
_LEVEL, _RUN_LENGTHS, _SUB = 1, 3, 16


def encode_png16(rgb: npt.NDArray[np.uint16], attached: Attachments) -> bytes:
    """Encode H x W x 3 as a PNG of 16 bits per channel."""
    import imagecodecs

    pixels = bytes(
        imagecodecs.png_encode(np.ascontiguousarray(rgb), level=_LEVEL, strategy=_RUN_LENGTHS, filter=_SUB)
    )
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **save_options(attached, "png"))
    return with_chunks(pixels, ancillary_chunks(small.getvalue()))
