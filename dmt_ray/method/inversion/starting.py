"""Where an inversion begins: the picture with its colours moved as the exemplars' own pixels differ.

Features change texture readily and large areas hardly, so the pixels of the exemplars say what they know themselves:
grey hair, a dark sky. What the features do to colour in turn is left to the start, see ``ChromaHold``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method import color

#: Added to a colour in 0..255 before its logarithm is taken: the darkest shades would differ by too large factors.
_OFFSET = 16.0


def log_difference(source: Tensor, target: Tensor) -> Tensor:
    """Return by what the logarithm of colours changes between mean colours in 0..255, of any one shape."""
    return torch.log(target + _OFFSET) - torch.log(source + _OFFSET)


def multiplied(images: Tensor, change: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) in 0..255 whose colours are multiplied, so that texture darkens with its ground.

    Parameters:
        images: (B, 3, H, W) in 0..255.
        change: (B, 3, rows, columns) of the colours' logarithm, see ``log_difference``; upsampled bilinearly.
    """
    whole = F.interpolate(change, size=images.shape[2:], mode="bilinear", align_corners=False)
    return ((images + _OFFSET) * torch.exp(whole) - _OFFSET).clamp(0, 255)


class ChromaHold:
    """Holds the coarse chroma of pictures to that of others, and leaves luma and fine chroma alone.

    Features ask for colours that the exemplars' pixels do not have: aged faces turn red. The map is linear, so an
    inversion may go through it.

    Parameters:
        anchor: (B, 3, H, W) in 0..255, whose coarse chroma is held to.
        sigma: of the Gaussian that tells coarse from fine, in pixels.
    """

    def __init__(self, anchor: Tensor, sigma: float) -> None:
        radius = max(1, round(3 * sigma))
        reach = torch.arange(-radius, radius + 1, device=anchor.device, dtype=anchor.dtype)
        kernel = torch.exp(-(reach**2) / (2 * sigma**2))
        self._kernel, self._radius = kernel / kernel.sum(), radius
        self._anchor = self._coarse(color.chroma(anchor))

    def __call__(self, pictures: Tensor, rows: Tensor) -> Tensor:
        """Return pictures (R, 3, H, W) for the rows (R,) of the batch; values may leave 0..255."""
        chroma = color.chroma(pictures)
        held = chroma - self._coarse(chroma) + self._anchor[rows]
        return color.to_rgb(color.luma(pictures), held)

    def _coarse(self, planes: Tensor) -> Tensor:
        """Return planes (B, C, H, W) blurred by the Gaussian; edges are repeated."""
        channels, radius = planes.shape[1], self._radius
        row = self._kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        wide = F.pad(planes, (radius, radius, 0, 0), mode="replicate")
        blurred = F.conv2d(wide, row, groups=channels)
        high = F.pad(blurred, (0, 0, radius, radius), mode="replicate")
        return F.conv2d(high, row.transpose(2, 3), groups=channels)
