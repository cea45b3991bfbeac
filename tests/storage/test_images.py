"""Every kind of image file that real collections hold becomes the right RGB, or an ImageError of a stable kind."""

from __future__ import annotations

import io
import pickle
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile
from pillow_files import decoded, encoded
from refused_images import failure

from dmt_ray.errors import ImageError
from dmt_ray.storage.images import decode_animation, encode_animation, encode_image


@pytest.fixture
def photo() -> np.ndarray:
    """48 x 64 x 3 uint8: smooth, so that lossy formats stay close, and different in every corner."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y * 2], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(photo, image_format):
    assert np.array_equal(decoded(encoded(Image.fromarray(photo), image_format)), photo)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("WEBP", {"quality": 95}),
        ("JPEG2000", {}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_lossy_formats_come_back_close(photo, image_format, options):
    rgb = decoded(encoded(Image.fromarray(photo), image_format, **options))
    assert np.abs(rgb.astype(int) - photo).mean() < 6


def test_one_pixel():
    rgb = decoded(encoded(Image.new("RGB", (1, 1), (10, 20, 30)), "PNG"))
    assert rgb.tolist() == [[[10, 20, 30]]]


def test_grey_one_bit_and_palette(photo):
    grey = Image.fromarray(photo).convert("L")
    assert np.array_equal(decoded(encoded(grey, "PNG")), np.asarray(grey.convert("RGB")))
    bits = grey.convert("1")
    assert np.array_equal(decoded(encoded(bits, "PNG")), np.asarray(bits.convert("RGB")))
    palette = Image.fromarray(photo).quantize(64)
    assert np.array_equal(decoded(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_transparency_is_laid_over_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 100, 0, 255)
    rgba[0, 1] = (200, 100, 0, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    for image_format in ("PNG", "TIFF"):
        rgb = decoded(encoded(Image.fromarray(rgba), image_format))
        assert rgb[0, 0].tolist() == [200, 100, 0]
        assert rgb[0, 1].tolist() == [255, 255, 255]
        assert abs(int(rgb[1, 0, 0]) - 127) <= 1
    la = Image.fromarray(rgba).convert("LA")
    assert decoded(encoded(la, "PNG"))[0, 1].tolist() == [255, 255, 255]


def test_transparent_palette_and_colour_key():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for image_format in ("PNG", "GIF"):
        rgb = decoded(encoded(image, image_format, transparency=1))
        assert rgb.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((1, 0), (9, 9, 9))
    assert decoded(encoded(keyed, "PNG", transparency=(9, 9, 9))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def adobe_cmyk_jpeg(size=(8, 8), ink=(0, 255, 255, 0)) -> bytes:
    """A CMYK JPEG; Pillow writes it as Adobe's programs do: inverted, with an Adobe marker."""
    data = encoded(Image.new("CMYK", size, ink), "JPEG", quality=100)
    assert b"Adobe" in data
    return data


def test_cmyk_jpeg_and_tiff():
    red = decoded(adobe_cmyk_jpeg())
    assert np.abs(red.astype(int) - (255, 0, 0)).max() <= 3
    cyan = decoded(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"))
    assert np.array_equal(cyan[0, 0], (0, 255, 255))


def grey16() -> np.ndarray:
    return np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(image_format):
    rgb = decoded(encoded(Image.fromarray(grey16()), image_format))
    assert np.array_equal(rgb[..., 0].ravel(), np.arange(256))
    assert np.array_equal(rgb[..., 0], rgb[..., 2])


def big_endian_tiff(samples: np.ndarray, *, photometric: int = 1, kind: int = 1) -> bytes:
    """A minimal uncompressed big-endian grey TIFF; kind: 1 unsigned, 2 signed, 3 float."""
    height, width = samples.shape
    bits = samples.dtype.itemsize * 8
    pixels = samples.astype(samples.dtype.newbyteorder(">")).tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1)]
    entries += [(278, height), (279, len(pixels)), (339, kind)]
    offset = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(struct.pack(">HHII", tag, 4, 1, offset if tag == 273 else value) for tag, value in entries)
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + body + struct.pack(">I", 0) + pixels


def test_big_endian_and_white_is_zero_16_bit_tiff():
    grey = decoded(big_endian_tiff(grey16()))[..., 0]
    assert np.array_equal(grey.ravel(), np.arange(256))
    little = encoded(Image.fromarray(grey16()), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(decoded(little)[..., 0].ravel(), 255 - np.arange(256))


def test_32_bit_integer_and_float_grey():
    ramp = np.arange(256, dtype=np.int32).reshape(16, 16)
    for values in (ramp * 257, ramp * 8_000_000):
        rgb = decoded(encoded(Image.fromarray(values.astype(np.int32)), "TIFF"))
        assert np.array_equal(rgb[..., 0], ramp)
    for scale in (1 / 255, 1.0, 257.0):
        rgb = decoded(encoded(Image.fromarray((ramp * scale).astype(np.float32)), "TIFF"))
        assert np.array_equal(rgb[..., 0], ramp)
    holes = np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    assert decoded(encoded(Image.fromarray(holes), "TIFF"))[..., 0].tolist() == [[0, 255], [0, 128]]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(image_format):
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert np.abs(decoded(data).astype(int) - (250, 0, 0)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image_format in ("PNG", "TIFF"):
        rgb = decoded(encoded(Image.fromarray(photo), image_format, exif=exif))
        expected = {
            1: photo,
            2: photo[:, ::-1],
            3: photo[::-1, ::-1],
            4: photo[::-1],
            5: photo.transpose(1, 0, 2),
            6: np.rot90(photo, -1),
            7: np.rot90(photo, 2).transpose(1, 0, 2),
            8: np.rot90(photo, 1),
        }[orientation]
        assert np.array_equal(rgb, expected), image_format


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_keeps_the_picture(photo):
    data = encoded(Image.fromarray(photo), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decoded(data).shape == photo.shape


def test_a_colour_profile_is_applied_and_srgb_or_a_broken_one_is_not(photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decoded(encoded(Image.fromarray(photo), "PNG", icc_profile=srgb)), photo)
    assert np.array_equal(decoded(encoded(Image.fromarray(photo), "PNG", icc_profile=b"nonsense" * 40)), photo)
    swapped = swap_red_and_blue(srgb)
    rgb = decoded(encoded(Image.fromarray(photo), "PNG", icc_profile=swapped))
    assert np.abs(rgb.astype(int) - photo[..., ::-1]).max() <= 3
    # Transparency survives the conversion.
    rgba = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])
    assert decoded(encoded(Image.fromarray(rgba), "PNG", icc_profile=swapped)).min() == 255


def swap_red_and_blue(srgb: bytes) -> bytes:
    """An RGB profile whose red primary is sRGB's blue and the other way round, under another name."""
    return (
        srgb.replace(b"rXYZ", b"tmpX")
        .replace(b"bXYZ", b"rXYZ")
        .replace(b"tmpX", b"bXYZ")
        .replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    )


def test_a_png_under_any_name_works_and_text_does_not(photo):
    assert np.array_equal(decoded(encoded(Image.fromarray(photo), "PNG")), photo)
    assert failure(b"this is a text in a file called photo.jpg\n" * 20).kind == "not-an-image"
    assert failure(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n").kind == "not-an-image"
    assert failure(b"\0" * 4096).kind == "not-an-image"


def test_empty():
    assert failure(b"").kind == "empty"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {})],
)
def test_truncated(image_format, options, share):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format, **options)
    error = failure(data[: int(len(data) * share)])
    assert error.kind == "truncated"


@pytest.mark.parametrize("image_format", ["TIFF", "JPEG2000", "AVIF"])
def test_truncated_in_formats_that_cannot_tell_why(image_format):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    assert failure(data[: len(data) // 3]).kind in ("truncated", "unreadable")


def test_truncated_images_are_never_accepted():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_encode_round_trip(photo):
    assert np.array_equal(decoded(encode_image(photo, "png", 1)), photo)
    for image_format, magic in (("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")):
        data = encode_image(photo, image_format, 95)
        assert data.startswith(magic)
        assert np.abs(decoded(data).astype(int) - photo).mean() < 6
        assert len(encode_image(photo, image_format, 30)) < len(data)
    assert Image.open(io.BytesIO(encode_image(photo, "jpeg", 90))).layer[1][1:3] == (1, 1)


def test_encode_refuses_what_does_not_fit(photo):
    with pytest.raises(ImageError, match="16383") as caught:
        encode_image(np.zeros((1, 16_384, 3), np.uint8), "webp", 90)
    assert caught.value.kind == "too-large"
    for wrong in (photo[..., 0], photo.astype(np.float32)):
        with pytest.raises(ValueError, match="expected"):
            encode_image(wrong, "png", 90)
    with pytest.raises(ValueError, match="tga"):
        encode_image(photo, "tga", 90)


def test_an_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(failure(b"")))
    assert (error.kind, str(error)) == ("empty", "The image has no bytes.")


@pytest.mark.parametrize("image_format", ["webp", "gif"])
def test_an_animation_comes_back_frame_by_frame(image_format):
    frames = [np.full((24, 32, 3), value, np.uint8) for value in (20, 120, 220)]
    decoded = list(decode_animation(encode_animation(frames, image_format)))
    assert [frame.shape for frame in decoded] == [(24, 32, 3)] * 3
    for frame, found in zip(frames, decoded, strict=True):
        assert np.abs(frame.astype(int) - found).max() <= 3
    with pytest.raises(ImageError) as caught:
        list(decode_animation(encode_animation(frames, image_format)[:40]))
    assert caught.value.kind == "unreadable"
