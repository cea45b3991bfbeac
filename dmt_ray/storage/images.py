"""Encoded images to 8-bit RGB and back: the one door to both. ``decoding/`` has the first half."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from dmt_ray.errors import ImageError
from dmt_ray.storage.attachments import NONE, Attachments, save_options
from dmt_ray.storage.decoding import pillow_limits
from dmt_ray.storage.decoding.decode import decode as decode
from dmt_ray.storage.decoding.decode import decode_image as decode_image
from dmt_ray.storage.decoding.decoded import DecodedImage as DecodedImage
from dmt_ray.storage.decoding.decoded import Rgb as Rgb
from dmt_ray.storage.decoding.refusing import one_line
from dmt_ray.storage.decoding.suffixes import image_suffixes as image_suffixes
from dmt_ray.storage.decoding.suffixes import suffixes_of_missing_formats as suffixes_of_missing_formats
from dmt_ray.storage.deep_images import DEEP_FORMATS
from dmt_ray.storage.png16 import encode_png16
from dmt_ray.storage.tiff16 import encode_tiff16

#: Bytes of pixels that a TIFF holds for certain: its offsets have 32 bits.
_MOST_OF_TIFF = 2**32 - 2**25
_SIDE_LIMITS = {"jpeg": 65_535, "webp": 16_383}


def encode_image(
    rgb: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], image_format: str, quality: int, attached: Attachments = NONE
) -> bytes:
    """Encode an RGB image, with an sRGB profile. The same arguments always give the same bytes.

    Parameters:
        rgb: H x W x 3 uint8; for ``png16`` and ``tiff16`` also uint16.
        image_format: ``png``, ``jpeg`` (colour at full resolution), ``webp``, or, with 16 bits per channel,
            ``png16`` and ``tiff16``.
        quality: 1 to 100 for jpeg and webp; all others are lossless and ignore it.
        attached: what else goes into the file.

    Raises:
        ImageError: kind ``too-large`` when the image is larger than the format allows.
        ValueError: wrong shape, dtype or format.
    """
    if rgb.ndim == 3 and rgb.shape[2] == 3 and image_format in DEEP_FORMATS and rgb.dtype in (np.uint8, np.uint16):
        if image_format == "tiff16" and rgb.size > _MOST_OF_TIFF // 2:
            raise ImageError(
                "too-large", f"{rgb.shape[0] * rgb.shape[1]} pixels do not fit in a TIFF; use --image-format png16."
            )
        wide = rgb.astype(np.uint16, copy=False)
        deep = wide if rgb.dtype == np.uint16 else wide * 257  # 255 becomes 65535
        return (encode_png16 if image_format == "png16" else encode_tiff16)(deep, attached)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected H x W x 3 uint8, got {rgb.shape} {rgb.dtype}")
    side = max(rgb.shape[:2])
    limit = _SIDE_LIMITS.get(image_format)
    if limit is not None and side > limit:
        raise ImageError(
            "too-large",
            f"A side of {side} pixels does not fit in {image_format} (at most {limit}); use --image-format png.",
        )
    options: dict[str, Any] = {
        "png": {"compress_level": 3},  # of photos as small as by 4 with zlib-ng, in a fifth less time
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality},
    }.get(image_format, {})
    if not options:
        raise ValueError(f"unknown image format {image_format!r}")
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.save(buffer, image_format.upper(), **options, **save_options(attached, image_format))
    return buffer.getvalue()


def encode_animation(
    frames: Sequence[Rgb], image_format: str, seconds: float = 2.0, attached: Attachments = NONE
) -> bytes:
    """Encode pictures as an endless animation that rests on its last.

    Parameters:
        frames: H x W x 3 uint8, at least one.
        image_format: ``webp`` or ``gif``.
        seconds: from the first picture to the last, which then stays for one second.
        attached: what else goes into the file; a GIF takes the comment alone.
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
        **save_options(attached, image_format),
    )
    return buffer.getvalue()


def decode_animation(data: bytes) -> Iterator[Rgb]:
    """Yield the pictures of an animation that ``encode_animation`` made, H x W x 3 uint8, one at a time.

    Raises:
        ImageError: with kind ``unreadable``.
    """
    try:
        with pillow_limits.decoding(2**62), Image.open(io.BytesIO(data), formats=["WEBP", "GIF"]) as animation:
            for frame in ImageSequence.Iterator(animation):
                yield np.array(frame.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise ImageError("unreadable", f"The animation is unreadable: {one_line(error)}.") from error
