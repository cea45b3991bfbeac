"""Figures of 8-bit RGB pictures: PSNR, SSIM, and how colourful they are."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: PSNR of identical pictures, which would be infinite; also the best that 8-bit rounding leaves distinguishable.
PSNR_IDENTICAL = 100.0
#: Of SSIM, as Wang et al. 2004 have them: its Gaussian window's deviation and radius, and what stabilises both terms.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) in dB of pictures (B, C, H, W) in 0..255, at most 100."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / error.clamp_min(1e-30))).clamp_max(PSNR_IDENTICAL)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (B,) of pictures (B, C, H, W) in 0..255, with H and W above 5.

    Wang et al. 2004, averaged over pixels and channels; at the border pictures are reflected. A library's would do,
    but the one that works on torch (torchmetrics) takes each process longer to import than everything else together.
    """
    a, b = (F.pad(picture.float(), [_RADIUS] * 4, mode="reflect") for picture in (a, b))
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = (_blurred(a * a) - mean_a.square()).clamp_min(0)
    variance_b = (_blurred(b * b) - mean_b.square()).clamp_min(0)
    product = mean_a * mean_b
    covariance = _blurred(a * b) - product
    luminance = (2 * product + _C1) / (mean_a.square() + mean_b.square() + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).flatten(1).mean(1)


def _blurred(picture: Tensor) -> Tensor:
    """Return the Gaussian means of a picture (B, C, H, W) where the whole window lies inside of it.

    Sums and no convolution: CUDA rounds the latter to TF32, and the variance is a small difference of large numbers.
    """
    weights = [math.exp(-((k / _SIGMA) ** 2) / 2) for k in range(-_RADIUS, _RADIUS + 1)]
    for dim in (2, 3):
        length = picture.shape[dim] - 2 * _RADIUS
        total = torch.zeros_like(picture.narrow(dim, 0, length))
        for k, weight in enumerate(weights):
            total.add_(picture.narrow(dim, k, length), alpha=weight / sum(weights))
        picture = total
    return picture


def colorfulness(rgb: np.ndarray) -> float:
    """Return how colourful a picture (H, W, 3) in 0..255 is, 0 for grey (Hasler and Suesstrunk 2003, M^(3))."""
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    a, b = red - green, (red + green) / 2 - blue
    return float(np.hypot(a.std(), b.std()) + 0.3 * np.hypot(a.mean(), b.mean()))
