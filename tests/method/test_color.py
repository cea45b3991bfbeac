import numpy as np
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
