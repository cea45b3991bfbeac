"""Images that are too large, that claim to be, or that unpack to more than they should, are refused in time."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from pillow_files import decoded, encoded
from refused_images import failure


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large_is_refused_from_the_header():
    error = failure(png_header(60_000, 50_000), max_pixels=200_000_000)
    assert error.kind == "too-large"
    for word in ("3000000000 pixels", "limit is 200000000", "--max-pixels"):
        assert word in str(error)
    error = failure(png_header(20_000, 15_000), max_pixels=200_000_000)
    assert "20000 x 15000 = 300000000 pixels" in str(error)
    error = failure(encoded(Image.new("L", (101, 100)), "PNG"), max_pixels=10_000)
    assert error.kind == "too-large"
    assert "101 x 100" in str(error)
    assert decoded(encoded(Image.new("L", (100, 100)), "PNG"), max_pixels=10_000).shape == (100, 100, 3)


def claim_size(image_format: str, side: int) -> bytes:
    """A tiny file whose header claims side x side pixels."""
    small = Image.new("L", (16, 16))
    if image_format == "TIFF":
        data = encoded(small, "TIFF", compression="tiff_deflate")
        for tag in (256, 257):  # width and height, as 16 or 32 bits
            place = next(
                place for place in range(8, len(data)) if data[place : place + 2] == struct.pack("<H", tag)
                and data[place + 4 : place + 8] == struct.pack("<I", 1)
            )  # fmt: skip
            data = data[: place + 2] + struct.pack("<HII", 4, 1, side) + data[place + 12 :]
        return data
    if image_format == "WEBP":
        data = encoded(small.convert("RGB"), "WEBP", lossless=True)
        place = data.index(b"VP8L") + 9
        bits = int.from_bytes(data[place : place + 4], "little") >> 28 << 28
        return data[:place] + (bits | (side - 1) << 14 | (side - 1)).to_bytes(4, "little") + data[place + 4 :]
    if image_format == "GIF":
        data = encoded(small, "GIF")
        return data[:6] + struct.pack("<HH", side, side) + data[10:]
    return png_header(side, side)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "GIF"])
def test_a_tiny_file_that_claims_to_be_huge_is_refused(image_format):
    data = claim_size(image_format, 16_000)
    assert len(data) < 2000
    error = failure(data, max_pixels=200_000_000)
    assert error.kind == "too-large"
    assert "256000000 pixels" in str(error)


BOMBS = """
import io, resource, struct, sys, zlib
from dmt_ray.errors import ImageError
from dmt_ray.storage.images import decode_image

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

def png(*chunks, side=64):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")

bomb = zlib.compress(bytes(300_000_000), 9)
pixels = chunk(b"IDAT", zlib.compress(bytes(64 * 65)))
files = {
    "pixels": png(chunk(b"IDAT", bomb)),
    "text": png(chunk(b"zTXt", b"k\\0\\0" + bomb), pixels),
    "international text": png(chunk(b"iTXt", b"k\\0\\1\\0\\0\\0" + bomb), pixels),
    "profile": png(chunk(b"iCCP", b"k\\0\\0" + bomb), pixels),
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
del bomb
for name, data in files.items():
    assert len(data) < 1_000_000
    try:
        decode_image(data, max_pixels=1_000_000)
        print(name, "decoded")
    except ImageError as error:
        print(name, error.kind)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_compressed_bombs_inside_small_files_do_not_fill_the_memory():
    done = subprocess.run([sys.executable, "-c", BOMBS], check=True, capture_output=True, text=True, timeout=120)
    *kinds, grown = done.stdout.splitlines()
    assert len(kinds) == 4
    assert all(kind.endswith(("decoded", "unreadable", "too-large")) for kind in kinds), kinds
    assert int(grown) < 100_000  # KiB


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillows_own_limit_does_not_interfere_and_is_put_back(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(Image.new("RGB", (100, 100), (1, 2, 3)), "WEBP", lossless=True)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.extend(decoded(data, max_pixels=20_000) for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert failure(data, max_pixels=9_999).kind == "too-large"
    assert Image.MAX_IMAGE_PIXELS == 1000
