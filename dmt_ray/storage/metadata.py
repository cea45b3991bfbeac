"""An input's EXIF, XMP, IPTC and resolution, and what of them goes into a result's file.

Broken or overlong metadata never cost a picture: they are left out, and a sentence says so.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

from PIL import Image, UnidentifiedImageError

from dmt_ray.storage.attachments import JPEG_MOST_IPTC, JPEG_MOST_XMP, MOST_EXIF, Attachments
from dmt_ray.storage.decoding import pillow_limits
from dmt_ray.storage.exif import IPTC, XMP, Exif, ExifError, parse_exif, rebuild_exif
from dmt_ray.storage.iptc import iptc_fields, xml_text
from dmt_ray.storage.png_chunks import SIGNATURE, png_chunks
from dmt_ray.storage.provenance import VOCABULARY, Provenance
from dmt_ray.storage.xmp import MOST_BYTES, Fields, Packet, XmpError

#: Formats whose headers Pillow reads here without decoding a pixel; the last two only where a plugin is registered.
_FORMATS = ("JPEG", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF", "HEIF", "JXL")
#: The most pixels per inch that are believed.
_MOST_DPI = 30_000.0
_PNG_TITLES = {"Title": "title", "Author": "creator", "Copyright": "rights", "Description": "description"}
_XMP_KEYWORD = b"XML:com.adobe.xmp"
#: ImageMagick's names for what PNG had no chunk for, written as hexadecimal digits.
_RAW_PROFILES = {
    b"Raw profile type " + name: kind
    for name, kind in ((b"exif", "exif"), (b"APP1", "exif"), (b"iptc", "iptc"), (b"xmp", "xmp"))
}
_XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\x00"
#: Formats of results that have a place for IPTC-IIM.
_WITH_IPTC = ("jpeg", "tiff16")
#: Chunks of a PNG that are looked at.
_MOST_CHUNKS = 200_000


@dataclass
class Metadata:
    """What an input's file says beside its pixels; None is what it does not say."""

    exif: Exif | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    texts: dict[str, str] = field(default_factory=dict)
    """Texts of a PNG, by the name of the property of Dublin Core that means the same."""
    faults: list[str] = field(default_factory=list)
    """What could not be read, such as ``EXIF (damaged)``."""


def read_metadata(data: bytes, max_pixels: int) -> Metadata:
    """Return the metadata of an encoded image that can be decoded; never fails.

    Parameters:
        data: the encoded file.
        max_pixels: as for ``decode_image``.
    """
    found = Metadata()
    try:
        if data.startswith(SIGNATURE):
            _read_png(data, found)
        elif data[:4] in (b"II*\x00", b"MM\x00*"):
            _read_tiff(data, found)
        else:
            _read_others(data, max_pixels, found)
    except UnidentifiedImageError:
        pass  # a format that says nothing, or of which nothing is read
    except Exception:  # plugins raise nearly every type; a sound picture must not be lost over it
        found.faults.append("metadata (damaged)")
    if found.xmp is not None and len(found.xmp) > MOST_BYTES:
        found.faults.append(f"XMP ({len(found.xmp)} bytes, more than {MOST_BYTES})")
        found.xmp = None
    if found.dpi is None and found.exif is not None:
        found.dpi = _sensible(found.exif.dpi())
    return found


@dataclass(frozen=True)
class Beside:
    """What goes into the files of an image's results beside their pixels."""

    attached: Attachments
    animation: Attachments
    """Of the animation: the provenance alone."""
    digital_source_type: str
    """The term that ``attached`` says."""
    warning: str | None
    """What had to be left out; None where nothing had to."""


def beside_pixels(
    metadata: Metadata, provenance: Provenance, width: int, height: int, image_format: str, *, keep: bool
) -> Beside:
    """Return what goes into the files of an image's results.

    Parameters:
        metadata: of the input.
        provenance: of the run.
        width, height: of the results, in pixels.
        image_format: of the results.
        keep: keep the input's metadata; else only the provenance is written.
    """
    faults = list(metadata.faults)
    fields = _fields(metadata, with_iptc=image_format not in _WITH_IPTC)
    term, packet = None, None
    if metadata.xmp is not None:
        try:
            term, packet = _packet(metadata.xmp, fields, provenance)
        except XmpError as error:
            faults.append(f"XMP ({error})")
        except Exception:  # such as names without a namespace; a sound picture must not be lost over it
            faults.append("XMP (damaged)")
    if packet is not None and image_format == "jpeg" and len(packet) > JPEG_MOST_XMP:
        faults.append(f"XMP ({len(packet)} bytes, and a JPEG holds {JPEG_MOST_XMP})")
        packet = None
    # An input's own term stays where it says more, even where nothing else of it does.
    own = provenance if term is None else replace(provenance, digital_source_type=term)
    term, alone = _lone_packet(own)
    animation = Attachments(xmp=alone, comment=f"{own.program}, {own.parameters}, {VOCABULARY}{term}")
    if not keep:
        return Beside(Attachments(xmp=alone), animation, term, None)
    if packet is None:
        packet = alone if fields == Fields() else _packet(None, fields, own)[1]
    exif, iptc = None, metadata.iptc if image_format in _WITH_IPTC else None
    dpi = metadata.dpi if image_format == "webp" else None
    if metadata.exif is not None or dpi is not None:
        exif = rebuild_exif(metadata.exif, width, height, dpi)
    if exif is not None and len(exif) > MOST_EXIF:
        faults.append(f"EXIF ({len(exif)} bytes, more than {MOST_EXIF})")
        exif = None
    if iptc is not None and len(iptc) > JPEG_MOST_IPTC:
        faults.append(f"IPTC ({len(iptc)} bytes, more than {JPEG_MOST_IPTC})")
        iptc = None
    warning = f"Metadata left out: {', '.join(faults)}." if faults else None
    return Beside(Attachments(exif, packet, iptc, metadata.dpi), animation, term, warning)


def _packet(data: bytes | None, fields: Fields, provenance: Provenance) -> tuple[str, bytes]:
    """Return the term and the packet of a result; raises XmpError when ``data`` cannot be used."""
    packet = Packet(data)
    packet.drop_stale()
    packet.add_fields(fields)
    term = packet.add_provenance(provenance)
    return term, packet.to_bytes()


@lru_cache(maxsize=64)
def _lone_packet(provenance: Provenance) -> tuple[str, bytes]:
    """Return the term and the packet of a result whose input says nothing: the same for most images of a run."""
    return _packet(None, Fields(), provenance)


def _fields(metadata: Metadata, *, with_iptc: bool) -> Fields:
    """Return what IPTC and PNG texts say."""
    said = iptc_fields(metadata.iptc) if with_iptc and metadata.iptc is not None else Fields()
    texts = dict(metadata.texts)
    creator = texts.pop("creator", None)
    lists = {"creator": [creator]} if creator is not None else {}
    return Fields(said.texts, texts | dict(said.titles), lists | dict(said.lists))


def _read_exif(block: bytes | memoryview, found: Metadata) -> None:
    try:
        found.exif = parse_exif(block)
    except ExifError:
        found.faults.append("EXIF (damaged)")
        return
    if found.exif.dropped:
        found.faults.append("some values of EXIF (damaged)")


def _read_tiff(data: bytes, found: Metadata) -> None:
    found.exif = parse_exif(data, keep=lambda tag: tag in (XMP, IPTC))
    for tag, name in ((XMP, "xmp"), (IPTC, "iptc")):
        setattr(found, name, found.exif.main.raw(tag))


def _read_others(data: bytes, max_pixels: int, found: Metadata) -> None:
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with pillow_limits.decoding(max_pixels), Image.open(io.BytesIO(data), formats=formats) as image:
        info = dict(image.info)
        format_ = image.format
    if isinstance(exif := info.get("exif"), bytes) and exif:
        _read_exif(exif, found)
    if isinstance(xmp := info.get("xmp"), bytes):
        found.xmp = xmp
    resources = info.get("photoshop")
    if isinstance(resources, dict) and isinstance(iptc := resources.get(0x0404), bytes):
        found.iptc = iptc
    if format_ != "JPEG" or info.get("jfif_unit") in (1, 2):  # else Pillow makes one up
        found.dpi = _sensible(info.get("dpi"))


def _read_png(data: bytes, found: Metadata) -> None:
    for kind, content in islice(png_chunks(data), _MOST_CHUNKS):
        if kind == b"eXIf":
            _read_exif(content, found)
        elif kind == b"pHYs" and len(content) == 9 and content[8] == 1:
            sides = (int.from_bytes(content[start : start + 4], "big") * 0.0254 for start in (0, 4))
            found.dpi = _sensible(tuple(sides))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            try:
                _read_png_text(kind, content, found)
            except (zlib.error, ValueError, IndexError):
                found.faults.append("a PNG text (damaged)")


def _read_png_text(kind: bytes, content: memoryview, found: Metadata) -> None:
    keyword = bytes(content[:80]).partition(b"\x00")[0]
    raw_profile = _RAW_PROFILES.get(keyword)
    title = _PNG_TITLES.get(keyword.decode("latin-1"))
    if keyword != _XMP_KEYWORD and raw_profile is None and title is None:
        return
    rest = content[len(keyword) + 1 :]
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[0] == 1
        head = bytes(rest[2:400])  # language tag and translated keyword
        rest = rest[2 + head.index(b"\x00", head.index(b"\x00") + 1) + 1 :]
    elif packed:
        rest = rest[1:]
    text = _inflated(rest) if packed else bytes(rest[: MOST_BYTES + 1])
    if text is None or len(text) > MOST_BYTES:
        name = "XMP" if keyword == _XMP_KEYWORD else f"the text {keyword.decode('latin-1')}"
        found.faults.append(f"{name} (more than {MOST_BYTES} bytes)")
    elif keyword == _XMP_KEYWORD:
        found.xmp = text
    elif title is not None:
        found.texts[title] = xml_text(text.decode("utf-8" if kind == b"iTXt" else "latin-1"))
    elif raw_profile is not None:
        profile = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
        if profile.startswith(_XMP_SEGMENT):
            raw_profile, profile = "xmp", profile.removeprefix(_XMP_SEGMENT)
        if getattr(found, raw_profile) is not None:
            return
        if raw_profile == "exif":
            _read_exif(profile, found)
        else:
            setattr(found, raw_profile, _iptc_of(profile) if raw_profile == "iptc" else profile)


def _inflated(packed: memoryview) -> bytes | None:
    """Return a text that was packed; None where it is too long."""
    unpack = zlib.decompressobj()
    text = unpack.decompress(packed, MOST_BYTES + 1)
    return None if len(text) > MOST_BYTES else text


def _iptc_of(profile: bytes) -> bytes:
    """Return the records of a raw profile, which ImageMagick writes inside a block of Photoshop's."""
    if not profile.startswith(b"8BIM\x04\x04"):
        return profile
    name = 1 + profile[6] + (1 + profile[6]) % 2
    size = int.from_bytes(profile[6 + name : 10 + name], "big")
    return profile[10 + name : 10 + name + size]


def _sensible(dpi: object) -> tuple[float, float] | None:
    """Return a resolution that can be true, else None."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (
        (across, down) if all(math.isfinite(value) and 1 <= value <= _MOST_DPI for value in (across, down)) else None
    )
