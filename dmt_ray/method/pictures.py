"""Pictures as arrays and as tensors: sizes, features of many, and what both editors do to them alike."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.networks.feature_network import FeatureNetwork

#: Pictures that go through the network at a time when nothing else decides it.
BATCH = 8
#: Pictures larger than this are matched as copies of this size: what a patch sees of the scene, and so the colours it
#: takes, then do not depend on the working size.
MATCH_SIZE = 128
#: Sides of a working picture are multiples of this, so that every tap's map has whole patches.
_STEP = 16
_LEAST_SIDE = 32
#: How much a smaller area counts beside a wrong aspect ratio, both as logarithms.
_AREA_WEIGHT = 0.25


@functools.lru_cache(maxsize=4096)
def working_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the working height and width of a picture that keeps its aspect ratio.

    Both are multiples of 16, at least 32, and span at most size x size pixels: of such shapes the one that is
    nearest in aspect ratio and area. A picture wider or higher than these allow is squeezed.

    Parameters:
        height, width: of the picture in pixels.
        size: side of the square of the same area; a multiple of 16.
    """
    limit, ratio = size * size, math.log(width / height)
    best, chosen = math.inf, (size, size)
    for rows in range(_LEAST_SIDE, limit // _LEAST_SIDE + 1, _STEP):
        for columns in range(_LEAST_SIDE, limit // rows + 1, _STEP):
            wrong = abs(math.log(columns / rows) - ratio) + _AREA_WEIGHT * math.log(limit / (rows * columns))
            if (wrong, -columns) < (best, -chosen[1]):
                best, chosen = wrong, (rows, columns)
    return chosen


def resize(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize (C, H, W) with an antialiasing bicubic filter."""
    return resize_batch(planes[None], height, width)[0]


def resize_batch(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize (B, C, H, W) as ``resize`` does; planes of that size come back as they are."""
    if planes.shape[2:] == (height, width):
        return planes
    return F.interpolate(planes, size=(height, width), mode="bicubic", align_corners=False, antialias=True)


def match_shape(height: int, width: int) -> tuple[int, int]:
    """Return the shape in which a working picture is matched: its own, or its ``working_shape`` at ``MATCH_SIZE``."""
    return (height, width) if height * width <= MATCH_SIZE**2 else working_shape(height, width, MATCH_SIZE)


def match_copies(images: Tensor) -> Tensor:
    """Return copies of pictures (B, 3, h, w) in 0..255 in their ``match_shape``; themselves if that is their own."""
    shape = match_shape(*images.shape[2:])
    if shape == tuple(images.shape[2:]):
        return images
    copies = F.interpolate(images, size=shape, mode="bicubic", align_corners=False, antialias=True)
    return copies.clamp(0, 255)


def to_tensor(rgb: np.ndarray) -> Tensor:
    """Return (3, H, W) float32 in 0..255 of a picture (H, W, 3) uint8, in 0..65535 of uint16."""
    return torch.tensor(rgb).permute(2, 0, 1).float()


def to_pixels(rgb: Tensor) -> np.ndarray:
    """Return (H, W, 3) uint8 of (3, H, W) in 0..255, rounded and clamped."""
    pixels: np.ndarray = rgb.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def working_rgb(rgb: np.ndarray, size: int, *, keep_aspect: bool = False) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 resized to (size, size, 3) uint8, or to its ``working_shape``."""
    shape = working_shape(*rgb.shape[:2], size) if keep_aspect else (size, size)
    return to_pixels(resize(to_tensor(rgb), *shape))


def fits_batch(batch: Sequence[np.ndarray], picture: np.ndarray) -> bool:
    """Tell whether a picture can be stacked with those of a batch: it has their shape, and there is room."""
    return not batch or (len(batch) < BATCH and batch[-1].shape == picture.shape)


def same_shaped(shapes: Sequence[tuple[int, ...] | None], most: int) -> list[list[int]]:
    """Return the places of all shapes in batches of one shape, of at most ``most``; None is a shape of its own."""
    by_shape: dict[tuple[int, ...] | None, list[int]] = {}
    for place, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(place)
    return [places[start : start + most] for places in by_shape.values() for start in range(0, len(places), most)]


def features(network: FeatureNetwork, images: Tensor) -> list[np.ndarray]:
    """Return the maps of images (N, 3, size, size) in 0..255 as float16 arrays, a batch at a time."""
    parts: list[list[np.ndarray]] = [[] for _ in network.taps]
    with torch.inference_mode():
        for batch in images.split(BATCH):
            for part, tap in zip(parts, network(batch.to(network.device) / 255), strict=True):
                part.append(tap.half().cpu().numpy())
    return [np.concatenate(part) for part in parts]


def upsample_edit(rgb: np.ndarray, difference: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Bring an edit that was made at working size to a picture's own resolution.

    The difference is upsampled and added, so the picture keeps the detail that the working size never had.

    Parameters:
        rgb: (H, W, 3) uint8 or uint16, the picture.
        difference: (3, h, w) float32, result minus picture at working size, in 8-bit units.
        mask: (H, W) uint8, the share of the edit that a pixel takes, 255 being all; where it is 0 the picture's pixel
            comes back as it is.

    Returns:
        (H, W, 3) of the picture's dtype.
    """
    height, width = rgb.shape[:2]
    full = float(np.iinfo(rgb.dtype).max)
    result = rgb.copy()
    share = None if mask is None else torch.from_numpy(mask).float() / 255
    for c in range(3):  # a channel at a time: a large photo in float32 takes twelve bytes a pixel
        plane = torch.from_numpy(np.ascontiguousarray(difference[c]))[None]
        whole = resize(plane, height, width)[0] * (full / 255)
        if share is not None:
            whole *= share
        whole += torch.tensor(rgb[..., c])
        result[..., c] = whole.clamp_(0, full).round_().numpy()
    return result


def match_color(images: Tensor, like: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give each channel of pictures (B, 3, H, W) the mean and deviation that ``like`` has, within the mask."""
    weight = torch.ones_like(images[:, :1]) if mask is None else mask
    total = weight.sum((2, 3), keepdim=True).clamp_min(1e-6)

    def moments(planes: Tensor) -> tuple[Tensor, Tensor]:
        mean = (planes * weight).sum((2, 3), keepdim=True) / total
        variance = ((planes - mean).square() * weight).sum((2, 3), keepdim=True) / total
        return mean, variance.sqrt()

    (mean, deviation), (wanted_mean, wanted_deviation) = moments(images), moments(like)
    return (images - mean) * (wanted_deviation / deviation.clamp_min(1e-3)) + wanted_mean
