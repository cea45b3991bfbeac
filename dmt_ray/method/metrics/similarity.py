"""How like its input a result is, by every measure that a row of the output tells."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.metrics.lpips import Lpips
from dmt_ray.method.metrics.pixels import psnr, ssim


class Similarity(NamedTuple):
    """PSNR in dB, SSIM in -1..1, and LPIPS, 0 and up, or None where it is not measured."""

    psnr: float
    ssim: float
    lpips: float | None


class SimilarityMeter:
    """Compares results with inputs.

    Parameters:
        lpips: arrays of ``lpips_shapes("vgg16")``; None leaves LPIPS out. Its network is built when first needed.
        device: where the pictures are.
    """

    def __init__(self, lpips: Mapping[str, np.ndarray] | None, device: torch.device) -> None:
        self._arrays, self._device = lpips, device

    @functools.cached_property
    def _lpips(self) -> Lpips | None:
        return None if self._arrays is None else Lpips("vgg16", self._arrays).to(self._device)

    def __call__(self, results: Tensor, inputs: Tensor) -> list[Similarity]:
        """Return the similarity of each of B pictures (B, 3, H, W) in 0..255 to its input."""
        nearness, similarity = psnr(results, inputs).tolist(), ssim(results, inputs).tolist()
        distances: list[float | None] = [None] * len(results)
        if self._lpips is not None:
            with torch.no_grad():  # one pair at a time: a pair of 1024 px takes 1.9 GB
                distances = [
                    float(self._lpips(results[b : b + 1] / 255, inputs[b : b + 1] / 255)) for b in range(len(results))
                ]
        return [Similarity(*each) for each in zip(nearness, similarity, distances, strict=True)]
