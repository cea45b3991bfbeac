"""Inversion: find the pixels whose features are the moved ones, by L-BFGS on a batch of images.

Section 4 of the method: 1/2 |phi_l(y) - t_l|^2 averaged over layers, plus total variation. Here y keeps the input's
luma and only its chroma planes are free, and total variation is taken on the edit, the difference to the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmt_ray.method import lbfgs
from dmt_ray.method.color import CHROMA_BOUND, to_rgb
from dmt_ray.method.vgg import VGG

#: Weight of the feature term, which makes tv weights of 10 to 30 useful with pixels in 8-bit units.
FEATURE_SCALE = 100.0


class FeatureLoss(nn.Module):
    """Scaled mean over layers of 1/2 |phi_l - t_l|^2, one value per image."""

    def forward(self, maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return (B,) from maps and targets, each a list of (B, C, h, w)."""
        terms = [0.5 * (a - b).square().flatten(1).sum(1) for a, b in zip(maps, targets, strict=True)]
        return FEATURE_SCALE * torch.stack(terms).mean(0)


class TotalVariation(nn.Module):
    """Weighted sum of squared differences between neighbouring pixels (beta = 2), one value per image."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, planes: Tensor) -> Tensor:
        """Return (B,) from planes (B, C, H, W)."""
        dx = (planes[..., :, 1:] - planes[..., :, :-1]).square().flatten(1).sum(1)
        dy = (planes[..., 1:, :] - planes[..., :-1, :]).square().flatten(1).sum(1)
        return self.weight * (dx + dy)


class ChromaObjective:
    """The objective over chroma planes for a batch with locked luma, as L-BFGS calls it.

    Parameters:
        network: the VGG whose taps the targets belong to.
        luma: (B, 1, H, W) in 0..255.
        targets: moved features, one (B, C, h, w) per tap.
        start: (B, 2, H, W) chroma the edit is measured from, in 8-bit units.
        tv_weight: weight of total variation on the edit.
    """

    def __init__(
        self, network: VGG, luma: Tensor, targets: Sequence[Tensor], start: Tensor, *, tv_weight: float
    ) -> None:
        self.network = network
        self.luma = luma
        self.targets = list(targets)
        self.start = start
        self.feature_loss = FeatureLoss()
        self.total_variation = TotalVariation(tv_weight)

    def features_term(self, chroma: Tensor, rows: Tensor) -> Tensor:
        """Return the feature loss (R,) of chroma (R, 2, H, W) for the images ``rows``."""
        maps = self.network(to_rgb(self.luma[rows], chroma) / 255)
        value: Tensor = self.feature_loss(maps, [target[rows] for target in self.targets])
        return value

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return value (R,) and gradient (R, n) at flattened chroma x (R, n)."""
        with torch.enable_grad():
            chroma = x.detach().view(-1, *self.start.shape[1:]).requires_grad_(True)
            value = self.features_term(chroma, rows) + self.total_variation(chroma - self.start[rows])
            (gradient,) = torch.autograd.grad(value.sum(), chroma)
        return value.detach(), gradient.flatten(1)


@dataclass(frozen=True)
class Inversion:
    """Chroma found for a batch.

    Attributes:
        chroma: (B, 2, H, W) in 8-bit units.
        feature_loss_before, feature_loss_after: (B,) feature term of the grey input and of the result, unscaled.
        iterations: (B,) L-BFGS steps taken.
    """

    chroma: Tensor
    feature_loss_before: Tensor
    feature_loss_after: Tensor
    iterations: Tensor


def invert_chroma(
    network: VGG,
    luma: Tensor,
    targets: Sequence[Tensor],
    start: Tensor,
    *,
    tv_weight: float,
    iterations: int,
) -> Inversion:
    """Find the chroma planes whose picture has the target features; arguments as for ``ChromaObjective``."""
    objective = ChromaObjective(network, luma, targets, start, tv_weight=tv_weight)
    rows = torch.arange(luma.shape[0], device=luma.device)
    minimum = lbfgs.minimise(
        objective,
        start.flatten(1),
        iterations=iterations,
        lower=-CHROMA_BOUND,
        upper=CHROMA_BOUND,
        first_step=float(start[0].numel()) ** 0.5,  # one 8-bit unit per pixel
        tolerance=1e-6,
    )
    chroma = minimum.x.view_as(start)
    with torch.no_grad():
        before = objective.features_term(torch.zeros_like(start), rows) / FEATURE_SCALE
        after = objective.features_term(chroma, rows) / FEATURE_SCALE
    return Inversion(chroma, before, after, minimum.iterations)
