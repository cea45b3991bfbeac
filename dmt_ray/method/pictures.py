"""Pictures as arrays and as tensors: sizes, features of many, and what both editors do to them alike."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.vgg import VGG

#: Pictures that go through the network at a time when nothing else decides it.
BATCH = 8


def resize(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize (C, H, W) with an antialiasing bicubic filter."""
    return F.interpolate(planes[None], size=(height, width), mode="bicubic", align_corners=False, antialias=True)[0]


def to_tensor(rgb: np.ndarray) -> Tensor:
    """Return (3, H, W) float32 in 0..255 of a picture (H, W, 3) uint8."""
    return torch.tensor(rgb).permute(2, 0, 1).float()


def to_pixels(rgb: Tensor) -> np.ndarray:
    """Return (H, W, 3) uint8 of (3, H, W) in 0..255, rounded and clamped."""
    pixels: np.ndarray = rgb.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def working_rgb(rgb: np.ndarray, size: int) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 resized to (size, size, 3) uint8; the aspect ratio is not kept."""
    return to_pixels(resize(to_tensor(rgb), size, size))


def features(network: VGG, images: Tensor) -> list[np.ndarray]:
    """Return the maps of images (N, 3, size, size) in 0..255 as float16 arrays, a batch at a time."""
    parts: list[list[np.ndarray]] = [[] for _ in network.taps]
    with torch.inference_mode():
        for batch in images.split(BATCH):
            for part, tap in zip(parts, network(batch.to(network.device) / 255), strict=True):
                part.append(tap.half().cpu().numpy())
    return [np.concatenate(part) for part in parts]
