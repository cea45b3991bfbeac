"""Bytes to 8-bit RGB and back: whatever a photo collection holds becomes one kind of array, or an ``ImageError``.

Content decides, never the file's name. Only raster formats that Pillow reads in its own process are admitted, so no
outside interpreter (Ghostscript and the like) ever runs.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError, features

from dmt_ray.errors import ImageError

Rgb = npt.NDArray[np.uint8]

#: File name suffixes (lower case) that a listing takes for images.
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "webp", "avif"),
        *("tif", "tiff", "bmp", "dib", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx"),
    )
)


def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes (lower case) of images that can be read here."""
    return IMAGE_SUFFIXES


def suffixes_of_missing_formats() -> frozenset[str]:
    """Return the suffixes of images that could be read if the extra ``formats`` were installed."""
    return _EXTRA_SUFFIXES


_EXTRA_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("heic", "heif", "hif", "jxl", "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "iiq", "kdc", "mef"),
        *("mos", "mrw", "nef", "nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    )
)
_FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"]  # MPO is opened as JPEG
if features.check("avif"):
    _FORMATS.append("AVIF")
Image.init()  # registers every plugin now, so that no two threads do it at once

_SIDE_LIMITS = {"jpeg": 65_535, "webp": 16_383}
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
    """Decode an encoded image to RGB.

    The first frame of an animation, rotated as its EXIF orientation says, with transparency laid over white, 16-bit
    and float greys scaled to 8 bits, and colours converted to sRGB where an embedded profile says how.

    Parameters:
        data: the encoded file.
        max_pixels: width x height above which the image is refused before its pixels are decoded.

    Returns:
        H x W x 3 uint8, C-contiguous and writable.

    Raises:
        ImageError: with kind ``empty``, ``not-an-image``, ``truncated``, ``too-large`` or ``unreadable``.
    """
    if not data:
        raise ImageError("empty", "The image has no bytes.")
    try:
        with _pixel_limit(max_pixels):
            return _decode(data, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(f"{found[1]} pixels" if found else "more pixels", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except MemoryError as error:
        raise ImageError("unreadable", "The image needs more memory than there is.") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        kind = "truncated" if _is_cut_short(data, error) else "unreadable"
        raise ImageError(kind, f"The image is {kind}: {_one_line(error)}.") from error


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


def _decode(data: bytes, max_pixels: int) -> Rgb:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(image, max_pixels)
        bits, inverted = _grey_layout(image)
        image.load()
        _check_size(image, max_pixels)  # some headers are corrected while decoding
        orientation = _orientation(image)
        if image.mode.startswith("I") or image.mode == "F":
            grey = _scale_grey(np.asarray(image), bits)
            rgb = Image.fromarray(255 - grey if inverted else grey).convert("RGB")
        else:
            rgb = _to_srgb(image)
        if orientation in _TRANSPOSES:
            rgb = rgb.transpose(_TRANSPOSES[orientation])
    pixels = np.array(rgb, dtype=np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError("unreadable", f"The image decodes to an array of shape {pixels.shape}.")
    return pixels


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return an 8-bit-per-channel image as RGB in sRGB, with transparency laid over white."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa", "RGBX") or image.has_transparency_data:
        if image.mode != "RGBX":
            if image.mode == "La":
                image = image.convert("LA")
            rgba = image.convert("RGBA")
            alpha = rgba.getchannel("A")
            # A grey profile applies to one channel, so keep one.
            image = rgba.getchannel("R") if image.mode in ("L", "LA", "1") else rgba.convert("RGB")
        else:
            image = image.convert("RGB")
    elif image.mode in ("P", "YCbCr", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        rgb = converted
    else:
        rgb = _apply_profile(image, profile) or image.convert("RGB")
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white


def _apply_profile(image: Image.Image, profile: object) -> Image.Image | None:
    """Return the image converted to sRGB by its embedded profile, or None where there is nothing (sound) to apply."""
    if not isinstance(profile, bytes) or not profile:
        return None
    space = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}.get(image.mode)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != space or "srgb" in (source.profile.profile_description or "").lower():
            return None
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None


def _grey_layout(image: ImageFile.ImageFile) -> tuple[int, bool]:
    """Return the bits per sample that a deep grey image states (16 if it does not) and whether 0 means white."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 16, False
    bits = tags.get(258, (16,))
    first = bits[0] if isinstance(bits, tuple) else bits
    return int(first), tags.get(262) == 0 and image.mode.startswith("I;16")


def _scale_grey(values: npt.NDArray[np.generic], bits: int) -> Rgb:
    """Scale H x W grey values of more than 8 bits, or floats, to 0..255 without clipping what is in range.

    Integers of at most 16 bits are divided by 257 (less for 9 to 15 bits); wider ones by their largest value. Floats
    count as 0..1, 0..255, 0..65535 or 0..largest, whichever is the first to hold them.
    """
    if values.size == 0:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(invalid="ignore"):
        finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 0.0
    steps = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (2.0 ** min(max(bits, 9), 16) - 1, 65535.0)
    full = next((step for step in steps if largest <= step), largest)
    scaled = np.empty(values.shape, np.uint8)
    for row, line in zip(scaled, values, strict=True):  # by rows: a huge scan must not be held in float64 as well
        grey = np.nan_to_num(line.astype(np.float64), nan=0.0, posinf=full, neginf=0.0)
        row[:] = np.rint(np.clip(grey / full, 0.0, 1.0) * 255.0)
    return scaled


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when there is none or the EXIF data is broken."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
        return value if isinstance(value, int) else 1
    except Exception:  # broken metadata must not lose a sound picture
        return 1


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height} = {width * height} pixels", max_pixels)


def _too_large(size: str, max_pixels: int) -> ImageError:
    return ImageError("too-large", f"The image has {size}; the limit is {max_pixels} (raise it with --max-pixels).")


def _unidentified(data: bytes) -> ImageError:
    name = _signature(data)
    if name is None:
        return ImageError("not-an-image", f"The data ({len(data)} bytes) is in no image format that can be read.")
    kind = "truncated" if _is_cut_short(data, None) else "unreadable"
    return ImageError(kind, f"The {name} image is {kind}: its header ({len(data)} bytes in all) makes no sense.")


def _signature(data: bytes) -> str | None:
    """Return the format that the first bytes announce."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    starts = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"GIF87a": "GIF",
        b"GIF89a": "GIF",
        b"II*\x00": "TIFF",
        b"MM\x00*": "TIFF",
        b"\x00\x00\x00\x0cjP  ": "JPEG2000",
        b"\xff\x4f\xff\x51": "JPEG2000",
    }
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return next((name for start, name in starts.items() if data.startswith(start)), None)


def _is_cut_short(data: bytes, error: Exception | None) -> bool:
    """Tell whether an unreadable file looks as if its end is missing; only chooses the word for the error."""
    if isinstance(error, EOFError) or (error is not None and "truncated" in str(error).lower()):
        return True
    name = _signature(data)
    if name == "PNG":
        return b"IEND" not in data[-64:]
    if name == "JPEG":
        return b"\xff\xd9" not in data[-64:]
    if name == "GIF":
        return b"\x3b" not in data[-8:]
    if name == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] if text else type(error).__name__


_limit_lock = threading.Lock()
_active_limits: list[int] = []
_outer_limit: int | None = None


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Lift Pillow's own process-wide pixel limit to ours while any thread decodes, and put it back after the last.

    Some of Pillow's plugins check that limit before they allocate, so it must be ours rather than none.
    """
    global _outer_limit
    with _limit_lock:
        if not _active_limits:
            _outer_limit = Image.MAX_IMAGE_PIXELS
        _active_limits.append(max_pixels)
        if _outer_limit is not None:
            Image.MAX_IMAGE_PIXELS = max(_outer_limit, *_active_limits)
    try:
        yield
    finally:
        with _limit_lock:
            _active_limits.remove(max_pixels)
            if not _active_limits:
                Image.MAX_IMAGE_PIXELS = _outer_limit
            elif _outer_limit is not None:
                Image.MAX_IMAGE_PIXELS = max(_outer_limit, *_active_limits)
