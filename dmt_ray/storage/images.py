"""Encoded images to 8-bit RGB and back: the one door to both. ``decoding/`` has the first half."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dmt_ray.errors import ImageError
from dmt_ray.storage.decoding.decode import decode as decode
from dmt_ray.storage.decoding.decode import decode_image as decode_image
from dmt_ray.storage.decoding.decoded import DecodedImage as DecodedImage
from dmt_ray.storage.decoding.decoded import Rgb as Rgb
from dmt_ray.storage.decoding.suffixes import image_suffixes as image_suffixes
from dmt_ray.storage.decoding.suffixes import suffixes_of_missing_formats as suffixes_of_missing_formats

_SIDE_LIMITS = {"jpeg": 65_535, "webp": 16_383}


def encode_image(rgb: Rgb, image_format: str, quality: int) -> bytes:
    """Encode an RGB image.

    Parameters:
        rgb: H x W x 3 uint8.
        image_format: ``png``, ``jpeg`` (colour at full resolution) or ``webp``.
        quality: 1 to 100 for jpeg and webp; png is lossless and ignores it.

    Raises:
        ImageError: kind ``too-large`` when a side is longer than the format allows.
        ValueError: wrong shape, dtype or format.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected H x W x 3 uint8, got {rgb.shape} {rgb.dtype}")
    side = max(rgb.shape[:2])
    limit = _SIDE_LIMITS.get(image_format)
    if limit is not None and side > limit:
        raise ImageError(
            "too-large",
            f"A side of {side} pixels does not fit in {image_format} (at most {limit}); use --image-format png.",
        )
    image = Image.fromarray(np.ascontiguousarray(rgb))
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=4)
    elif image_format == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    elif image_format == "webp":
        image.save(buffer, "WEBP", quality=quality)
    else:
        raise ValueError(f"unknown image format {image_format!r}")
    return buffer.getvalue()


def encode_animation(frames: Sequence[Rgb], image_format: str, seconds: float = 2.0) -> bytes:
    """Encode pictures as an endless animation that rests on its last.

    Parameters:
        frames: H x W x 3 uint8, at least one.
        image_format: ``webp`` or ``gif``.
        seconds: from the first picture to the last, which then stays for one second.
    """
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    durations = [round(1000 * seconds / max(1, len(images) - 1))] * (len(images) - 1) + [1000]
    buffer = io.BytesIO()
    options = {"lossless": False, "quality": 90, "method": 4} if image_format == "webp" else {"disposal": 1}
    images[0].save(
        buffer,
        image_format.upper(),
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        **options,
    )
    return buffer.getvalue()
