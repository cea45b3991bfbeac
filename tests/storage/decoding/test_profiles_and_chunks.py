"""Colour profiles count by what they do, and PNG texts and profiles of any size cost no picture and no memory."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from dmt_ray.storage.decoding.png_texts import without_large_texts
from dmt_ray.storage.images import decode_image

LIMIT = 1_000_000
Y, X = np.mgrid[0:48, 0:64]
RGB = np.stack([X * 2, Y * 3, 255 - X - Y], axis=-1).clip(0, 255).astype(np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MEGABYTE = 2**20


def png(**options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_curve(gamma: float) -> bytes:
    """SRGB, whose curves are powers instead; its name stays."""
    profile = bytearray(SRGB)
    for place in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        name, start, _ = struct.unpack_from(">4sII", profile, place)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[start : start + 14] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
            struct.pack_into(">I", profile, place + 8, 14)
    return bytes(profile)


def test_a_linear_profile_is_applied_though_its_name_holds_srgb():
    linear = with_curve(1.0)
    assert "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(linear))).lower()
    found = decode_image(png(icc_profile=linear), max_pixels=LIMIT)
    light = RGB / 255.0
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found - expected).max() <= 2


def test_a_wider_gamut_is_converted_though_its_name_holds_srgb():
    wide = SRGB.replace("sRGB".encode("utf-16-be"), "sRGB".encode("utf-16-be"))
    wide = wide.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    found = decode_image(png(icc_profile=wide), max_pixels=LIMIT)
    assert np.abs(found.astype(int) - RGB[..., [1, 0, 2]]).max() <= 3


def test_srgb_changes_no_pixel_under_any_name():
    renamed = SRGB.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    assert renamed != SRGB
    for profile in (SRGB, renamed, bytes(imagecodecs.cms_profile("srgb"))):
        assert np.array_equal(decode_image(png(icc_profile=profile), max_pixels=LIMIT), RGB)


def test_deep_grey_has_its_profile_applied():
    light = np.linspace(0, 1, 256)
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    for values in ((light * 65535).round().astype(np.uint16), (light * 255).round().astype(np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(values.reshape(16, 16)).save(buffer, "PNG", icc_profile=grey_profile())
        found = decode_image(buffer.getvalue(), max_pixels=LIMIT)[..., 0].ravel()
        assert np.abs(found - expected).max() <= 2


def grey_profile() -> bytes:
    """A minimal grey profile of linear light."""
    text = "linear".encode("utf-16-be")
    tags = {
        b"desc": b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061),
        b"kTRC": b"curv" + bytes(4) + struct.pack(">I", 0),
    }
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += padded
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x04300000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + body


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["Comment", "XML:com.adobe.xmp", "Raw profile type exif"])
def test_large_texts_are_skipped(compressed, name):
    for add in ("add_text", "add_itxt"):
        texts = PngImagePlugin.PngInfo()
        options = {"zip": compressed}
        getattr(texts, add)(name, "x" * (2 * MEGABYTE), **options)
        for _ in range(3):
            getattr(texts, add)("Comment", "y" * MEGABYTE, **options)
        data = png(pnginfo=texts)
        assert np.array_equal(decode_image(data, max_pixels=LIMIT), RGB)
        assert len(without_large_texts(data)[0]) < 20_000


def test_sixty_six_megabytes_of_texts_are_skipped():
    texts = PngImagePlugin.PngInfo()
    for index in range(66):
        texts.add_text(f"Comment {index}", "x" * (MEGABYTE - 20), zip=True)
    assert np.array_equal(decode_image(png(pnginfo=texts), max_pixels=LIMIT), RGB)


def test_orientation_in_xmp_still_counts_and_files_without_texts_are_not_copied():
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    for compressed in (False, True):
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp, zip=compressed)
        assert np.array_equal(decode_image(png(pnginfo=texts), max_pixels=LIMIT), RGB[::-1, ::-1])
    data = png(icc_profile=SRGB)
    assert without_large_texts(data)[0] is data


def test_a_large_profile_is_read():
    swapped = SRGB.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    grown = bytearray(swapped + bytes(2 * MEGABYTE))
    struct.pack_into(">I", grown, 0, len(grown))
    data = png(icc_profile=bytes(grown))
    assert len(data) < MEGABYTE
    assert np.abs(decode_image(data, max_pixels=LIMIT).astype(int) - RGB[..., ::-1]).max() <= 3


def test_damaged_chunks_do_not_matter_here():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = png()
    for odd in (chunk(b"zTXt", b"k"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"), chunk(b"iCCP", b""), b"\0\0\0"):
        for place in (33, len(data) - 12):
            spliced = data[:place] + odd + data[place:]
            stripped, profile = without_large_texts(spliced)
            assert stripped.startswith(data[:33])
            assert profile is None
    assert without_large_texts(b"")[0] == b""
