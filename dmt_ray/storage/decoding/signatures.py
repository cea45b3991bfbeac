"""What data are, told from their first bytes: an image format, or what else lies under an image's name."""

from __future__ import annotations

import re

#: Image formats by their first bytes. RAW stands for the camera raw formats that are no TIFF files.
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",  # BigTIFF
    b"MM\x00+": "TIFF",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\xff\x0a": "JXL",
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "JXL",
    b"FUJIFILMCCD-RAW": "RAW",
    b"IIRO": "RAW",  # Olympus
    b"IIRS": "RAW",
    b"MMOR": "RAW",
    b"IIU\x00": "RAW",  # Panasonic, Leica
    b"II\x1a\x00\x00\x00HEAPCCDR": "RAW",  # Canon CRW
    b"FOVb": "RAW",  # Sigma
    b"\x00MRM": "RAW",  # Minolta
}
_HEIF = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"avci", b"avcs", b"mif2", b"msf1"}
)
_AVIF = frozenset({b"avif", b"avis"})
_CANON_CR3 = b"crx "
#: Brands of an ISO base media file that are looked at.
_MOST_BRANDS = 64

#: Formats that hold images and are not read, by their first bytes.
_OTHER_IMAGES = {
    b"8BPS": "a Photoshop document (PSD)",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"#?RGBE": "a Radiance HDR image",
    b"\x00\x00\x01\x00": "an icon (ICO)",
    b"gimp xcf": "a GIMP document (XCF)",
    b"SIMPLE  =": "a FITS file",
    b"DDS ": "a DirectDraw surface (DDS)",
    b"qoif": "a QOI image",
}
#: Other data, by their first bytes.
_OTHERS = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, not the photo itself; run `git lfs pull`",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"%PDF-": "a PDF document",
    b"%!PS": "a PostScript file",
    b"\x1f\x8b": "gzip-compressed data",
    b"BZh": "bzip2-compressed data",
    b"\xfd7zXZ\x00": "xz-compressed data",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x1a\x45\xdf\xa3": "a Matroska or WebM video",
    b"\x00\x00\x01\xba": "an MPEG video",
    b"\x00\x00\x01\xb3": "an MPEG video",
    b"FLV\x01": "a Flash video",
    b"OggS": "an Ogg sound or video",
    b"ID3": "an MP3 sound",
    b"\x7fELF": "a program",
}
_ANSWER = "the server answered with a page instead of the photo"
_HTML = re.compile(rb"(?is)^(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|script)\b")
_SVG = re.compile(rb"(?i)<svg[\s>]")
#: Bytes that are searched for markup.
_HEAD = 4096


def image_format(data: bytes) -> str | None:
    """Return the format that the first bytes announce: Pillow's name of it, HEIF, JXL, or RAW; None for none."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data[:4] in (b"II*\x00", b"MM\x00*") and (data[8:10] == b"CR" or data[8:12] in (b"IIII", b"MMMM")):
        return "RAW"  # Canon CR2 and Phase One, which are TIFF files with marks of their own
    return next((name for start, name in _STARTS.items() if data.startswith(start)), None)


def other_image(data: bytes) -> str | None:
    """Return the name, with its article, of an image format that is not read; None where the data are none."""
    if data[128:132] == b"DICM":
        return "a DICOM file"
    return next((name for start, name in _OTHER_IMAGES.items() if data.startswith(start)), None)


def no_image(data: bytes) -> str | None:
    """Return what data are that are no image, with an article and what to do; None where nothing tells."""
    for start, name in _OTHERS.items():
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp" or data[4:12] in (b"moov", b"mdat", b"wide"):
        return "a video, or another ISO media file"
    if data[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}.get(data[8:12])
    if data[257:262] == b"ustar":
        return "a tar archive"
    head = data[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _HTML.match(head):
        return f"an HTML page: {_ANSWER}"
    if head.startswith(b"<"):
        if _SVG.search(head):
            return "an SVG drawing, which has no pixels"
        return f"an XML document: perhaps {_ANSWER}" if head.startswith(b"<?xml") else None
    if head.startswith((b'{"', b"[{", b'["', b"{\n")):
        return f"JSON text: perhaps {_ANSWER}"
    return "plain text" if head and _is_text(head) else None


def _iso_media(data: bytes) -> str | None:
    """Return AVIF, HEIF or RAW (Canon CR3) by the brands of an ISO base media file."""
    size = min(int.from_bytes(data[:4], "big"), 16 + 4 * _MOST_BRANDS)
    brands = [data[8:12], *(data[place : place + 4] for place in range(16, size, 4))]
    for brand in brands:
        if brand in _AVIF:
            return "AVIF"
        if brand in _HEIF:
            return "HEIF"
        if brand == _CANON_CR3:
            return "RAW"
    return "HEIF" if b"mif1" in brands else None


def _is_text(head: bytes) -> bool:
    try:
        text = head[:512].decode("ascii")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)
