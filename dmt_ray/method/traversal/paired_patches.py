"""Local traversal: every spatial patch is a point of its own, moved as its nearest exemplar patches moved.

Each patch of the match grid is described by all taps together: each tap's map, standardised per channel, resampled to
that grid and brought to unit length per patch, then concatenated. A patch of an image takes the most similar exemplar
patches, of similar pictures first, and its features move by the softmax-weighted mean of (target - source) at those
patches. The images need no alignment, which global traversal does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.traversal.device_blocks import as_tensor
from dmt_ray.method.traversal.manifold import standardisation
from dmt_ray.method.traversal.patches import (
    BankLayout,
    coarseness,
    describe,
    describe_scene,
    match_stride,
    mix_patches,
    nearest_patches,
    principal_directions,
    to_patches,
)


class PairedPatches:
    """A bank of exemplar patches: descriptors to search, and what each patch went through from source to target.

    Parameters:
        arrays: what ``build`` returned; may be read-only views of shared memory.
        taps: names of the taps, in the order of every list of maps.
        size: working size in pixels.
        device: where to compute; the bank is copied there once.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], taps: Sequence[str], size: int, device: torch.device
    ) -> None:
        self.taps = tuple(taps)
        side = size // match_stride(taps)
        self.grid = (side, side)
        self.device = device
        self.projection = as_tensor(arrays["projection"], device)
        self.descriptors = as_tensor(arrays["descriptors"], device)
        self.scenes = as_tensor(arrays["scenes"], device)
        grids = [self.grid] * len(self.scenes)
        self.layout = BankLayout(grids, grids, device)
        self.means = [as_tensor(arrays[f"mean_{k}"], device) for k in range(len(taps))]
        self.deviations = [as_tensor(arrays[f"deviation_{k}"], device) for k in range(len(taps))]
        self.differences = [as_tensor(arrays[f"difference_{k}"], device) for k in range(len(taps))]
        self.chroma = as_tensor(arrays["chroma"], device)

    @staticmethod
    def build(
        source: Sequence[np.ndarray],
        target: Sequence[np.ndarray],
        chroma: np.ndarray,
        taps: Sequence[str],
        size: int,
    ) -> dict[str, np.ndarray]:
        """Return the bank of paired exemplars as plain arrays.

        Parameters:
            source, target: per tap, (N, C, h, w) maps of each exemplar before and after.
            chroma: (N, 2, size, size) chroma of each target in 8-bit units.
            taps: names of the taps.
            size: working size in pixels.

        Returns:
            ``projection`` (sum of C, P) float32 onto principal directions; projected ``descriptors`` (patches, P) and
            ``scenes`` (N, P), float16; per tap k
            ``difference_k`` (N * patches of the tap's own or the match grid, whichever is coarser, values) float16,
            ``mean_k`` and ``deviation_k``; ``chroma`` (patches, 2) float16. Order: exemplars, rows, columns.
        """
        side = size // match_stride(taps)
        grid = (side, side)
        arrays: dict[str, np.ndarray] = {}
        for k, maps in enumerate(source):
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = standardisation(maps, "channel")
        width = sum(maps.shape[1] for maps in source)
        count = len(chroma)
        descriptors = np.empty((count, side * side, width), np.float16)
        differences: list[list[np.ndarray]] = [[] for _ in source]
        planes = np.empty((count, side * side, 2), np.float16)
        means = [torch.from_numpy(arrays[f"mean_{k}"]) for k in range(len(source))]
        deviations = [torch.from_numpy(arrays[f"deviation_{k}"]) for k in range(len(source))]
        for n in range(count):
            before = [torch.from_numpy(maps[n : n + 1]).float() for maps in source]
            descriptors[n] = describe(before, means, deviations, grid)[0].numpy()
            for k, maps in enumerate(target):
                change = torch.from_numpy(maps[n : n + 1]).float() - before[k]
                differences[k].append(to_patches(change, grid)[0].numpy().astype(np.float16))
            patch_chroma = F.adaptive_avg_pool2d(torch.from_numpy(chroma[n]).float(), side)
            planes[n] = patch_chroma.flatten(1).T.numpy()
        projection = principal_directions(torch.from_numpy(descriptors.reshape(-1, width)))
        projected = torch.stack([torch.from_numpy(rows).float() @ projection for rows in descriptors])
        arrays["projection"] = projection.numpy()
        arrays["descriptors"] = projected.flatten(0, 1).half().numpy()
        arrays["scenes"] = describe_scene(projected).half().numpy()
        arrays["chroma"] = planes.reshape(-1, 2)
        for k, parts in enumerate(differences):
            arrays[f"difference_{k}"] = np.concatenate(parts)
        return arrays

    def search(
        self, maps: Sequence[Tensor], neighbors: int, softmax_width: float, scene_weight: float
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest exemplar patches of every patch.

        Similarity is the cosine of the two patches plus ``scene_weight`` times the cosine of the two pictures' mean
        patches: what a patch looks like says less about its colour than what it looks like in such a scene.

        Parameters:
            maps: per tap, (B, C, h, w) maps of the images.
            neighbors: patches to take; fewer when the bank is smaller.
            softmax_width: width of the softmax over similarities.
            scene_weight: weight of the whole pictures' scene_similarity.

        Returns:
            Indices (B, patches, neighbors) int64 into the bank, most similar first, and weights of the same shape
            that sum to 1.
        """
        queries = describe(maps, self.means, self.deviations, self.grid) @ self.projection
        scene_similarity = scene_weight * (describe_scene(queries) @ self.scenes.float().T)
        found = [
            nearest_patches(patches, self.descriptors, similarity[self.layout.owner], neighbors)
            for patches, similarity in zip(queries, scene_similarity, strict=True)
        ]
        best, index = (torch.stack(list(each)) for each in zip(*found, strict=True))
        return index, ((best - best[..., :1]) / softmax_width).softmax(2)

    def start_chroma(self, index: Tensor, weights: Tensor, size: int) -> Tensor:
        """Return the neighbours' chroma (B, 2, size, size), averaged per patch and upsampled, in 8-bit units."""
        planes = (self.chroma.float()[index] * weights[..., None]).sum(2)
        planes = planes.transpose(1, 2).reshape(len(index), 2, *self.grid)
        return F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)

    def displacement(self, index: Tensor, weights: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted mean of (target - source) per tap, shaped as the maps ``like`` (B, C, h, w)."""
        return [
            torch.stack([self._tap_displacement(k, i, w, tap.shape[1:]) for i, w in zip(index, weights, strict=True)])
            for k, tap in enumerate(like)
        ]

    def _tap_displacement(self, k: int, index: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
        places = self.layout.covering(index, coarseness(self.grid, shape[1]))
        return mix_patches(self.differences[k], places, weights, self.grid, shape)
