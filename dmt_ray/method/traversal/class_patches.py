"""Local traversal between unpaired classes: every patch moves from its nearest sources to its nearest targets.

The move of a patch is the mean of its nearest target patches less the mean of its nearest source patches, both
weighted by a kernel on the similarity. Up to the kernel's width this is the gradient of log p_target - log p_source
under kernel density estimates of the two classes (mean shift, Comaniciu & Meer 2002, section 2), so each patch climbs
where the target class is denser and the source class is not. Nothing has to be aligned, which global traversal needs.

Patches are matched on copies of at most ``pictures.MATCH_SIZE``; features move on a grid of their own.
Each class is described relative to its own mean and deviation, so that a sky by day finds skies by night although
they differ; the picture that is moved counts as a source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.traversal.balancing import exemplar_weights
from dmt_ray.method.traversal.device_blocks import as_tensor
from dmt_ray.method.traversal.patches import (
    BankLayout,
    Grid,
    coarseness,
    describe,
    describe_scene,
    match_tap,
    mix_patches,
    nearest_patches,
    positions,
)


@dataclass(frozen=True)
class PatchSearch:
    """How the nearest patches are found and weighted.

    Attributes:
        neighbors: nearest patches of each class.
        width: of the softmax over similarities.
        scene_weight: weight of the whole pictures' similarity beside that of their patches.
        position_weight: coordinates in -1..1, times this, count as part of the descriptor; 0 looks everywhere alike.
    """

    neighbors: int
    width: float
    scene_weight: float
    position_weight: float


class ClassPatches:
    """A bank of exemplar patches of both classes.

    Parameters:
        arrays: what ``ClassPatchesBuilder.finish`` returned, with ``exemplar_weights`` where exemplars have weights;
            may be read-only views of shared memory or of a file.
        taps: names of the taps, in the order of every list of maps.
        device: where to compute; the bank is copied there once.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        taps: Sequence[str],
        device: torch.device,
    ) -> None:
        self._match = match_tap(taps)
        self.sources, self.targets = int(arrays["sources"]), int(arrays["targets"])
        self.layout = BankLayout(arrays["match_grids"].tolist(), arrays["grids"].tolist(), device)
        self.split = int(arrays["match_grids"][: self.sources].prod(1).sum())
        self.projection = as_tensor(arrays["projection"], device)
        self.descriptors = as_tensor(arrays["descriptors"], device)
        self.scenes = as_tensor(arrays["scenes"], device)
        self.colors = as_tensor(arrays["colors"], device)
        self.means = [as_tensor(arrays[f"mean_{k}"], device) for k in range(len(taps))]
        self.deviations = [as_tensor(arrays[f"deviation_{k}"], device) for k in range(len(taps))]
        self.banks = [as_tensor(arrays[f"patches_{k}"], device) for k in range(len(taps))]
        self.device = device
        counts = np.array([self.sources] * self.sources + [self.targets] * self.targets, np.float64)
        relative = exemplar_weights(arrays) * counts
        #: Log of each exemplar's weight over an equal one: the prior of the softmax over its patches.
        self.prior = torch.from_numpy(np.log(np.maximum(relative, 1e-12))).float().to(device)

    def grid_of(self, maps: Sequence[Tensor]) -> Grid:
        """Return the grid of pictures, by their maps (B, C, h, w) per tap."""
        rows, columns = maps[self._match].shape[2:]
        return int(rows), int(columns)

    def search(self, maps: Sequence[Tensor], allowed: Tensor, search: PatchSearch) -> tuple[Tensor, Tensor]:
        """Find the nearest source patches and the nearest target patches of every patch of one image.

        Parameters:
            maps: per tap, (1, C, h, w) maps of the image's copy to match (``pictures.match_copies``).
            allowed: (K,) bool, the exemplars whose patches it may take.
            search: how.

        Returns:
            Indices (patches, k) int64 into the bank, and weights of the same shape: those of the targets sum to 1,
            those of the sources to -1.

        Raises:
            ImageError: kind ``no-exemplars`` when a class has no allowed exemplar, ``not-finite``.
        """
        grid = self.grid_of(maps)
        queries = describe(maps, self.means, self.deviations, grid)[0] @ self.projection
        similarity = search.scene_weight * (self.scenes.float() @ describe_scene(queries[None])[0])
        bias = similarity + search.width * self.prior
        bias = bias.masked_fill(~allowed.to(self.device), -torch.inf)[self.layout.owner]
        here = search.position_weight * positions(grid).to(self.device)
        there = search.position_weight * self.layout.positions
        indices, weights = [], []
        for sign, begin, end in ((-1, 0, self.split), (1, self.split, len(self.descriptors))):
            usable = int((~torch.isneginf(bias[begin:end])).sum())
            if usable == 0:
                raise ImageError(
                    "no-exemplars", "No exemplar is left once the image itself and its group are left out."
                )
            best, index = nearest_patches(
                queries,
                self.descriptors[begin:end],
                bias[begin:end],
                min(search.neighbors, usable),
                (here, there[begin:end]),
            )
            indices.append(index + begin)
            weights.append(sign * ((best - best[:, :1]) / search.width).softmax(1))
        return torch.cat(indices, 1), torch.cat(weights, 1)

    def displacement(self, index: Tensor, weights: Tensor, match_grid: Grid, like: Sequence[Tensor]) -> list[Tensor]:
        """Return what the features of one image move by at strength 1, shaped as its maps ``like`` (1, C, h, w).

        Parameters:
            index, weights: (match patches, k), what ``search`` found.
            match_grid: of the image's copy.
            like: the image's own maps.
        """
        grid = self.grid_of(like)
        index = self.layout.finer(index, match_grid, grid)
        weights = weights[self.layout.over(match_grid, grid)]
        return [
            mix_patches(
                bank, self.layout.covering(index, coarseness(grid, tap.shape[2])), weights, grid, tap.shape[1:]
            )[None]
            for bank, tap in zip(self.banks, like, strict=True)
        ]

    def mean_colors(self, index: Tensor, weights: Tensor, match_grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the mean colours (3, rows, columns) in 0..255 of a patch's nearest sources, and of its targets."""
        colors = self.colors.float()[index]
        source, target = (
            (colors * part[..., None]).sum(1).T.reshape(3, *match_grid)
            for part in (-weights.clamp_max(0), weights.clamp_min(0))
        )
        return source, target
