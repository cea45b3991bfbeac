"""From displacements to what an inversion needs: the moved features, and the pictures that it begins at.

Every kind of traversal moves features and pixels by one strength, so that twice the strength is more of both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmt_ray.method.displacement import Displacement
from dmt_ray.method.inversion.starting import log_difference, multiplied
from dmt_ray.method.traversal.class_patches import ClassPatches
from dmt_ray.method.traversal.manifold import Manifold
from dmt_ray.method.traversal.patches import Grid, standardised_norms


@dataclass(frozen=True)
class Moved:
    """Where a batch of pictures is moved to.

    Attributes:
        targets: the moved features, one (B, C, h, w) per tap.
        start: pictures (B, 3, H, W) in 0..255 to begin at and to measure the edit from.
        norms: (B,) Euclidean length of each move in standardised features.
    """

    targets: list[Tensor]
    start: Tensor
    norms: Tensor


class Moves(ABC):
    """How a batch of pictures moves: from its displacements to any step, or to any strength between."""

    @abstractmethod
    def step(self, number: int) -> Moved:
        """Return where a step of the displacements moves to."""

    @abstractmethod
    def strengths(self, strengths: Tensor) -> Moved:
        """Return where strengths (B,) move to, one for each picture, from 0 to that of the last step."""


class GlobalMoves(Moves):
    """Whole pictures move by coefficients over the exemplars, and by the classes' mean difference in pixels.

    Parameters:
        manifold: of the exemplars.
        maps: per tap, (B, C, h, w) maps of the pictures.
        images: (B, 3, H, W) in 0..255.
        displacements: one per picture, with array ``r`` (steps, K + 1).
        shrinkage: (D,) in 0..1, what is left of each unit's move; None leaves all.
        pixel_difference: (3, H, W) in 8-bit units, what pixels move by at strength 1.
    """

    def __init__(
        self,
        manifold: Manifold,
        maps: Sequence[Tensor],
        images: Tensor,
        displacements: Sequence[Displacement],
        shrinkage: Tensor | None,
        pixel_difference: Tensor,
    ) -> None:
        self._manifold, self._maps, self._images = manifold, list(maps), images
        self._x = manifold.standardise(maps)
        self._shrinkage, self._pixel_difference = shrinkage, pixel_difference
        self._r = torch.stack([torch.tensor(each.arrays["r"], device=images.device) for each in displacements])
        reached = [[figures.strength for figures in each.steps] for each in displacements]
        self._reached = self._r.new_tensor(reached)

    def step(self, number: int) -> Moved:
        """Return where a step of the displacements moves to."""
        return self._moved(self._r[:, number], self._reached[:, number])

    def strengths(self, strengths: Tensor) -> Moved:
        """Return where strengths (B,) move to; between the steps the coefficients are interpolated."""
        zero = torch.zeros_like(self._reached[:, :1])
        knots = torch.cat([zero, self._reached], 1)
        values = torch.cat([torch.zeros_like(self._r[:, :1]), self._r], 1)
        wanted = strengths.to(knots)
        above = torch.searchsorted(knots, wanted[:, None]).clamp(1, knots.shape[1] - 1)
        low, high = knots.gather(1, above - 1), knots.gather(1, above)
        share = ((wanted[:, None] - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        each = torch.arange(len(wanted), device=wanted.device)
        r = torch.lerp(values[each, above[:, 0] - 1], values[each, above[:, 0]], share)
        return self._moved(r, wanted)

    def _moved(self, r: Tensor, strengths: Tensor) -> Moved:
        moved = self._manifold.move(self._x, r)
        norms = (moved - self._x).norm(dim=1)
        if self._shrinkage is not None:
            moved = torch.lerp(self._x, moved, self._shrinkage)
        start = self._images + strengths.to(self._images)[:, None, None, None] * self._pixel_difference
        return Moved(self._manifold.unstandardise(moved, self._maps), start.clamp(0, 255), norms)


class LocalMoves(Moves):
    """Each patch moves from its nearest sources to its nearest targets, in features and in the pixels' logarithm.

    Parameters:
        patches: the exemplars' bank.
        maps: per tap, (B, C, h, w) maps of the pictures.
        images: (B, 3, H, W) in 0..255.
        match_grid: of the pictures' copies to match.
        displacements: one per picture, with arrays ``index`` and ``weight`` (match patches, k).
        pixel_share: how far pixels move beside features.
    """

    def __init__(
        self,
        patches: ClassPatches,
        maps: Sequence[Tensor],
        images: Tensor,
        match_grid: Grid,
        displacements: Sequence[Displacement],
        pixel_share: float,
    ) -> None:
        self._maps, self._images = list(maps), images
        changes, colors = [], []
        for b, displacement in enumerate(displacements):
            own = [tap[b : b + 1] for tap in maps]
            index = torch.tensor(displacement.arrays["index"], device=images.device).long()
            weight = torch.tensor(displacement.arrays["weight"], device=images.device).float()
            changes.append(patches.displacement(index, weight, match_grid, own))
            colors.append(log_difference(*patches.mean_colors(index, weight, match_grid)))
        self._changes = [torch.cat(taps) for taps in zip(*changes, strict=True)]
        self._colors = pixel_share * torch.stack(colors)
        self._norms = standardised_norms(self._changes, patches.deviations)
        self._asked = [[figures.strength for figures in each.steps] for each in displacements]

    def step(self, number: int) -> Moved:
        """Return where a step of the displacements moves to."""
        return self.strengths(self._images.new_tensor([asked[number] for asked in self._asked]))

    def strengths(self, strengths: Tensor) -> Moved:
        """Return where strengths (B,) move to."""
        far = strengths.to(self._images)[:, None, None, None]
        features = [tap + far * change for tap, change in zip(self._maps, self._changes, strict=True)]
        return Moved(features, multiplied(self._images, far * self._colors), strengths.to(self._norms) * self._norms)
