"""TIFF files of many layouts, written by tifffile: each comes out exactly, or is refused by a word that tells why."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from refused_images import failure

from dmt_ray.storage.decoding import extra_formats
from dmt_ray.storage.decoding.tiff_tags import tiff_layout
from dmt_ray.storage.images import decode, decode_image

LIMIT = 1_000_000
Y, X = np.mgrid[0:48, 0:64]
RGB = np.stack([X * 3, Y * 5, 255 - X - Y], axis=-1).clip(0, 255).astype(np.uint8)
GREY = RGB[..., 1]
GREYS = np.repeat(GREY[..., None], 3, axis=-1)
OPAQUE = np.full_like(GREY, 255)


def deep(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.uint16) * 257


def planes(samples: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(samples.transpose(2, 0, 1))


def written(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


ALPHA = {"extrasamples": ["unassalpha"]}
INK = np.dstack([255 - RGB, np.zeros_like(GREY)])
KINDS = {
    "rgb 8": (RGB, RGB, {"photometric": "rgb"}),
    "rgb 16": (deep(RGB), RGB, {"photometric": "rgb"}),
    "rgb 8 in planes": (planes(RGB), RGB, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgb 16 in planes": (planes(deep(RGB)), RGB, {"photometric": "rgb", "planarconfig": "separate"}),
    "rgba 16": (deep(np.dstack([RGB, OPAQUE])), RGB, {"photometric": "rgb", **ALPHA}),
    "rgba 16 in planes": (
        planes(deep(np.dstack([RGB, OPAQUE]))), RGB, {"photometric": "rgb", "planarconfig": "separate", **ALPHA},
    ),
    "grey 16": (deep(GREY), GREYS, {"photometric": "minisblack"}),
    "white is zero 16": (65535 - deep(GREY), GREYS, {"photometric": "miniswhite"}),
    "grey float": ((GREY / 255).astype(np.float32), GREYS, {"photometric": "minisblack"}),
    "grey and alpha 16": (deep(np.dstack([GREY, OPAQUE])), GREYS, {"photometric": "minisblack", **ALPHA}),
    "cmyk 16": (deep(INK), RGB, {"photometric": "separated"}),
    "cmyk 16 in planes": (planes(deep(INK)), RGB, {"photometric": "separated", "planarconfig": "separate"}),
    "big tiff": (RGB, RGB, {"photometric": "rgb", "bigtiff": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_layout_comes_out_exactly(kind):
    samples, expected, options = KINDS[kind]
    for order, packing, tile in itertools.product("<>", PACKINGS, (None, (32, 32))):
        how = {"byteorder": order, "compression": packing[0], "predictor": packing[1]}
        how |= {"tile": tile} if tile else {"rowsperstrip": 16}
        found = decode(written(samples, **options, **how), max_pixels=LIMIT)
        assert np.array_equal(found.rgb, expected), how
        assert (found.frames, found.truncated) == (1, False)


#: Compression, and whether differences are stored (TIFF's predictor 2; 3 for floats).
PACKINGS = [(None, False), ("zlib", True), ("lzw", False), ("lzw", True), ("packbits", False)]


@pytest.mark.parametrize("packing", ["zstd", "lzma", "webp", "jpegxl", "jpeg2000"])
def test_less_common_compressions(packing):
    lossless = {"compressionargs": {"lossless": True}} if packing in ("webp", "jpegxl") else {}
    data = written(RGB, photometric="rgb", compression=packing, **lossless)
    assert np.abs(decode_image(data, max_pixels=LIMIT).astype(int) - RGB).max() <= 3


def test_jpeg_in_tiff():
    ways = ({}, {"tile": (32, 32)}, {"compressionargs": {"outcolorspace": "ycbcr"}})
    for order, how in itertools.product("<>", ways):
        data = written(RGB, photometric="rgb", compression="jpeg", byteorder=order, **how)
        assert np.abs(decode_image(data, max_pixels=LIMIT).astype(int) - RGB).mean() < 4, (order, how)


def test_alpha_is_laid_over_white_and_divided_out_where_it_was_multiplied_in():
    half = np.full_like(GREY, 128)
    for lay, options in ((deep, {}), (lambda samples: planes(deep(samples)), {"planarconfig": "separate"})):
        plain = written(lay(np.dstack([RGB, half])), photometric="rgb", extrasamples=["unassalpha"], **options)
        found = decode_image(plain, max_pixels=LIMIT)
        assert np.abs(found.astype(int) - (RGB * (128 / 255) + 127)).max() <= 1
        product = np.dstack([RGB // 2, half])
        multiplied = written(lay(product), photometric="rgb", extrasamples=["assocalpha"], **options)
        found = decode_image(multiplied, max_pixels=LIMIT)
        assert np.abs(found.astype(int) - (RGB // 2 + 127)).max() <= 2
    unsaid = written(
        planes(deep(np.dstack([RGB, half]))), photometric="rgb", planarconfig="separate", extrasamples=[0]
    )
    assert np.array_equal(decode_image(unsaid, max_pixels=LIMIT), RGB)


def test_signed_samples_and_doubles():
    for samples in (
        (GREY // 2).astype(np.int8),
        (GREY.astype(np.float64) * 32767 / 255).astype(np.int16),
        GREY / 255,
    ):
        found = decode_image(written(samples, photometric="minisblack"), max_pixels=LIMIT)
        assert np.abs(found.astype(int) - GREYS).max() <= 1
    below = written(np.array([[-100, 0, 127]], np.int8), photometric="minisblack")
    assert decode_image(below, max_pixels=LIMIT)[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_colours_are_unsupported_and_not_damaged(kind):
    error = failure(written((RGB / 255).astype(kind), photometric="rgb"))
    assert error.kind == "unsupported"
    assert "RGB, 3 x" in str(error)
    assert "8 or 16 bits" in str(error)


def test_odd_photometric_interpretations_and_compressions_are_unsupported():
    assert failure(written(RGB, photometric="icclab")).kind == "unsupported"
    data = written(RGB, photometric="rgb", compression="zlib")
    unknown = data.replace(struct.pack("<HHIH", 259, 3, 1, 8), struct.pack("<HHIH", 259, 3, 1, 34661))
    assert unknown != data
    error = failure(unknown)
    assert error.kind == "unsupported"
    assert "compression 34661" in str(error)


def test_orientation_and_profile_of_planes():
    swapped = swapped_profile()
    tags = [(274, "H", 1, 6, True), (34675, "B", len(swapped), swapped, True)]
    data = written(planes(deep(RGB)), photometric="rgb", planarconfig="separate", extratags=tags)
    assert np.abs(decode_image(data, max_pixels=LIMIT).astype(int) - np.rot90(RGB[..., ::-1], -1)).max() <= 3


def swapped_profile() -> bytes:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")


def test_pages_are_counted_without_reduced_copies():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(RGB, photometric="rgb", metadata=None)
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        file.write(RGB[::-1], photometric="rgb", metadata=None)
    found = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert found.frames == 2
    assert np.array_equal(found.rgb, RGB)
    pages = [Image.fromarray(RGB)] * 3
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert decode(buffer.getvalue(), max_pixels=LIMIT).frames == 3


def test_directories_in_a_circle_end():
    data = bytearray(written(RGB, photometric="rgb", metadata=None))
    start = struct.unpack_from("<I", data, 4)[0]
    place = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, place, start)
    layout = tiff_layout(bytes(data))
    assert layout is not None
    assert layout.pages <= 2
    assert np.array_equal(decode_image(bytes(data), max_pixels=LIMIT), RGB)


@pytest.mark.timeout(20)
def test_ten_thousand_directories_that_overlap_are_not_read_to_their_end():
    count, entries = 10_000, 4000
    data = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(8 + 12 * entries + 4 * count))
    for index in range(count):
        struct.pack_into("<H", data, 8 + 4 * index, entries)
        struct.pack_into("<I", data, 8 + 4 * index + 2 + 12 * entries, 8 + 4 * (index + 1))
    layout = tiff_layout(bytes(data))
    assert layout is not None
    assert failure(bytes(data)).kind in ("unreadable", "truncated")


def test_strips_that_unpack_to_more_than_the_picture_are_refused():
    bomb = zlib.compress(bytes(50_000_000), 9)
    options = {"shape": (3, 64, 64), "dtype": np.uint16, "photometric": "rgb", "planarconfig": "separate"}
    data = written(iter([bomb] * 3), compression="zlib", rowsperstrip=64, **options)
    assert failure(data).kind == "unreadable"


def test_too_large_truncated_and_damaged():
    data = written(planes(deep(RGB)), photometric="rgb", planarconfig="separate", compression="zlib")
    error = failure(data, max_pixels=48 * 64 - 1)
    assert error.kind == "too-large"
    assert "64 x 48 = 3072 pixels" in str(error)
    assert failure(data[: len(data) // 2]).kind in ("truncated", "unreadable")
    plain = written(planes(deep(RGB)), photometric="rgb", planarconfig="separate")
    assert failure(plain[: len(plain) // 2]).kind == "truncated"
    late = io.BytesIO()
    Image.fromarray(RGB).save(late, "TIFF", compression="tiff_lzw")  # its directory lies at the end
    assert failure(late.getvalue()[:-200]).kind == "truncated"


def test_without_the_extra_such_files_are_unsupported_and_others_are_read(monkeypatch):
    extra_formats._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    error = failure(written(planes(deep(RGB)), photometric="rgb", planarconfig="separate"))
    assert error.kind == "unsupported"
    assert 'pip install "dmt-ray[formats]"' in str(error)
    assert "RGB, 3 x 16-bit samples in planes" in str(error)
    assert np.array_equal(decode_image(written(RGB, photometric="rgb"), max_pixels=LIMIT), RGB)
    extra_formats._loaded.cache_clear()
