"""Images of 16 bits per channel at their full depth, where the 8 bits that the method works on would lose some."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.errors import SettingsError
from dmt_ray.storage.attachments import srgb_profile
from dmt_ray.storage.exif import ICC_PROFILE, ORIENTATION, parse_exif
from dmt_ray.storage.metadata import Metadata
from dmt_ray.storage.png_chunks import SIGNATURE, icc_profile, png_chunks

Rgb16 = npt.NDArray[np.uint16]
Array = np.ndarray[Any, Any]

#: Formats that are written with 16 bits per channel, and the packages that they need.
DEEP_FORMATS = {"png16": ("imagecodecs",), "tiff16": ("imagecodecs", "tifffile")}

_WHITE = 65_535
_DEPTH_OF_PNG = 8
_PHOTOMETRIC, _WHITE_IS_ZERO = 0x0106, 0
#: How far two readings of one image may lie apart, as a mean over all values in 8-bit units: rounding, no more.
_AGREEMENT = 1.5


def check_can_encode(image_format: str) -> None:
    """See that what writes a format is installed.

    Raises:
        SettingsError: it is not; says how to get it.
    """
    missing = [name for name in DEEP_FORMATS.get(image_format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"--image-format {image_format} needs {' and '.join(missing)}: pip install 'dmt-ray[{image_format}]'."
        )


def decode_image16(data: bytes, rgb: npt.NDArray[np.uint8], metadata: Metadata) -> Rgb16:
    """Return an image at the depth of its file.

    PNG and TIFF of 16 bits per channel, grey or RGB, with or without transparency, are read anew. All others, and
    those whose deep reading is another picture than ``rgb``, are ``rgb`` itself, 255 widened to 65535.

    Parameters:
        data: the encoded file.
        rgb: H x W x 3, what ``decode_image`` made of it.
        metadata: of the file.

    Returns:
        H x W x 3.
    """
    best, least = rgb.astype(np.uint16) * 257, _AGREEMENT
    for reading in _readings(data):
        turned = _turned(reading, _orientation(metadata))
        if turned.shape != rgb.shape:
            continue
        apart = _distance(turned, rgb)
        if apart < least:
            best, least = np.ascontiguousarray(turned), apart
    return best


def _readings(data: bytes) -> Iterator[Rgb16]:
    """Yield what the file may mean: as it is, and by its profile; nothing where it is not of 16 bits."""
    import imagecodecs

    profile: bytes | None = None
    try:
        if data.startswith(SIGNATURE):
            header = next((bytes(content) for kind, content in png_chunks(data) if kind == b"IHDR"), b"")
            if header[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1] != b"\x10":
                return
            values, profile = imagecodecs.png_decode(data), icc_profile(data)
        elif data[:4] in (b"II*\x00", b"MM\x00*"):
            tags = parse_exif(data, keep=lambda tag: tag == ICC_PROFILE).main
            values = imagecodecs.tiff_decode(data)
            if tags.whole(_PHOTOMETRIC) == _WHITE_IS_ZERO and values.dtype == np.uint16:
                values = _WHITE - values
            profile = tags.raw(ICC_PROFILE)
        else:
            return
    except Exception:  # what this reading cannot do, the other one has done
        return
    if values.dtype != np.uint16:
        return
    if values.ndim == 3 and values.shape[0] in (3, 4) and values.shape[2] not in (3, 4):
        values = np.moveaxis(values, 0, 2)  # stored plane by plane
    colours, alpha = _split(values)
    if profile is not None:
        try:
            space = "rgb" if colours.shape[2] == 3 else "gray"
            plain = np.ascontiguousarray(colours if colours.shape[2] == 3 else colours[..., 0])
            converted = imagecodecs.cms_transform(
                plain, profile, srgb_profile(), colorspace=space, outcolorspace="rgb", outdtype=np.uint16
            )
            yield _over_white(converted, alpha)
        except Exception:  # a broken profile is no profile
            pass
    yield _over_white(colours, alpha)


def _split(values: Array) -> tuple[Array, Array | None]:
    """Return (H, W, 1) or (H, W, 3) colours, and (H, W, 1) alpha where there is one."""
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (2, 4):
        return values[..., :-1], values[..., -1:]
    return values, None


def _over_white(colours: Array, alpha: Array | None) -> Rgb16:
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    if alpha is None:
        return colours
    result: Rgb16 = np.empty_like(colours)
    for row, colour, share in zip(result, colours, alpha, strict=True):  # by rows: no whole photo in float64
        part = share / _WHITE
        row[:] = np.rint(colour * part + _WHITE * (1 - part))
    return result


def _orientation(metadata: Metadata) -> int:
    return (metadata.exif and metadata.exif.main.whole(ORIENTATION)) or 1


def _turned(values: Rgb16, orientation: int) -> Rgb16:
    """Return an image upright, as its EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _distance(deep: Rgb16, rgb: npt.NDArray[np.uint8]) -> float:
    """Return the mean distance of two readings, in 8-bit units."""
    total = sum(float(np.abs(row / 257.0 - line).sum()) for row, line in zip(deep, rgb, strict=True))
    return total / rgb.size
