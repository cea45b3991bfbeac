"""The refusals that several decoders share."""

from __future__ import annotations

from dmt_ray.errors import ImageError


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture of too many pixels.

    Raises:
        ImageError: kind ``too-large``.
    """
    if width * height > max_pixels:
        raise too_large(f"{width} x {height} = {width * height} pixels", max_pixels)


def too_large(size: str, max_pixels: int) -> ImageError:
    """Return the error of a picture that has ``size``, such as "9 pixels"."""
    return ImageError("too-large", f"The image has {size}; the limit is {max_pixels} (raise it with --max-pixels).")


def one_line(error: BaseException) -> str:
    """Return an error's words on one line, without a full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] if text else type(error).__name__
