"""What lies under an image's name is said, and how many frames a file has."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from dmt_ray.errors import ERROR_TYPES, ImageError
from dmt_ray.storage.decoding.frames import gif_frames
from dmt_ray.storage.decoding.signatures import image_format
from dmt_ray.storage.images import decode


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "a")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return buffer.getvalue()


def iso_media(major: bytes, *brands: bytes) -> bytes:
    return struct.pack(">I4s4sI", 16 + 4 * len(brands), b"ftyp", major, 0) + b"".join(brands) + bytes(100)


NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
NO_IMAGES = {
    "Git LFS pointer, not the photo itself; run `git lfs pull`": LFS,
    "HTML page: the server answered with a page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "an HTML page": b"\xef\xbb\xbf<!-- a -->\n<HTML lang='en'><head>",
    "XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "JSON text": b'{"error": "not found"}',
    "zip archive": zipped(),
    "tar archive": tarred(),
    "PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    "a video, or another ISO media file": iso_media(b"isom", b"mp41"),
    "AVI video": b"RIFF\0\0\0\0AVI LIST",
    "Matroska": b"\x1a\x45\xdf\xa3" + bytes(30),
    "Parquet": b"PAR1" + bytes(30),
    "plain text": b"this is a text in a file called photo.jpg\n" * 20,
}


@pytest.mark.parametrize("words", NO_IMAGES)
def test_what_is_no_image_is_named(words):
    with pytest.raises(ImageError) as caught:
        decode(NO_IMAGES[words], max_pixels=1000)
    assert caught.value.kind == "not-an-image"
    assert words in str(caught.value)
    assert b"404" not in str(caught.value).encode()


@pytest.mark.parametrize(
    ("words", "data"),
    [("Photoshop", b"8BPS\0\1" + bytes(30)), ("OpenEXR", b"v/1\1" + bytes(30)), ("DICOM", bytes(128) + b"DICM")],
)
def test_images_that_are_not_read_are_unsupported(words, data):
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=1000)
    assert caught.value.kind == "unsupported"
    assert caught.value.kind in ERROR_TYPES
    assert words in str(caught.value)


def test_brands_decide_what_an_iso_media_file_is():
    assert image_format(iso_media(b"heic", b"mif1")) == "HEIF"
    assert image_format(iso_media(b"mif1", b"mif1", b"heix")) == "HEIF"
    assert image_format(iso_media(b"mif1", b"avif")) == "AVIF"
    assert image_format(iso_media(b"avif", b"mif1")) == "AVIF"
    assert image_format(iso_media(b"mif1")) == "HEIF"
    assert image_format(iso_media(b"crx ", b"isom")) == "RAW"
    assert image_format(iso_media(b"qt  ")) is None
    assert image_format(b"\xff\xff\xff\xffftypisom" + bytes(9)) is None


def test_frames_are_counted():
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for image_format_, expected in (("GIF", 3), ("WEBP", 3), ("PNG", 3), ("AVIF", 3), ("TIFF", 3), ("JPEG", 1)):
        more = {} if image_format_ == "JPEG" else {"save_all": True, "append_images": frames[1:]}
        buffer = io.BytesIO()
        frames[0].save(buffer, image_format_, **more)
        assert decode(buffer.getvalue(), max_pixels=1000).frames == expected, image_format_


def test_a_multi_picture_jpeg_counts_its_pictures_and_no_gain_maps():
    pictures = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1])]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "MPO", save_all=True, append_images=pictures[1:])
    data = buffer.getvalue()
    assert decode(data, max_pixels=1000).frames == 1  # Pillow calls the second one's type undefined, as phones do
    size = Image.open(buffer).mpinfo[0xB002][0]["Size"]
    entry = data.index(struct.pack("<II", 0x030000, size))
    stereo = bytearray(data)
    for place in (entry, entry + 16):
        struct.pack_into("<I", stereo, place, 0x020002)
    assert decode(bytes(stereo), max_pixels=1000).frames == 2


def test_a_png_that_claims_four_billion_frames_fits_the_column():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    data = bytearray(buffer.getvalue())
    place = data.index(b"acTL")
    struct.pack_into(">I", data, place + 4, 2**31 - 1)
    try:
        found = decode(bytes(data), max_pixels=1000).frames
    except ImageError:
        return
    assert found is None or found <= 2**31 - 1


def test_damaged_gif_files_end_the_count():
    assert gif_frames(b"") == 1
    assert gif_frames(b"GIF89a" + b"\xff" * 500) == 1
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    for end in range(6, len(buffer.getvalue())):
        assert gif_frames(buffer.getvalue()[:end]) == 1
