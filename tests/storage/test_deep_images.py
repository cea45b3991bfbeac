"""Sixteen bits per channel in and out, to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.storage import deep_images, images, png16
from dmt_ray.storage.attachments import Attachments
from dmt_ray.storage.deep_images import decode_image16
from dmt_ray.storage.images import decode_image, encode_image
from dmt_ray.storage.metadata import Metadata, beside_pixels, read_metadata
from dmt_ray.storage.provenance import Provenance

imagecodecs = pytest.importorskip("imagecodecs")

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65_536, (20, 30, 3), dtype=np.uint16)


def deep(data: bytes) -> np.ndarray:
    rgb = decode_image(data, max_pixels=10**6)
    found = decode_image16(data, rgb, read_metadata(data, 10**6))
    assert found.dtype == np.uint16
    assert found.shape == rgb.shape
    return found


def test_every_bit_of_a_png16_comes_back():
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    attached = Attachments(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=packet, dpi=(300, 300))
    data = encode_image(DEEP, "png16", 1, attached)
    assert data == encode_image(DEEP, "png16", 1, attached)
    assert data[24:26] == b"\x10\x02"  # 16 bits, RGB
    assert np.array_equal(imagecodecs.png_decode(data), DEEP)
    assert np.array_equal(deep(data), DEEP)
    image = Image.open(io.BytesIO(data))  # checks the chunks' checksums
    image.load()
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert image.info["XML:com.adobe.xmp"] == packet.decode()
    assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.xcolor_space == "RGB "
    assert image.getexif() == {}
    widened = imagecodecs.png_decode(encode_image(np.full((2, 2, 3), 255, np.uint8), "png16", 1))
    assert widened.dtype == np.uint16
    assert widened.min() == 65_535


def photo_with_metadata() -> Metadata:
    """What a photo says: EXIF with places and times, another byte order in each, IPTC and dpi."""
    exif = Image.Exif()
    exif[0x013B], exif[0x0112] = "Ann", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=exif, dpi=(200, 100))
    metadata = read_metadata(buffer.getvalue(), 10**6)
    metadata.iptc = b"\x1c\x02\x05\x00\x05Title"
    return metadata


def test_every_bit_of_a_tiff16_comes_back_with_the_metadata():
    run = Provenance("colorize", "algorithmicallyEnhanced", "f" * 64, "1")
    beside = beside_pixels(photo_with_metadata(), run, 30, 20, "tiff16", keep=True)
    assert beside.warning is None
    data = encode_image(DEEP, "tiff16", 1, beside.attached)
    assert data == encode_image(DEEP, "tiff16", 1, beside.attached)
    for values in (imagecodecs.tiff_decode(data), tifffile.imread(io.BytesIO(data)), deep(data)):
        assert values.dtype == np.uint16
        assert np.array_equal(values, DEEP)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.mode, image.info["dpi"], image.info["compression"]) == ("RGB", (200, 100), "tiff_adobe_deflate")
    assert np.abs(np.asarray(image).astype(int) - (DEEP >> 8)).max() <= 1
    exif = image.getexif()
    assert (exif[0x013B], exif[0x0112]) == ("Ann", 1)
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
    assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.xcolor_space == "RGB "
    found = read_metadata(data, 10**6)
    assert (found.xmp, found.iptc, found.dpi) == (beside.attached.xmp, beside.attached.iptc, (200, 100))
    assert (found.faults, b"algorithmicallyEnhanced" in found.xmp) == ([], True)


@pytest.mark.parametrize("exif", [None, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"])
def test_a_tiff16_of_eight_bits_and_of_many_strips(exif):
    tall = np.random.default_rng(1).integers(0, 256, (3001, 101, 3), np.uint8)
    data = encode_image(tall, "tiff16", 1, Attachments(exif=exif))
    assert len(tifffile.TiffFile(io.BytesIO(data)).pages.first.dataoffsets) > 3
    assert np.array_equal(imagecodecs.tiff_decode(data), tall.astype(np.uint16) * 257)
    assert np.array_equal(decode_image(data, max_pixels=10**6), tall)
    assert read_metadata(data, 10**6).dpi is None


def test_more_pixels_than_a_tiff_holds_are_said(monkeypatch):
    monkeypatch.setattr(images, "_MOST_OF_TIFF", 100)
    with pytest.raises(ImageError, match="600 pixels do not fit in a TIFF; use --image-format png16"):
        encode_image(DEEP, "tiff16", 1)


def grey_png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def test_grey_images_keep_their_bits():
    grey = DEEP[..., 0]
    for data in (grey_png(grey), tiff(grey), tiff(65_535 - grey, photometric="miniswhite")):
        assert np.array_equal(deep(data), np.repeat(grey[..., None], 3, axis=2))


def test_colour_images_keep_their_bits():
    for data in (imagecodecs.png_encode(DEEP), tiff(DEEP, photometric="rgb")):
        assert np.array_equal(deep(bytes(data)), DEEP)


def test_transparency_is_laid_over_white():
    alpha = np.zeros((20, 30, 1), np.uint16)
    alpha[:10] = 65_535
    found = deep(bytes(imagecodecs.png_encode(np.concatenate([DEEP, alpha], axis=2))))
    assert np.array_equal(found[:10], DEEP[:10])
    assert found[10:].min() == 65_535


@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_stand_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp = (np.arange(20 * 30, dtype=np.uint16) * 100).reshape(20, 30)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG", exif=exif)
    found = deep(buffer.getvalue())
    upright = decode_image(buffer.getvalue(), max_pixels=10**6)
    assert np.abs(found / 257 - upright).max() <= 1
    assert np.unique(found).size == 600


def test_a_profile_that_the_shallow_reading_applied_is_applied():
    """Red and green are exchanged by a profile: which of the two readings is right is told by the 8 bits."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"sRGB", b"test"))
    srgb = srgb.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    red, green = (srgb.index(tag, 128) + 4 for tag in (b"rXYZ", b"gXYZ"))
    srgb[red : red + 8], srgb[green : green + 8] = srgb[green : green + 8], srgb[red : red + 8]
    smooth = (np.stack(np.broadcast_arrays(*np.ogrid[0:20, 0:30], 5), axis=2) * 1000).astype(np.uint16)
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", icc_profile=bytes(srgb), pnginfo=PngImagePlugin.PngInfo())
    chunks = png16.ancillary_chunks(small.getvalue())
    data = png16.with_chunks(bytes(imagecodecs.png_encode(smooth)), chunks)
    found = deep(data)
    assert np.abs(found[..., [1, 0, 2]].astype(int) - smooth).max() < 60  # a quarter of an 8-bit level
    assert np.unique(found[..., 0]).size == 30


def test_what_has_eight_bits_is_widened():
    shallow = (DEEP >> 8).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shallow).save(buffer, "PNG")
    assert np.array_equal(deep(buffer.getvalue()), shallow.astype(np.uint16) * 257)


def test_a_deep_reading_that_is_another_picture_is_not_used():
    data = grey_png(DEEP[..., 0])
    other = np.zeros((20, 30, 3), np.uint8)
    assert decode_image16(data, other, read_metadata(data, 10**6)).max() == 0
    assert decode_image16(data, other[:5], read_metadata(data, 10**6)).shape == (5, 30, 3)


def test_a_missing_package_is_said(monkeypatch):
    for image_format in ("png16", "tiff16"):
        deep_images.check_can_encode(image_format)
    monkeypatch.setattr(deep_images.importlib.util, "find_spec", lambda name: None)
    deep_images.check_can_encode("png")
    with pytest.raises(SettingsError, match=r"needs imagecodecs: pip install 'dmt-ray\[png16\]'"):
        deep_images.check_can_encode("png16")
    with pytest.raises(SettingsError, match=r"imagecodecs and tifffile: pip install 'dmt-ray\[tiff16\]'"):
        deep_images.check_can_encode("tiff16")


@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome", "scanner"])
def test_a_description_of_the_old_files_layout_is_left_out(kind, caplog):
    """A grey scan that tifffile, Fiji or a microscope wrote becomes a colour file, which has another layout."""
    buffer, grey = io.BytesIO(), DEEP[..., 0]
    if kind == "scanner":
        tifffile.imwrite(buffer, grey, metadata=None, description="The street in 1950")
    else:
        tifffile.imwrite(buffer, grey, **{kind: True})
    run = Provenance("colorize", "algorithmicallyEnhanced", "f" * 64, "1")
    beside = beside_pixels(read_metadata(buffer.getvalue(), 10**6), run, 30, 20, "tiff16", keep=True)
    data = encode_image(DEEP, "tiff16", 1, beside.attached)
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), DEEP)
    assert caplog.text == ""  # tifffile warns where a description is not of the pixels
    kept = Image.open(io.BytesIO(data)).getexif().get(0x010E)
    assert kept == ("The street in 1950" if kind == "scanner" else None)
