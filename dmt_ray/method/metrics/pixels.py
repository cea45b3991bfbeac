"""Figures of 8-bit RGB pictures: PSNR, SSIM, and how colourful they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: PSNR of identical pictures, which would be infinite; also the best that 8-bit rounding leaves distinguishable.
PSNR_IDENTICAL = 100.0


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) in dB of pictures (B, C, H, W) in 0..255, at most 100."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / error.clamp_min(1e-30))).clamp_max(PSNR_IDENTICAL)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (B,) of pictures (B, C, H, W) in 0..255 (Wang et al. 2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(a.float(), b.float(), data_range=255.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def colorfulness(rgb: np.ndarray) -> float:
    """Return how colourful a picture (H, W, 3) in 0..255 is, 0 for grey (Hasler and Suesstrunk 2003, M^(3))."""
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    a, b = red - green, (red + green) / 2 - blue
    return float(np.hypot(a.std(), b.std()) + 0.3 * np.hypot(a.mean(), b.mean()))
