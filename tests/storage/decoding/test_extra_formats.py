"""HEIC, JPEG XL and camera raw: read as other images are, and named where their library lacks."""

from __future__ import annotations

import io
import struct
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from refused_images import failure

from dmt_ray.storage.decoding import extra_formats, suffixes
from dmt_ray.storage.decoding.jxl_header import jxl_header
from dmt_ray.storage.images import decode, decode_image, image_suffixes

LIMIT = 1_000_000
Y, X = np.mgrid[0:48, 0:64]
RGB = np.stack([X * 2, Y * 3, 255 - X - Y], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def loaded():
    """Registers the libraries' encoders with Pillow as well."""
    for module in ("pillow_heif", "pillow_jxl", "rawpy"):
        extra_formats.load(module, "")


def encoded(image_format: str, pixels: np.ndarray = RGB, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def digital_negative(*, rows: int = 64, columns: int = 96, preview: bool = False) -> bytes:
    """A raw file of one colour by a camera that does not exist: a Bayer mosaic with a matrix, as DNG says."""
    mosaic = np.empty((rows, columns), np.uint16)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = 12_000, 2_000  # red and blue
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = 6_000
    matrix = [3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252]
    ratios = [part for value in matrix for part in (round(value * 10_000), 10_000)]
    tags = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50706, "B", 4, (1, 4, 0, 0), True),
        (50708, "s", None, "Test Camera", True),
        (50714, "I", 1, 0, True),
        (50717, "I", 1, 16_383, True),
        (50721, "2i", 9, ratios, True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
        (50778, "H", 1, 21, True),
    ]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        if preview:
            small = np.zeros((16, 24, 3), np.uint8)
            file.write(small, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=tags[2:4])
        file.write(mosaic, photometric=32803, metadata=None, extratags=tags)
    return buffer.getvalue()


def linear(pixels: np.ndarray) -> np.ndarray:
    """What linear light of these values looks like in sRGB."""
    light = pixels / 255.0
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def difference(data: bytes, expected: np.ndarray) -> float:
    found = decode(data, max_pixels=LIMIT)
    assert found.rgb.shape == expected.shape
    assert found.frames == 1
    return float(np.abs(found.rgb - expected.astype(float)).max())


def test_heic():
    assert difference(encoded("HEIF", quality=-1, chroma=444), RGB) <= 2
    assert difference(encoded("HEIF", RGB[..., 0], quality=-1), np.repeat(RGB[..., :1], 3, axis=-1)) <= 2
    clear = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert decode_image(encoded("HEIF", clear), max_pixels=LIMIT).min() == 255
    two = encoded("HEIF", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    assert decode(two, max_pixels=LIMIT).frames == 2


def test_jpeg_xl():
    assert difference(imagecodecs.jpegxl_encode(RGB, lossless=True), RGB) == 0
    grey = imagecodecs.jpegxl_encode(RGB[..., 0], lossless=True)
    assert difference(grey, np.repeat(RGB[..., :1], 3, axis=-1)) == 0
    clear = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert decode_image(imagecodecs.jpegxl_encode(clear, lossless=True), max_pixels=LIMIT).min() == 255
    # imagecodecs calls deep samples linear light, in a profile.
    assert difference(imagecodecs.jpegxl_encode(RGB.astype(np.uint16) * 257, lossless=True), linear(RGB)) <= 1


@pytest.mark.parametrize("image_format", ["HEIF", "JXL"])
def test_orientation_is_applied_once(image_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(RGB, -1)
    if image_format == "HEIF":  # the encoder turns the tag into the container's own rotation
        assert difference(encoded("HEIF", quality=-1, chroma=444, exif=exif.tobytes()), turned) <= 2
        return
    jpeg = encoded("JPEG", quality=95, subsampling=0, exif=exif)
    assert np.array_equal(
        decode_image(imagecodecs.jpegxl_encode_jpeg(jpeg), max_pixels=LIMIT), decode_image(jpeg, max_pixels=LIMIT)
    )
    # Elsewhere the codestream's orientation counts, and libjxl has applied it.
    assert difference(encoded("JXL", lossless=True, exif=exif.tobytes()), RGB) == 0


@pytest.mark.parametrize("preview", [False, True])
def test_camera_raw(preview):
    found = decode(digital_negative(preview=preview), max_pixels=LIMIT)
    assert found.rgb.shape == (64, 96, 3)
    red, green, blue = found.rgb[8:-8, 8:-8].reshape(-1, 3).mean(axis=0)
    assert red > green + 40 > blue + 80
    assert np.ptp(found.rgb[8:-8, 8:-8], axis=(0, 1)).max() <= 2
    assert found.frames == 1


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "JXL in a container", "DNG"])
def test_too_large_is_known_before_decoding(kind):
    if kind == "DNG":
        data, size = digital_negative(), "96 x 64 = 6144 pixels"
    else:
        options = {"use_container": True} if "container" in kind else {}
        data, size = encoded(kind[:4].strip(), **options), "64 x 48 = 3072 pixels"
    error = failure(data, max_pixels=3000)
    assert error.kind == "too-large"
    assert size in str(error)


def test_a_tiny_jpeg_xl_file_that_claims_to_be_huge_is_refused():
    large = 2**30 - 1
    bits = 0 | 3 << 1 | large << 3 | 0 << 33 | 3 << 36 | large << 38  # both sides as 30 bits
    error = failure(b"\xff\x0a" + bits.to_bytes(12, "little"))
    assert error.kind == "too-large"
    assert f"{2**30} x {2**30}" in str(error)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (257, 3), (3, 5000), (1600, 900), (300, 200)])
def test_the_jpeg_xl_header_says_the_size(size):
    width, height = size
    for options in ({}, {"use_container": True}):
        data = encoded("JXL", np.zeros((height, width, 3), np.uint8), effort=1, **options)
        header = jxl_header(data)
        assert header is not None
        assert (header.width, header.height, header.is_animated) == (width, height, False)


def test_an_animated_jpeg_xl_image_is_unsupported():
    # The library would show its last frame.
    error = failure(imagecodecs.jpegxl_encode(np.stack([RGB, RGB[::-1]]), lossless=True))
    assert error.kind == "unsupported"
    assert "animated" in str(error)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_truncated(share):
    for data in (encoded("HEIF"), digital_negative()):
        assert failure(data[: int(len(data) * share)]).kind == "truncated"
    data = imagecodecs.jpegxl_encode(RGB, lossless=True)
    assert failure(data[: int(len(data) * share)]).kind in ("truncated", "unreadable")


def test_a_raw_file_that_libraw_does_not_know_is_unsupported():
    assert failure(b"FUJIFILMCCD-RAW 0201FF0000000" + bytes(5000)).kind in ("unsupported", "truncated", "unreadable")
    assert failure(b"II*\0" + struct.pack("<I", 16) + b"CR\2\0" + bytes(3000)).kind == "unsupported"


@pytest.mark.parametrize(
    ("module", "what", "suffix"),
    [("pillow_heif", "HEIF", ".heic"), ("pillow_jxl", "JPEG XL", ".jxl"), ("rawpy", "camera raw", ".dng")],
)
def test_without_the_library(module, what, suffix, monkeypatch):
    data = {"pillow_heif": encoded("HEIF"), "pillow_jxl": encoded("JXL"), "rawpy": digital_negative()}[module]
    caches = (extra_formats._loaded, image_suffixes, suffixes.suffixes_of_missing_formats)
    for cached in caches:
        cached.cache_clear()
    assert suffix in image_suffixes()
    assert suffix not in suffixes.suffixes_of_missing_formats()
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    error = failure(data)
    assert error.kind == "unsupported"
    assert what in str(error)
    assert 'pip install "dmt-ray[formats]"' in str(error)
    assert suffix not in image_suffixes()
    assert suffix in suffixes.suffixes_of_missing_formats()
    assert ".jpg" in image_suffixes()
    for cached in caches:
        cached.cache_clear()
