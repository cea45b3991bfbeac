"""Bytes to 8-bit RGB: whatever a photo collection holds becomes one kind of array, or an ``ImageError``.

Content decides, never the file's name. Only raster formats that libraries read in this process are admitted, so no
outside interpreter (Ghostscript and the like) ever runs.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from dmt_ray.errors import ImageError
from dmt_ray.storage.decoding import extra_formats, pillow_limits
from dmt_ray.storage.decoding.color_profiles import to_srgb
from dmt_ray.storage.decoding.cut_short import is_cut_short
from dmt_ray.storage.decoding.decoded import DecodedImage, Rgb
from dmt_ray.storage.decoding.depth import to_8_bits
from dmt_ray.storage.decoding.frames import count_frames
from dmt_ray.storage.decoding.jxl_header import jxl_header
from dmt_ray.storage.decoding.png_texts import without_large_texts
from dmt_ray.storage.decoding.raw import decode_raw
from dmt_ray.storage.decoding.refusing import check_pixels, one_line, too_large
from dmt_ray.storage.decoding.signatures import image_format, no_image, other_image
from dmt_ray.storage.decoding.tiff import decode_tiff, pillow_reads
from dmt_ray.storage.decoding.tiff_tags import TiffLayout, tiff_layout
from dmt_ray.words import counted

_FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"]  # MPO is opened as JPEG
if features.check("avif"):
    _FORMATS.append("AVIF")
Image.init()  # registers every plugin now, so that no two threads do it at once

#: Of a truncated image, a smaller share of the pixels than this is nothing.
_LEAST_DECODED = 0.01
_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, max_pixels: int) -> Rgb:
    """Return the pixels alone of what ``decode`` makes of an encoded image; a truncated one is refused.

    Returns:
        H x W x 3 uint8, C-contiguous and writable.

    Raises:
        ImageError: as ``decode``.
    """
    return decode(data, max_pixels=max_pixels).rgb


def decode(data: bytes, *, max_pixels: int, accept_truncated: bool = False) -> DecodedImage:
    """Decode an encoded image to RGB.

    The first frame of an animation, rotated as its EXIF orientation says, with transparency laid over white, 16-bit
    samples and float greys scaled to 8 bits, and colours converted to sRGB where an embedded profile says how.

    Parameters:
        data: the encoded file.
        max_pixels: width x height above which the image is refused before its pixels are decoded.
        accept_truncated: keep what can be decoded of a file whose end is missing.

    Raises:
        ImageError: with kind ``empty``, ``not-an-image``, ``unsupported``, ``truncated``, ``too-large`` or
            ``unreadable``.
    """
    if not data:
        raise ImageError("empty", "The image has no bytes.")
    try:
        with pillow_limits.decoding(max_pixels):
            return _decode_any(data, max_pixels)
    except ImageError as error:
        if not accept_truncated or error.kind != "truncated":
            raise
        return _decode_truncated(data, max_pixels, error)


def _decode_truncated(data: bytes, max_pixels: int, refusal: ImageError) -> DecodedImage:
    """Decode what is there of a truncated image.

    Raises:
        ImageError: the refusal, when next to nothing of it can be decoded: all but a hundredth is filled with one
            colour.
    """
    try:
        with pillow_limits.decoding_truncated(max_pixels):
            found = _decode_any(data, max_pixels)
    except ImageError as error:
        raise refusal from error
    for corner in (found.rgb[0, 0], found.rgb[-1, -1]):  # a file may begin with the lowest row
        if (found.rgb != corner).any(axis=2).mean() < _LEAST_DECODED:
            raise refusal
    return DecodedImage(found.rgb, found.frames, truncated=True)


def _decode_any(data: bytes, max_pixels: int) -> DecodedImage:
    kind = image_format(data)
    try:
        return _decode(data, kind, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise too_large(f"{found[1]} pixels" if found else "more pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data, kind) from error
    except MemoryError as error:
        raise ImageError("unreadable", "The image needs more memory than there is.") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        word = "truncated" if is_cut_short(data, kind, error) else "unreadable"
        # libjxl gives no reason, but advice on building it
        reason = "libjxl cannot decode it" if kind == "JXL" else one_line(error)
        raise ImageError(word, f"The image is {word}: {reason}.") from error


def _decode(data: bytes, kind: str | None, max_pixels: int) -> DecodedImage:
    formats, profile, layout = _FORMATS, None, None
    if kind == "TIFF":
        layout = tiff_layout(data)
        if layout is not None and not layout.is_raw and not pillow_reads(layout):
            return _decode_by_tifffile(data, layout, max_pixels)
    if kind == "RAW" or (layout is not None and layout.is_raw):
        return _finished(decode_raw(data, max_pixels), 1)
    if kind == "PNG":
        data, profile = without_large_texts(data)
    elif kind == "HEIF":
        extra_formats.load("pillow_heif", "a HEIF image (HEIC)")
        formats = ["HEIF"]
    elif kind == "JXL":
        extra_formats.load("pillow_jxl", "a JPEG XL image")
        _check_jxl(data, max_pixels)
        formats = ["JXL"]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_pixels(*image.size, max_pixels)
            frames = count_frames(image, data) if layout is None else layout.pages
            rgb = _upright(image, profile, max_pixels)
    except UnidentifiedImageError:
        if layout is None or not layout.width or not layout.height:
            raise
        return _decode_by_tifffile(data, layout, max_pixels)
    return _finished(np.array(rgb, dtype=np.uint8), frames)


def _check_jxl(data: bytes, max_pixels: int) -> None:
    """Refuse a JPEG XL image that is too large or animated: the plugin decodes all of it before it tells."""
    header = jxl_header(data)
    if header is None:
        raise _unidentified(data, "JXL")
    check_pixels(header.width, header.height, max_pixels)
    if header.is_animated:
        raise ImageError("unsupported", "The data are an animated JPEG XL image; only still ones are read.")


def _decode_by_tifffile(data: bytes, layout: TiffLayout, max_pixels: int) -> DecodedImage:
    rgb = _turned(decode_tiff(data, layout, max_pixels), layout.orientation)
    return _finished(np.array(rgb, dtype=np.uint8), layout.pages)


def _upright(image: ImageFile.ImageFile, profile: bytes | None, max_pixels: int) -> Image.Image:
    """Return an opened image as RGB, turned as its EXIF data say."""
    bits, inverted = _grey_layout(image)
    image.load()
    check_pixels(*image.size, max_pixels)  # some headers are corrected while decoding
    orientation = _orientation(image)
    profile = profile or image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        grey = to_8_bits(np.asarray(image), bits)
        rgb = to_srgb(Image.fromarray(255 - grey if inverted else grey), profile)
    else:
        rgb = to_srgb(image, profile)
    return _turned(rgb, orientation)


def _finished(pixels: Rgb, frames: int | None) -> DecodedImage:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError("unreadable", f"The image decodes to an array of shape {pixels.shape}.")
    return DecodedImage(pixels, frames)


def _turned(rgb: Image.Image, orientation: int) -> Image.Image:
    return rgb.transpose(_TRANSPOSES[orientation]) if orientation in _TRANSPOSES else rgb


def _grey_layout(image: ImageFile.ImageFile) -> tuple[int, bool]:
    """Return the bits per sample that a deep grey image states (16 if it does not) and whether 0 means white."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 16, False
    bits = tags.get(258, (16,))
    first = bits[0] if isinstance(bits, tuple) else bits
    return int(first), tags.get(262) == 0 and image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied, 1 to 8; 1 also where the EXIF data is broken."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):  # libjxl turns all but recompressed JPEG files
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
        return value if isinstance(value, int) else 1
    except Exception:  # broken metadata must not lose a sound picture
        return 1


def _unidentified(data: bytes, kind: str | None) -> ImageError:
    size = counted(len(data), "byte")
    if kind is not None:
        if kind == "AVIF" and "AVIF" not in _FORMATS:
            return ImageError("unsupported", "The data are an AVIF image, and this Pillow is built without AVIF.")
        word = "truncated" if is_cut_short(data, kind) else "unreadable"
        return ImageError(word, f"The {kind} image is {word}: its header ({size} in all) makes no sense.")
    if (name := other_image(data)) is not None:
        return ImageError("unsupported", f"The data are {name}, a kind of image that is not read.")
    if (name := no_image(data)) is not None:
        return ImageError("not-an-image", f"The data ({size}) are {name}.")
    return ImageError("not-an-image", f"The data ({size}) is in no image format that can be read.")
