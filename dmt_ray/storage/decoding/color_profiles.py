"""Pictures of any colour mode to sRGB: by their embedded profiles where they have sound ones, over white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

#: Profiles that change no colour by more levels of 255 than this are sRGB's; the rest is rounding.
_ROUNDING = 2
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}


def to_srgb(image: Image.Image, profile: object = None) -> Image.Image:
    """Return a picture as 8-bit RGB in sRGB, with transparency laid over white.

    Parameters:
        image: of any mode of at most 8 bits a channel.
        profile: ICC profile of its colours; anything unsound is ignored.
    """
    alpha = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa", "RGBX") or image.has_transparency_data:
        if image.mode != "RGBX":
            if image.mode == "La":
                image = image.convert("LA")
            rgba = image.convert("RGBA")
            alpha = rgba.getchannel("A")
            # A grey profile applies to one channel, so keep one.
            image = rgba.getchannel("R") if image.mode in ("L", "LA", "1") else rgba.convert("RGB")
        else:
            image = image.convert("RGB")
    elif image.mode in ("P", "YCbCr", "HSV"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        rgb = converted
    else:
        rgb = apply_profile(image, profile) or image.convert("RGB")
    return rgb if alpha is None else over_white(rgb, alpha)


def over_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Lay a picture over white."""
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white


def apply_profile(image: Image.Image, profile: object) -> Image.Image | None:
    """Return an L, RGB or CMYK picture converted to sRGB by a profile.

    Returns:
        None where there is nothing to apply: no profile, an unsound one, one of another colour space, or sRGB's own,
        whatever it is called.
    """
    if not isinstance(profile, bytes) or not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES.get(image.mode):
            return None
        # Little CMS speeds a grey transform up by a coarse table, which is wrong by ten levels in the dark.
        flags = ImageCms.Flags.NOOPTIMIZE if image.mode == "L" else ImageCms.Flags.NONE
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, image.mode, "RGB", flags=flags)
        if image.mode != "CMYK" and _changes_nothing(transform, image.mode):
            return None
        if image.mode == "L":
            return _by_table(image, transform)
        return ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None


def _by_table(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    table = ImageCms.applyTransform(_RAMP, transform)
    assert table is not None
    return Image.merge("RGB", [image.point(channel.tobytes()) for channel in table.split()])


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether a transform to sRGB leaves all colours as they are, but for rounding; names prove nothing."""
    probe = _LATTICE if mode == "RGB" else _RAMP
    converted = ImageCms.applyTransform(probe, transform)
    assert converted is not None
    before, after = (np.asarray(each.convert("RGB"), np.int16) for each in (probe, converted))
    return bool(np.abs(before - after).max() <= _ROUNDING)


_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
_LATTICE = Image.fromarray(
    np.stack(np.meshgrid(*[np.linspace(0, 255, 16).astype(np.uint8)] * 3, indexing="ij"), axis=-1).reshape(16, 256, 3)
)
