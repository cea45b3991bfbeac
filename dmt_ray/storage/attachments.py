"""What goes into an encoded picture beside its pixels, and how each format takes it."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import Any

from PIL import ImageCms, PngImagePlugin

#: Bytes that one JPEG segment can hold behind its length.
JPEG_SEGMENT = 65_533
_XMP_HEADER = 29
_PHOTOSHOP = b"Photoshop 3.0\x00"
_IPTC_RESOURCE = 0x0404
#: Where an ICC profile says when it was made.
_PROFILE_DATE = slice(24, 36)
_FIXED_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)

#: The most bytes of EXIF in any format: what a JPEG holds.
MOST_EXIF = JPEG_SEGMENT
#: The most bytes of an XMP packet and of IPTC records that a JPEG holds.
JPEG_MOST_XMP = JPEG_SEGMENT - _XMP_HEADER
JPEG_MOST_IPTC = JPEG_SEGMENT - len(_PHOTOSHOP) - 16


@dataclass(frozen=True)
class Attachments:
    """What to write beside the pixels; each may be missing."""

    exif: bytes | None = None
    """A block with its prefix."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records; only JPEG and TIFF take them."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down; WebP takes them only in ``exif``."""
    comment: str | None = None
    """Only GIF takes it."""


#: Nothing but the pixels and their profile.
NONE = Attachments()


@functools.cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, always of the same bytes: lcms would note the time in it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_PROFILE_DATE] = _FIXED_DATE
    return bytes(profile)


def save_options(attached: Attachments, image_format: str) -> dict[str, Any]:
    """Return the options of ``Image.save`` that write the attachments and an sRGB profile.

    Parameters:
        attached: no part of it larger than the format allows.
        image_format: ``png``, ``jpeg``, ``webp`` or ``gif``.
    """
    if image_format == "gif":
        return {} if attached.comment is None else {"comment": attached.comment.encode()}
    options: dict[str, Any] = {"icc_profile": srgb_profile()}
    if attached.exif is not None:
        options["exif"] = attached.exif
    if attached.dpi is not None and image_format != "webp":
        options["dpi"] = attached.dpi
    if attached.xmp is not None and image_format == "png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", attached.xmp.decode())
        options["pnginfo"] = text
    elif attached.xmp is not None:
        options["xmp"] = attached.xmp
    if attached.iptc is not None and image_format == "jpeg":
        options["extra"] = _iptc_segment(attached.iptc)
    return options


def _iptc_segment(records: bytes) -> bytes:
    """Return a JPEG segment with IPTC-IIM records in a block of Photoshop's."""
    block = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(records)) + records + bytes(len(records) % 2)
    return b"\xff\xed" + struct.pack(">H", 2 + len(_PHOTOSHOP) + len(block)) + _PHOTOSHOP + block
