"""The colours of a grey picture, and how sure they are: the prior's and the nearest patches', mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.colors.bank import ArrayStore, ColorBank, PatchStore
from dmt_ray.method.colors.describing import PatchDescriber, grid_of
from dmt_ray.method.colors.mixing import Mixing, vivid
from dmt_ray.method.colors.prior import ColorPrior
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import MATCH_SIZE, resize_batch
from dmt_ray.method.settings import TraversalConfig

#: Variance of luma, in 0..1, from which on an edge is an edge for colours.
_EDGE = 1e-3


@dataclass(frozen=True)
class FoundColors:
    """Colours of pictures.

    Attributes:
        chroma: (B, patches, 2) in 8-bit units.
        confidence: (B,) in 0..1.
        change: (B,) how far they move the features, standardised.
    """

    chroma: Tensor
    confidence: Tensor
    change: Tensor


class ColorFinder:
    """Finds colours for grey pictures.

    Parameters:
        network: has ``COLOR_LAYERS``.
        arrays: what ``build_bank`` returned, possibly as read-only views of shared memory; without ``patches`` where
            ``store`` gives them.
        settings: of the search and the prior.
        store: gives the references' patches.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        arrays: Mapping[str, np.ndarray],
        settings: TraversalConfig,
        store: PatchStore | None = None,
    ) -> None:
        self._settings = settings
        self._describer = PatchDescriber(network, arrays, MATCH_SIZE)
        self._bank = ColorBank(arrays["scenes"], store or ArrayStore(arrays["patches"]), network.device)
        self._prior: ColorPrior | None = None
        if settings.prior != "off" and ColorPrior.has(arrays):
            self._prior = ColorPrior(arrays, MATCH_SIZE, network.device)
            self._mixing = Mixing(*map(float, arrays["mixing"]))

    @torch.no_grad()
    def __call__(self, luma: Tensor) -> FoundColors:
        """Find the colours of pictures of luma (B, h, w) in 0..255."""
        settings, size = self._settings, self._describer.size
        planes = resize_batch(luma[:, None], size, size)[:, 0].clamp(0, 255)
        pictures = self._describer(planes)
        near = self._bank.search(pictures, settings)
        chroma, agreement = near.chroma, near.agreement
        if self._prior is not None:
            mirrored = self._prior(self._describer(planes.flip(2))).mean(0)
            known = (self._prior(pictures).mean(0) + mirror(mirrored, self._describer.grid)) / 2
            lengths = chroma.norm(dim=2) / agreement.clamp_min(1e-3)
            apart = self._mixing.mix(known.norm(dim=2), lengths)
            mixed = self._mixing.mix(known, chroma)
            agreement = mixed.norm(dim=2) / apart.clamp_min(0.5)
            chroma = vivid(mixed, self._mixing.vividness)
        length = chroma.norm(dim=2)
        confidence = (agreement * length).sum(1) / length.sum(1).clamp_min(1e-6)
        change = self._describer.change(planes, upsample(chroma, planes[:, None]))
        return FoundColors(chroma, confidence.clamp(0, 1), change)


def mirror(chroma: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return chroma (B, patches, 2) of a mirrored picture where its patches are in the picture itself."""
    turned: Tensor = chroma.unflatten(1, grid).flip(2).flatten(1, 2)
    return turned


def upsample(chroma: Tensor, luma: Tensor) -> Tensor:
    """Return chroma planes (B, 2, h, w) of chroma by patch (B, patches, 2), with edges where luma has them.

    Parameters:
        chroma: by patch of the match size.
        luma: (B, 1, h, w) in 0..255.
    """
    grid = grid_of(MATCH_SIZE)
    planes = F.interpolate(
        chroma.transpose(1, 2).unflatten(2, grid), size=luma.shape[2:], mode="bilinear", align_corners=False
    )
    return guided_filter(planes, luma / 255, max(1, luma.shape[-1] // grid[1]))


def guided_filter(planes: Tensor, guide: Tensor, radius: int) -> Tensor:
    """Smooth planes (B, C, h, w) but for edges of a guide (B, 1, h, w) in 0..1 (He et al. 2013, equation 8)."""

    def mean(values: Tensor) -> Tensor:
        padded = F.pad(values, (radius,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * radius + 1, 1)

    center, level = mean(guide), mean(planes)
    slope = (mean(guide * planes) - center * level) / (mean(guide * guide) - center * center + _EDGE)
    return mean(slope) * guide + mean(level - slope * center)
