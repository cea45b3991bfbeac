"""How an image is refused, for the tests of decoding."""

import pytest

from dmt_ray.errors import ImageError
from dmt_ray.storage.images import decode_image


def failure(data: bytes, max_pixels: int = 1_000_000) -> ImageError:
    """Return the error that decoding raises, whose message is one line."""
    with pytest.raises(ImageError) as caught:
        decode_image(data, max_pixels=max_pixels)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value
