"""What can be decoded of a file whose end is missing: kept when asked for, and by nobody else at the same time."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image, ImageFile

from dmt_ray.errors import ImageError
from dmt_ray.storage.images import decode, decode_image

LIMIT = 1_000_000
NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def encoded(image_format: str, pixels: np.ndarray = NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def test_a_jpeg_without_its_end_marker_comes_whole():
    data = encoded("JPEG", quality=95)
    cut = data.removesuffix(b"\xff\xd9")
    assert cut != data
    with pytest.raises(ImageError, match="truncated"):
        decode(cut, max_pixels=LIMIT)
    found = decode(cut, max_pixels=LIMIT, accept_truncated=True)
    assert found.truncated
    assert np.array_equal(found.rgb, decode_image(data, max_pixels=LIMIT))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {})],
)
def test_half_a_file_gives_its_upper_rows(image_format, options):
    data = encoded(image_format, **options)
    whole = decode(data, max_pixels=LIMIT, accept_truncated=True)
    assert not whole.truncated
    half = decode(data[: len(data) // 2], max_pixels=LIMIT, accept_truncated=True)
    assert half.truncated
    assert half.rgb.shape == NOISE.shape
    rows = slice(-24, None) if image_format == "BMP" else slice(None, 24)  # a BMP file begins at the bottom
    if image_format not in ("GIF", "JPEG") or (image_format == "JPEG" and not options):
        assert np.array_equal(half.rgb[rows], whole.rgb[rows])


@pytest.mark.parametrize("image_format", ["WEBP", "AVIF", "JPEG"])
def test_nothing_to_keep_stays_an_error(image_format):
    data = encoded(image_format, np.tile(NOISE, (3, 3, 1)))
    short = data[: data.index(b"\xff\xda") + 14] if image_format == "JPEG" else data[: len(data) // 2]
    with pytest.raises(ImageError) as caught:
        decode(short, max_pixels=LIMIT, accept_truncated=True)
    assert caught.value.kind == "truncated"


def test_what_is_damaged_in_another_way_stays_an_error():
    for data, kind in ((b"", "empty"), (b"text" * 99, "not-an-image"), (encoded("PNG"), "too-large")):
        with pytest.raises(ImageError) as caught:
            decode(data, max_pixels=100, accept_truncated=True)
        assert caught.value.kind == kind


def test_one_thread_that_accepts_makes_no_other_one_accept():
    cut = encoded("JPEG", np.tile(NOISE, (4, 4, 1)))[:-5000]
    found: dict[bool, set[object]] = {True: set(), False: set()}

    def work(accept: bool) -> None:
        for _ in range(15):
            try:
                found[accept].add(decode(cut, max_pixels=LIMIT, accept_truncated=accept).truncated)
            except ImageError as error:
                found[accept].add(error.kind)

    threads = [threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {True: {True}, False: {"truncated"}}
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
