"""Inversion: find the pixels whose features are the moved ones, by L-BFGS on a batch of images.

Gardner et al. 2015, section 3.4: 1/2 |phi_l(y) - t_l|^2 averaged over layers, plus total variation. Free are the
picture's colours, or only its chroma with the luma locked. Total variation may be taken on the edit, the difference
to where it starts from, which leaves the photo's own detail alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmt_ray.method import lbfgs
from dmt_ray.method.color import CHROMA_BOUND, to_rgb
from dmt_ray.method.inversion.preconditioner import SpectralPreconditioner
from dmt_ray.method.networks.feature_network import FeatureNetwork

#: Weight of the feature term, which makes tv weights of 10 to 30 useful with pixels in 8-bit units.
FEATURE_SCALE = 100.0

#: Fall of the preconditioner's spectrum where the search begins near the result, and where it begins from noise.
_NEAR_POWER, _FAR_POWER = 0.5, 1.0
#: Pairs in the quasi-Newton memory, likewise.
NEAR_HISTORY, FAR_HISTORY = 10, 50


class FeatureLoss(nn.Module):
    """Scaled mean over layers of 1/2 |phi_l - t_l|^2, one value per image.

    Parameters:
        scales: a factor per layer; none is 1 for each.
    """

    def __init__(self, scales: Sequence[float] = ()) -> None:
        super().__init__()
        self.scales = tuple(scales)

    def forward(self, maps: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return (B,) from maps and targets, each a list of (B, C, h, w)."""
        scales = self.scales or (1.0,) * len(maps)
        terms = [
            0.5 * scale * (a - b).square().flatten(1).sum(1)
            for a, b, scale in zip(maps, targets, scales, strict=True)
        ]
        return FEATURE_SCALE * torch.stack(terms).mean(0)


class HeldLayers(nn.Module):
    """Weighted, scaled sum over layers of 1/2 |phi_l - phi_l(input)|^2, one value per image."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, maps: Sequence[Tensor], held: Sequence[Tensor]) -> Tensor:
        """Return (B,) from maps and what they are held to, each a list of (B, C, h, w)."""
        terms = [0.5 * (a - b).square().flatten(1).sum(1) for a, b in zip(maps, held, strict=True)]
        return self.weight * FEATURE_SCALE * torch.stack(terms).sum(0)


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


class PictureObjective:
    """The objective over planes for a batch of pictures, as L-BFGS calls it.

    The planes are the chroma of pictures whose luma is locked, or the pictures' colours themselves.

    Parameters:
        network: the VGG whose taps the targets belong to.
        targets: moved features, one (B, C, h, w) per tap.
        anchor: (B, 2 or 3, H, W) planes the edit is measured from, in 8-bit units.
        tv_weight: weight of total variation.
        tv_on: ``edit`` takes it of the difference to the anchor; ``image`` of the planes, as the papers do.
        luma: (B, 1, H, W) in 0..255 to which chroma planes belong; None when the planes are colours.
        mask: (B, 1, H, W) in 0..1, how much of the edit each pixel takes; None takes all of it.
        held: taps that are held to the anchor's own features (the papers' layer regulariser).
        held_weight: their weight beside the targets' taps.
        scales: of the targets' taps, see ``FeatureLoss``; those of a rescaled network are ``tap_scales``.
        hold: what pictures (R, 3, H, W) of the rows (R,) pass through before the network sees them, such as a
            ``ChromaHold``; None for nothing.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        targets: Sequence[Tensor],
        anchor: Tensor,
        *,
        tv_weight: float,
        tv_on: str = "edit",
        luma: Tensor | None = None,
        mask: Tensor | None = None,
        held: Sequence[str] = (),
        held_weight: float = 0.0,
        scales: Sequence[float] = (),
        hold: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.network = network
        self.hold = hold
        self.targets = list(targets)
        self.anchor = anchor
        self.luma = luma
        self.mask = mask
        self.tv_on_image = tv_on == "image"
        self.feature_loss = FeatureLoss(scales)
        self.total_variation = TotalVariation(tv_weight)
        self.held = tuple(held) if held_weight > 0 else ()
        self.held_loss = HeldLayers(held_weight)
        self.held_maps: list[Tensor] = []
        if self.held:
            with torch.no_grad():
                self.held_maps = network(self.render(anchor, self.everything()) / 255, self.held)

    def everything(self) -> Tensor:
        """Return the rows (B,) of the whole batch."""
        return torch.arange(len(self.anchor), device=self.anchor.device)

    def render(self, planes: Tensor, rows: Tensor) -> Tensor:
        """Return pictures (R, 3, H, W) in 0..255 of planes for the images ``rows``."""
        if self.mask is not None:
            anchor = self.anchor[rows]
            planes = anchor + self.mask[rows] * (planes - anchor)
        picture: Tensor = planes if self.luma is None else to_rgb(self.luma[rows], planes)
        return picture if self.hold is None else self.hold(picture, rows)

    def features_term(self, planes: Tensor, rows: Tensor) -> Tensor:
        """Return the feature loss (R,) of planes for the images ``rows``."""
        value: Tensor = self.feature_loss(
            self.network(self.render(planes, rows) / 255), [target[rows] for target in self.targets]
        )
        return value

    def value(self, planes: Tensor, rows: Tensor) -> Tensor:
        """Return the objective (R,) at planes for the images ``rows``."""
        taps = self.network.taps
        maps = self.network(self.render(planes, rows) / 255, taps + self.held)
        value: Tensor = self.feature_loss(maps[: len(taps)], [target[rows] for target in self.targets])
        if self.held:
            value = value + self.held_loss(maps[len(taps) :], [tap[rows] for tap in self.held_maps])
        smooth = planes if self.tv_on_image else planes - self.anchor[rows]
        variation: Tensor = self.total_variation(smooth)
        return value + variation

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return value (R,) and gradient (R, n) at flattened planes x (R, n)."""
        with torch.enable_grad():
            planes = x.detach().view(-1, *self.anchor.shape[1:]).requires_grad_(True)
            value = self.value(planes, rows)
            (gradient,) = torch.autograd.grad(value.sum(), planes)
        return value.detach(), gradient.flatten(1)


@dataclass(frozen=True)
class Inversion:
    """What was found for a batch.

    Attributes:
        planes: (B, 2 or 3, H, W) chroma or colours in 8-bit units.
        feature_loss_before, feature_loss_after: (B,) feature term of the input and of the result, over
            ``FEATURE_SCALE``.
        iterations: (B,) L-BFGS steps taken.
    """

    planes: Tensor
    feature_loss_before: Tensor
    feature_loss_after: Tensor
    iterations: Tensor


def invert(
    objective: PictureObjective,
    initial: Tensor,
    *,
    before: Tensor,
    bounds: tuple[float, float],
    iterations: int,
    far: bool = False,
) -> Inversion:
    """Find the planes whose pictures have the target features.

    Parameters:
        objective: what to minimise.
        initial: planes to start from, of the anchor's shape.
        before: planes of the input, of the anchor's shape; only their feature loss is asked for.
        bounds: least and largest value of a plane.
        iterations: L-BFGS steps at most.
        far: the search begins far from any picture, as from noise, rather than near the result.
    """
    shape = (initial.shape[1], initial.shape[2], initial.shape[3])
    power = _FAR_POWER if far else _NEAR_POWER
    minimum = lbfgs.minimise(
        objective,
        initial.flatten(1),
        iterations=iterations,
        lower=bounds[0],
        upper=bounds[1],
        first_step=float(initial[0].numel()) ** 0.5,  # one 8-bit unit per pixel
        tolerance=1e-9 if far else 1e-6,
        history=FAR_HISTORY if far else NEAR_HISTORY,
        precondition=SpectralPreconditioner(shape, power, colour=far and shape[0] == 3, device=initial.device),
    )
    planes = minimum.x.view_as(initial)
    rows = objective.everything()
    with torch.no_grad():
        loss_before = objective.features_term(before, rows) / FEATURE_SCALE
        loss_after = objective.features_term(planes, rows) / FEATURE_SCALE
    return Inversion(planes, loss_before, loss_after, minimum.iterations)


def invert_chroma(
    network: FeatureNetwork,
    luma: Tensor,
    targets: Sequence[Tensor],
    start: Tensor,
    *,
    tv_weight: float,
    iterations: int,
    initial: Tensor | None = None,
    scales: Sequence[float] = (),
) -> Inversion:
    """Find the chroma planes whose picture has the target features, its luma (B, 1, H, W) locked.

    Total variation is taken on the difference to ``start`` (B, 2, H, W), which is also where the search begins unless
    ``initial`` says otherwise; the others are as for ``PictureObjective``.
    """
    objective = PictureObjective(network, targets, start, tv_weight=tv_weight, luma=luma, scales=scales)
    bounds = (-CHROMA_BOUND, CHROMA_BOUND)
    initial = start if initial is None else initial
    return invert(objective, initial, before=torch.zeros_like(start), bounds=bounds, iterations=iterations)
