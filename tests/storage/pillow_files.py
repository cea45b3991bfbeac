"""Image files as Pillow writes them, and what decoding makes of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dmt_ray.storage.images import decode_image

#: Pixels that an image may have, where a test says nothing else.
LIMIT = 1_000_000


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    """Return a picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded(data: bytes, max_pixels: int = LIMIT) -> np.ndarray:
    """Decode a file; check what holds of every result, (H, W, 3) uint8."""
    rgb = decode_image(data, max_pixels=max_pixels)
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.flags["C_CONTIGUOUS"]
    assert rgb.flags["WRITEABLE"]
    return rgb
