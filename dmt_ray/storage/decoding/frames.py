"""How many frames or pages a file has, without decoding them."""

from __future__ import annotations

from PIL import Image

from dmt_ray.storage.decoding.decoded import MOST_FRAMES

_GIF_IMAGE, _GIF_EXTENSION = 0x2C, 0x21


def count_frames(image: Image.Image, data: bytes) -> int | None:
    """Return the frames of an opened image that is no TIFF; 1 where it cannot have more, None where nothing tells."""
    if image.format == "GIF":
        return gif_frames(data)
    try:
        if image.format == "MPO":
            return _mpo_pictures(image)
        return max(1, min(int(getattr(image, "n_frames", 1)), MOST_FRAMES))
    except Exception:  # a damaged index must not lose a sound picture
        return None


def gif_frames(data: bytes) -> int:
    """Return the number of images in a GIF, at least 1; what lies behind damage does not count."""
    place = 13 + _palette_bytes(data[10] if len(data) > 10 else 0)
    found = 0
    while place < len(data):
        kind = data[place]
        if kind == _GIF_IMAGE and place + 10 <= len(data):
            place += 10 + _palette_bytes(data[place + 9]) + 1
            found += 1
        elif kind == _GIF_EXTENSION:
            place += 2
        else:
            break
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
    return max(found, 1)


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _mpo_pictures(image: Image.Image) -> int:
    """Return the pictures of a multi-picture JPEG, without previews, gain maps and the like."""
    entries = getattr(image, "mpinfo", {}).get(0xB002, [])
    return max(1, sum(str(entry["Attribute"]["MPType"]).startswith("Multi-Frame") for entry in entries))
