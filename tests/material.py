"""What tests of several folders are made with: a picture, and the surroundings in which processes come to harm."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dmt_ray.storage.png_chunks import png_chunks

#: EXIF's number of the tag with the artist's name.
ARTIST = 0x013B


def photo(seed: int, width: int = 80, height: int = 64) -> Image.Image:
    """A smooth colourful picture: a few soft blobs on a gradient."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    rgb = np.stack([x * random.uniform(60, 200) + y * random.uniform(0, 120) for _ in range(3)], -1)
    for _ in range(4):
        center = random.uniform(0, 1, 2)
        blob = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / random.uniform(0.01, 0.1))
        rgb += blob[..., None] * random.uniform(-80, 160, 3)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def chaos_environment(hooks: Path) -> dict[str, str]:
    """What makes a process, and all that it starts, subject to the crashing driver and to a folder of hooks.

    They can import the modules of this folder too.
    """
    here = Path(__file__).parent
    paths = os.pathsep.join(filter(None, [str(here / "data" / "crashfs"), str(here), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": paths, "DMT_RAY_TEST_HOOKS": str(hooks)}


def but_for_the_run(images: Iterable[bytes | None]) -> list[bytes | None]:
    """Return what PNG files hold, without the fingerprint of the run that made them; runs with other options may be
    told to make the same."""

    def content(image: bytes) -> bytes:
        chunks = b"".join(kind + bytes(inside) for kind, inside in png_chunks(image))
        left, found = re.subn(rb"run [0-9a-f]{64}", b"run", chunks)
        assert found == 1
        return left

    return [content(image) if isinstance(image, bytes) else None for image in images]
