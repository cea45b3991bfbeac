"""TIFF files that Pillow reads wrongly or not at all, through tifffile."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmt_ray.errors import ImageError
from dmt_ray.storage.decoding.color_profiles import over_white, to_srgb
from dmt_ray.storage.decoding.cut_short import is_cut_short
from dmt_ray.storage.decoding.depth import to_8_bits
from dmt_ray.storage.decoding.extra_formats import INSTALL, load
from dmt_ray.storage.decoding.refusing import check_pixels, one_line
from dmt_ray.storage.decoding.tiff_tags import TiffLayout
from dmt_ray.words import counted

#: Compressions that Pillow's libtiff has: none, CCITT, LZW, JPEG, Deflate, PackBits, LZMA, Zstandard.
_PILLOW_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000})
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR = 0, 1, 2, 5, 6
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4, _YCBCR: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
#: What tifffile says of compressions that it does not know, or lacks the codec of.
_NO_CODEC = ("not supported", "not a known", "requires the 'imagecodecs'", "not available", "unsupported")
#: Samples of a pixel that are decoded; a file may claim more.
_MOST_SAMPLES = 16
#: Strips or tiles that are decoded, one by one.
_MOST_SEGMENTS = 1_000_000


def pillow_reads(layout: TiffLayout) -> bool:
    """Tell whether Pillow decodes such a file rightly, as far as it decodes it.

    Those that it decodes to something else were found by comparing it with what tifffile wrote.
    """
    if layout.compression not in _PILLOW_COMPRESSIONS or (layout.big_tiff and not layout.little_endian):
        return False
    if layout.sample_format == _FLOAT:
        return layout.samples == 1 and layout.bits == 32 and (layout.little_endian or layout.compression == 1)
    if layout.sample_format == _SIGNED or layout.bits > 16:
        return False
    return not (layout.planar and layout.bits > 8)


def decode_tiff(data: bytes, layout: TiffLayout, max_pixels: int) -> Image.Image:
    """Decode the first page of a TIFF file that Pillow does not read.

    Returns:
        RGB, not turned by its orientation yet.

    Raises:
        ImageError: kind ``unsupported``: it may be sound, and is not read; ``too-large``; ``truncated``;
            ``unreadable``.
    """
    check_pixels(layout.width, layout.height, max_pixels)
    _check_kind(layout)
    tifffile = load("tifffile", f"a TIFF image ({layout.describe()})")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            check_pixels(page.imagewidth * page.imagedepth, page.imagelength, max_pixels)
            if len(page.dataoffsets) > _MOST_SEGMENTS:
                raise ImageError("unsupported", f"The TIFF image has more than {_MOST_SEGMENTS} strips or tiles.")
            samples = _channels_last(page.asarray(maxworkers=1), page)
            profile = page.tags.valueof(34675)
    except ImageError:
        raise
    except Exception as error:  # tifffile and its codecs raise nearly every type on damaged files
        if _lacks_codec(error):
            raise _unsupported(layout) from error
        kind = "truncated" if is_cut_short(data, "TIFF", error) else "unreadable"
        raise ImageError(kind, f"The TIFF image is {kind}: {one_line(error)}.") from error
    return _as_srgb(samples, layout, profile)


def _check_kind(layout: TiffLayout) -> None:
    """Raise ImageError for what no rule says how to show."""
    floats = layout.sample_format == _FLOAT
    if floats and layout.samples > 1:
        raise ImageError(
            "unsupported",
            f"The TIFF image ({layout.describe()}) has float colours, and nothing says which value is white; "
            "save it with 8 or 16 bits.",
        )
    known = layout.photometric in _COLORS and layout.sample_format in (_UNSIGNED, _SIGNED, _FLOAT)
    if layout.photometric == _YCBCR:
        known = layout.compression in (6, 7)  # the codec makes RGB of it
    if not known or not _COLORS[layout.photometric] <= layout.samples <= _MOST_SAMPLES:
        raise _unsupported(layout)


def _channels_last(samples: npt.NDArray[Any], page: Any) -> npt.NDArray[Any]:
    """Return H x W x C samples, however the file stores them."""
    axes = page.axes
    if axes in ("YX", "YXS"):
        return samples if axes == "YXS" else samples[..., None]
    if axes == "SYX":
        return np.moveaxis(samples, 0, -1)
    raise ValueError(f"its axes are {axes}")


def _as_srgb(samples: npt.NDArray[Any], layout: TiffLayout, profile: object) -> Image.Image:
    colors = _COLORS[layout.photometric]
    if samples.shape[2] < colors:
        channels = counted(samples.shape[2], "channel")
        raise ImageError("unreadable", f"The TIFF image decodes to {channels}, not {colors}.")
    extra = layout.extra_samples[:1]
    has_alpha = extra in ((_ASSOCIATED,), (_UNASSOCIATED,)) and samples.shape[2] > colors
    used = samples[..., : colors + has_alpha]
    scaled = used if used.dtype == np.uint8 else to_8_bits(used, layout.bits)
    ink = scaled[..., :colors]
    alpha = scaled[..., colors] if has_alpha else None
    if alpha is not None and extra == (_ASSOCIATED,):
        ink = _divided(ink, alpha)
    if layout.photometric == _WHITE_IS_ZERO:
        ink = 255 - ink
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colors]
    pixels = np.ascontiguousarray(ink[..., 0] if colors == 1 else ink)
    image = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    rgb = to_srgb(image, profile)
    return rgb if alpha is None else over_white(rgb, Image.fromarray(np.ascontiguousarray(alpha)))


def _divided(ink: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return colours that were multiplied by their alpha as they were before, by rows."""
    plain = np.empty_like(ink)
    for row, line, share in zip(plain, ink, alpha, strict=True):
        row[...] = np.rint(np.minimum(line * 255.0 / np.maximum(share, 1)[:, None], 255.0))
    return plain


def _lacks_codec(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, ImportError | NotImplementedError) or any(words in text for words in _NO_CODEC)


def _unsupported(layout: TiffLayout) -> ImageError:
    return ImageError(
        "unsupported",
        f"TIFF images of this kind are not read ({layout.describe()}); more are with {INSTALL}, or save it anew with "
        "8 or 16 bits as RGB.",
    )
