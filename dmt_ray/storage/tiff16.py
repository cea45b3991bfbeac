"""TIFF with 16 bits per channel, which Pillow cannot write: pixels through tifffile, the rest beside its own tags."""

from __future__ import annotations

import io
import struct
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmt_ray.storage.attachments import Attachments, srgb_profile
from dmt_ray.storage.exif import (
    ICC_PROFILE,
    IPTC,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    XMP,
    Y_RESOLUTION,
    Directory,
    Exif,
    parse_exif,
    written_directories,
)

_BYTE, _ASCII, _UNDEFINED, _UTF8 = 1, 2, 7, 129
#: What tifffile writes where ``Attachments.dpi`` says so.
_RESOLUTION = frozenset((X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT))


def encode_tiff16(rgb: npt.NDArray[np.uint16], attached: Attachments) -> bytes:
    """Encode H x W x 3 as a TIFF of 16 bits per channel, compressed without loss (deflate with a predictor).

    tifffile writes no EXIF directories, so the file's directory is written again, with them, behind the first.
    """
    import tifffile

    nothing = Directory("<")
    exif = Exif(nothing, nothing, nothing) if attached.exif is None else parse_exif(attached.exif)
    order: Literal["<", ">"] = "<" if exif.main.order == "<" else ">"
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(rgb),
        byteorder=order,
        photometric="rgb",
        compression="adobe_deflate",
        predictor=True,
        resolution=attached.dpi,
        resolutionunit=None if attached.dpi is None else "inch",
        metadata=None,
        software=False,
    )
    main = {
        tag: (_ASCII if type_ == _UTF8 else type_, count, raw)
        for tag, (type_, count, raw) in exif.main.values.items()
        if tag not in _RESOLUTION
    }
    main |= parse_exif(buffer.getbuffer(), keep=lambda tag: True).main.values
    profile = srgb_profile()
    main[ICC_PROFILE] = _UNDEFINED, len(profile), profile
    for tag, type_, content in ((XMP, _BYTE, attached.xmp), (IPTC, _UNDEFINED, attached.iptc)):
        if content is not None:
            main[tag] = type_, len(content), content
    end = buffer.seek(0, io.SEEK_END)
    start = end + end % 2
    buffer.write(bytes(end % 2) + written_directories(main, exif.photo.values, exif.gps.values, order, start))
    buffer.seek(4)
    buffer.write(struct.pack(order + "I", start))
    return buffer.getvalue()
