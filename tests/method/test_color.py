import numpy as np
import pytest
import torch
from PIL import Image

from dmt_ray.method import color


def test_round_trip_and_neutral_grey() -> None:
    rgb = torch.rand(2, 3, 5, 7) * 255
    torch.testing.assert_close(color.to_rgb(color.luma(rgb), color.chroma(rgb)), rgb, rtol=1e-4, atol=1e-3)
    grey = torch.full((1, 3, 2, 2), 91.0)
    torch.testing.assert_close(color.luma(grey), grey[:, :1])
    torch.testing.assert_close(color.chroma(grey), torch.zeros(1, 2, 2, 2), rtol=0, atol=1e-4)


def test_agrees_with_the_jpeg_transform_of_pillow() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(rgb).convert("YCbCr")).astype(float)
    tensor = torch.tensor(rgb).permute(2, 0, 1).float()
    ours = torch.cat([color.luma(tensor), color.chroma(tensor) + 128]).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 1.01


@pytest.mark.parametrize(("full", "dtype"), [(255, torch.uint8), (65_535, torch.int32)])
def test_joined_luma_is_the_photos_own_to_the_last_bit(full: int, dtype: torch.dtype) -> None:
    """Whatever the chroma: also where the colour would leave the range."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, full + 1, (1, 200, 300), generator=generator).float()
    y[0, :2, :] = full
    y[0, 2:4, :] = 0
    chroma = (torch.rand(2, 200, 300, generator=generator) - 0.5) * full
    rgb = color.join_luma(y, chroma, full)
    assert torch.equal(rgb, rgb.to(dtype).float())
    assert rgb.min() >= 0
    assert rgb.max() <= full
    back = color.luma(rgb.double())
    assert float((back - y).abs().max()) < 0.3
    assert torch.equal(back.round(), y.double())
    assert torch.equal(color.join_luma(y, torch.zeros_like(chroma), full), y.expand(3, -1, -1))


def test_chroma_inside_the_range_is_kept() -> None:
    rgb = torch.rand(3, 50, 60) * 255
    joined = color.join_luma(color.luma(rgb), color.chroma(rgb))
    assert float((joined[[0, 2]] - rgb[[0, 2]]).abs().max()) <= 0.51
    assert float((joined[1] - rgb[1]).abs().max()) <= 0.9
