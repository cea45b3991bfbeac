"""Verdicts: is a picture of the target class, as a network says that has no part in moving it?"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.conv_stack import ConvStack

#: Side in pixels that pictures are resized to, whatever their shape: what AlexNet was trained on.
PROBE_SIZE = 224
#: Cells along each side that a map is averaged to: where in the picture something is still counts a little.
_CELLS = 2


class Judge(Protocol):
    """Tells how much pictures look like the target class."""

    @property
    def margin(self) -> float:
        """The decision value that a result must exceed to count as flipped."""
        ...

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the decision value (B,) float64 of pictures (B, 3, H, W) in 0..255; above 0 is the target class."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a judge says of an image and of its result.

    Attributes:
        before, after: decision values of the input and of the result, both at working size; above 0 is the target.
        flipped: the result is of the target class; None where the input was so already.
    """

    before: float
    after: float
    flipped: bool | None

    @classmethod
    def of(cls, before: float, after: float, margin: float) -> Verdict:
        """Return the verdict on two decision values; a result must exceed ``margin`` to count as flipped."""
        return cls(before, after, None if before > 0 else after > margin)


def pooled_maps(stack: ConvStack, pictures: Tensor) -> Tensor:
    """Return a stack's maps of pictures (B, 3, H, W) in 0..255, each averaged to 2 x 2 cells, as (B, D)."""
    maps = stack(resized(pictures, PROBE_SIZE, PROBE_SIZE) / 255)
    return torch.cat([F.adaptive_avg_pool2d(tap, _CELLS).flatten(1) for tap in maps], 1)


class ProbeFeatures:
    """AlexNet's post-ReLU maps of all convolutions, each averaged to 2 x 2 cells, side by side.

    Parameters:
        arrays: AlexNet's convolutions by torchvision name.
        device: where to compute, in float32.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        self._stack = ConvStack(ALEXNET_LAYERS, arrays).to(device)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the features (B, 4608) float32 of pictures (B, 3, H, W) in 0..255."""
        with torch.inference_mode():
            return pooled_maps(self._stack, pictures.to(self._stack.mean.device))


class ProbeJudge:
    """A linear probe on AlexNet's features; see ``probe_fit`` for how it is fitted.

    Parameters:
        alexnet: AlexNet's convolutions by torchvision name; the network is built when it is first needed.
        arrays: ``judge_mean``, ``judge_scale`` and ``judge_coefficients`` (D,), ``judge_intercept`` (), float64.
        device: where to compute.
        margin: see ``Judge``.
    """

    def __init__(
        self,
        alexnet: Mapping[str, np.ndarray],
        arrays: Mapping[str, np.ndarray],
        device: torch.device,
        margin: float = 0.0,
    ) -> None:
        self.margin = margin
        self._alexnet, self._device = alexnet, device
        self._mean, self._scale, self._coefficients, self._intercept = (
            torch.tensor(arrays[f"judge_{name}"], dtype=torch.float64, device=device)
            for name in ("mean", "scale", "coefficients", "intercept")
        )

    @functools.cached_property
    def _features(self) -> ProbeFeatures:
        return ProbeFeatures(self._alexnet, self._device)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the log odds (B,) float64 that pictures (B, 3, H, W) in 0..255 are of the target class."""
        return self.score(self._features(pictures))

    def score(self, features: Tensor) -> Tensor:
        """Return the log odds (B,) float64 of features (B, D)."""
        return (features.double() - self._mean) / self._scale @ self._coefficients + self._intercept


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Resize pictures (B, 3, H, W) with an antialiasing bilinear filter, which stays within their range."""
    return F.interpolate(pictures, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
