"""Two thousand and more damaged image files through the reader: each a picture or a reason, no crash, no hang."""

from __future__ import annotations

import io
import queue
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from dmt_ray.storage.decoding import extra_formats

COUNT = 2400
#: A file that takes longer than this hangs: the slowest takes a fraction of a second.
SECONDS_PER_FILE = 60

READ = """
import sys
from pathlib import Path
from dmt_ray.errors import ImageError
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs.reader import InputReader

reader = InputReader(max_bytes=1_000_000)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        rgb = decode_image(reader.read_file(str(path)), max_pixels=1_000_000)
        assert rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.dtype == "uint8" and rgb.size
        print(path.name, "picture", flush=True)
    except ImageError as error:
        assert str(error) and "\\n" not in str(error)
        print(path.name, error.kind, flush=True)
"""


def seeds() -> list[bytes]:
    """One small sound file of every kind that is read."""
    extra_formats.load("pillow_heif", "")
    y, x = np.mgrid[0:48, 0:64]
    image = Image.fromarray(np.stack([x * 4, y * 5, 255 - x * 2 - y * 2], axis=-1).clip(0, 255).astype(np.uint8))
    deep = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    frames = {"save_all": True, "append_images": [image.rotate(90, expand=False)], "duration": 50}
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (image, "JPEG", {"exif": exif}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {}),
        (image.quantize(16), "PNG", {"transparency": 1}),
        (deep, "PNG", {}),
        (image, "PNG", frames),
        (image, "GIF", frames),
        (image, "WEBP", {}),
        (image, "WEBP", {"lossless": True, **frames}),
        (image, "TIFF", {}),
        (image, "TIFF", {"compression": "tiff_lzw"}),
        (image, "TIFF", {"compression": "tiff_deflate"}),
        (image, "TIFF", {"compression": "jpeg"}),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        (deep, "TIFF", {}),
        (image, "BMP", {}),
        (image, "PPM", {}),
        (image, "JPEG2000", {}),
        (image, "AVIF", {}),
        (image, "HEIF", {}),
        (image, "HEIF", frames),
    ]
    made = [
        imagecodecs.jpegxl_encode(np.asarray(image), level=80),
        tiff(np.asarray(image).astype(np.uint16).transpose(2, 0, 1) * 257, compression="zlib"),
        tiff(np.asarray(image).astype(np.uint16).transpose(2, 0, 1) * 257, compression="lzw", tile=(16, 16)),
        tiff(np.asarray(image).astype(np.uint16).transpose(2, 0, 1) * 257),
        raw(),
    ]
    for picture, image_format, options in kinds:
        buffer = io.BytesIO()
        picture.save(buffer, image_format, **options)
        made.append(buffer.getvalue())
    return made


def tiff(planes: np.ndarray, **options: object) -> bytes:
    """A kind that Pillow reads wrongly."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, planes, photometric="rgb", planarconfig="separate", **options)
    return buffer.getvalue()


def raw() -> bytes:
    """A minimal DNG file."""
    buffer = io.BytesIO()
    tags = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50706, "B", 4, (1, 4, 0, 0), True),
        (50708, "s", None, "Test Camera", True),
        (50721, "2i", 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True),
    ]
    tifffile.imwrite(buffer, np.full((48, 64), 9000, np.uint16), photometric=32803, metadata=None, extratags=tags)
    return buffer.getvalue()


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Change bytes (more often near the start, where the structure is), and sometimes cut, repeat or splice."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 40))):
        reach = min(len(changed), rng.choice((64, 512, len(changed))))
        changed[rng.randrange(reach)] = rng.choice((rng.randrange(256), 0, 255, 127, 128))
    kind = rng.random()
    start, end = sorted((rng.randrange(len(changed)), rng.randrange(len(changed))))
    if kind < 0.15:
        del changed[start:]
    elif kind < 0.25:
        del changed[start:end]
    elif kind < 0.35:
        changed[start:start] = changed[start:end]
    elif kind < 0.4:
        changed[start:] = other[min(start, len(other) - 1) :]
    return bytes(changed)


def test_damaged_files(tmp_path: Path):
    rng = random.Random(0)
    sound = seeds()
    for index in range(COUNT):
        name = tmp_path / f"{index:04d}"
        name.write_bytes(mutate(sound[index % len(sound)], rng, sound[rng.randrange(len(sound))]))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    errors: list[str] = []
    assert child.stdout is not None
    assert child.stderr is not None
    out, err = child.stdout, child.stderr
    threads = [
        threading.Thread(target=drain, args=(out, lines)),
        threading.Thread(target=lambda: errors.append(err.read())),
    ]
    for thread in threads:
        thread.start()
    fates: Counter[str] = Counter()
    try:
        for index in range(COUNT):
            try:
                line = lines.get(timeout=SECONDS_PER_FILE)
            except queue.Empty:
                raise AssertionError(f"file {index} hangs") from None
            assert line, f"file {index} ends the process with {child.wait()}: {''.join(errors)[-2000:]}"
            name, fate = line.split()
            assert name == f"{index:04d}"
            fates[fate] += 1
    finally:
        child.kill()
        child.wait()
        for thread in threads:
            thread.join()
    assert set(fates) <= {"picture", "empty", "not-an-image", "unsupported", "truncated", "too-large", "unreadable"}
    assert min(fates[kind] for kind in ("picture", "truncated", "unreadable", "too-large", "not-an-image")) >= 5, (
        fates
    )


def drain(stream, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
