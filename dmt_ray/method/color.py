"""Luma and chroma: the full-range BT.601 transform of JPEG (ITU-T T.871), on tensors in 8-bit units."""

from __future__ import annotations

import torch
from torch import Tensor

#: Bounds of a chroma plane in 8-bit units, zero being neutral.
CHROMA_BOUND = 127.5


def luma(rgb: Tensor) -> Tensor:
    """Return Y (..., 1, H, W) of RGB (..., 3, H, W); both in the same units, such as 0..255."""
    red, green, blue = rgb.unbind(-3)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def chroma(rgb: Tensor) -> Tensor:
    """Return (Cb, Cr) (..., 2, H, W) of RGB (..., 3, H, W) in 8-bit units, zero being neutral."""
    y = luma(rgb).squeeze(-3)
    return torch.stack([(rgb.select(-3, 2) - y) / 1.772, (rgb.select(-3, 0) - y) / 1.402], dim=-3)


def to_rgb(y: Tensor, cb_cr: Tensor) -> Tensor:
    """Return RGB (..., 3, H, W) of luma (..., 1, H, W) and chroma (..., 2, H, W); values may leave 0..255."""
    y = y.squeeze(-3)
    cb, cr = cb_cr.unbind(-3)
    return torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], dim=-3)


def join_luma(y: Tensor, cb_cr: Tensor, full: float = 255.0) -> Tensor:
    """Return whole RGB (3, H, W) in 0..full whose luma lies within 0.3 of the luma given, and so rounds to it.

    Where a colour would leave 0..full its chroma is turned down, so that the luma stays; clamping the channels would
    change it. Green takes up what rounding red and blue does to the luma, which leaves 0.587 / 2 at most.

    Parameters:
        y: luma (1, H, W) in 0..full.
        cb_cr: chroma (2, H, W) in the same units.
        full: white.
    """
    way = to_rgb(torch.zeros_like(y), cb_cr)
    room = torch.where(way > 0, full - y, y) / way.abs().clamp_min(1e-6)
    share = room.amin(0).clamp(0, 1)
    red, blue = ((y[0] + share * way[channel]).round() for channel in (0, 2))
    green = ((y[0] - 0.299 * red - 0.114 * blue) / 0.587).round()
    return torch.stack([red, green, blue]).clamp(0, full)
