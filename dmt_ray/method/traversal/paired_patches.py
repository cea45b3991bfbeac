"""Local traversal: every spatial patch is a point of its own, moved as its nearest exemplar patches moved.

Each patch of the match grid is described by all taps together: each tap's map, standardised per channel, resampled to
that grid and brought to unit length per patch, then concatenated. A patch of an image takes the most similar exemplar
patches, of similar pictures first, and its features move by the softmax-weighted mean of (target - source) at those
patches. The images need no alignment, which global traversal does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.networks.layers import tap_stride
from dmt_ray.method.traversal.manifold import as_tensor, standardisation

#: Patches are matched on the grid of this stride, or of the nearest one (as a power of two) among the taps.
MATCH_STRIDE = 8
#: Descriptors are searched in this many principal directions: a fifth of the work, and nearly the same cosines.
SEARCH_DIMENSIONS = 256
#: Patches that the principal directions are found from.
_PRINCIPAL_SAMPLE = 16384
#: Exemplar patches compared at a time.
_SEARCH_BLOCK = 32768
#: Image patches compared at a time, which bounds the similarity block to 4096 x 32768 floats.
_QUERY_BLOCK = 4096


def match_stride(taps: Sequence[str]) -> int:
    """Return the stride of the match grid: 8, or the stride among the taps that is nearest to it."""
    return min(map(tap_stride, taps), key=lambda stride: (abs(math.log2(stride / MATCH_STRIDE)), stride))


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
        self.grid = size // match_stride(taps)
        self.device = device
        self.projection = as_tensor(arrays["projection"], device)
        self.descriptors = as_tensor(arrays["descriptors"], device)
        self.scenes = as_tensor(arrays["scenes"], device)
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
        grid = size // match_stride(taps)
        arrays: dict[str, np.ndarray] = {}
        for k, maps in enumerate(source):
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = standardisation(maps, "channel")
        width = sum(maps.shape[1] for maps in source)
        count = len(chroma)
        descriptors = np.empty((count, grid * grid, width), np.float16)
        differences: list[list[np.ndarray]] = [[] for _ in source]
        planes = np.empty((count, grid * grid, 2), np.float16)
        means = [torch.from_numpy(arrays[f"mean_{k}"]) for k in range(len(source))]
        deviations = [torch.from_numpy(arrays[f"deviation_{k}"]) for k in range(len(source))]
        for n in range(count):
            before = [torch.from_numpy(maps[n : n + 1]).float() for maps in source]
            descriptors[n] = describe(before, means, deviations, grid)[0].numpy()
            for k, maps in enumerate(target):
                change = torch.from_numpy(maps[n : n + 1]).float() - before[k]
                differences[k].append(to_patches(change, grid)[0].numpy().astype(np.float16))
            patch_chroma = F.adaptive_avg_pool2d(torch.from_numpy(chroma[n]).float(), grid)
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
        best, index = nearest_patches(queries, self.descriptors, scene_similarity, neighbors)
        return index, ((best - best[..., :1]) / softmax_width).softmax(2)

    def start_chroma(self, index: Tensor, weights: Tensor, size: int) -> Tensor:
        """Return the neighbours' chroma (B, 2, size, size), averaged per patch and upsampled, in 8-bit units."""
        planes = (self.chroma.float()[index] * weights[..., None]).sum(2)
        planes = planes.transpose(1, 2).reshape(len(index), 2, self.grid, self.grid)
        return F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)

    def displacement(self, index: Tensor, weights: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighted mean of (target - source) per tap, shaped as the maps ``like`` (B, C, h, w)."""
        return [
            torch.stack([self._tap_displacement(k, i, w, tap.shape[1:]) for i, w in zip(index, weights, strict=True)])
            for k, tap in enumerate(like)
        ]

    def _tap_displacement(self, k: int, index: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
        return mix_patches(self.differences[k], index, weights, self.grid, shape)


def mix_patches(bank: Tensor, index: Tensor, weights: Tensor, grid: int, shape: Sequence[int]) -> Tensor:
    """Return one tap's map (C, h, w) whose every patch is a weighted sum of a bank's patches.

    Parameters:
        bank: (patches of the tap's own or the match grid, whichever is coarser, values), from ``to_patches``.
        index: (patches, k) into the bank's patches, counted on the match grid.
        weights: (patches, k).
        grid: side of the match grid.
        shape: (C, h, w).
    """
    channels, height, _ = shape
    index = covering_patches(index, grid, height)
    # A bag sums rows as it reads them: no (patches, neighbors, values) array comes into being.
    moved = F.embedding_bag(index, bank, mode="sum", per_sample_weights=weights.to(bank.dtype)).float()
    if height < grid:
        planes = moved.T.reshape(channels, grid, grid)
        return F.avg_pool2d(planes[None], grid // height)[0]
    return from_patches(moved, grid, channels, height // grid)


def covering_patches(index: Tensor, grid: int, height: int) -> Tensor:
    """Return where a tap of side ``height`` keeps the patches that are at ``index`` on the match grid."""
    if height >= grid:
        return index
    ratio = grid // height
    image, patch = index // grid**2, index % grid**2
    return image * height**2 + (patch // grid // ratio) * height + patch % grid // ratio


def nearest_patches(
    queries: Tensor, descriptors: Tensor, scene_similarity: Tensor, neighbors: int
) -> tuple[Tensor, Tensor]:
    """Find the most similar patches of a bank, a block of it at a time.

    Parameters:
        queries: (B, patches, P) descriptors of the images' patches.
        descriptors: (N * patches, P) descriptors of the bank, exemplar by exemplar.
        scene_similarity: (B, N) added to the similarity of each image's patches with those of each exemplar.
        neighbors: patches to take; fewer when the bank is smaller.

    Returns:
        Similarities (B, patches, neighbors), falling, and indices of the same shape into the bank, int64.

    Raises:
        ImageError: kind ``not-finite`` when a similarity is not finite, since it compares with nothing.
    """
    batch, patches, width = queries.shape
    flat = queries.reshape(-1, width)
    image = torch.arange(batch, device=flat.device).repeat_interleave(patches)
    count = min(neighbors, len(descriptors))
    best = flat.new_full((len(flat), 0), 0.0)
    index = torch.zeros((len(flat), 0), dtype=torch.long, device=flat.device)
    whole = max(1, _SEARCH_BLOCK // patches)  # exemplars per block
    for first in range(0, scene_similarity.shape[1], whole):
        block = descriptors[first * patches : (first + whole) * patches].float()
        values, places = [], []
        for query, asking in zip(flat.split(_QUERY_BLOCK), image.split(_QUERY_BLOCK), strict=True):
            similarity = query @ block.T
            similarity.view(len(query), -1, patches).add_(scene_similarity[asking, first : first + whole, None])
            value, place = similarity.topk(min(count, len(block)), dim=1)
            values.append(value)
            places.append(place + first * patches)
        merged = torch.cat([best, torch.cat(values)], 1)
        best, order = merged.topk(min(count, merged.shape[1]), dim=1)
        index = torch.cat([index, torch.cat(places)], 1).gather(1, order)
    if not bool(torch.isfinite(best).all()):  # NaN sorts above every number, so none is lost on the way
        raise ImageError("not-finite", "The similarities to the exemplars are not all finite numbers.")
    return best.view(batch, patches, -1), index.view(batch, patches, -1)


def describe(maps: Sequence[Tensor], means: Sequence[Tensor], deviations: Sequence[Tensor], grid: int) -> Tensor:
    """Return joint descriptors (B, grid * grid, sum of C) of unit length, of maps (B, C, h, w)."""
    parts = []
    for tap, mean, deviation in zip(maps, means, deviations, strict=True):
        plane = (tap - mean) / deviation
        if plane.shape[-1] > grid:
            plane = F.adaptive_avg_pool2d(plane, grid)
        elif plane.shape[-1] < grid:
            plane = F.interpolate(plane, size=(grid, grid), mode="bilinear", align_corners=False)
        parts.append(F.normalize(plane, dim=1, eps=1e-6))
    return F.normalize(torch.cat(parts, 1).flatten(2).transpose(1, 2), dim=2, eps=1e-6)


def principal_directions(descriptors: Tensor) -> Tensor:
    """Return the orthonormal directions (D, P) that keep most of the descriptors (patches, D)."""
    sample = descriptors[:: max(1, len(descriptors) // _PRINCIPAL_SAMPLE)].float()
    directions: Tensor = torch.linalg.eigh((sample.T @ sample).double()).eigenvectors
    return directions[:, -SEARCH_DIMENSIONS:].flip(1).float().contiguous()


def describe_scene(descriptors: Tensor) -> Tensor:
    """Return the mean direction (B, D), of unit length, of each picture's patches (B, patches, D)."""
    return F.normalize(descriptors.mean(1), dim=1, eps=1e-6)


def to_patches(planes: Tensor, grid: int) -> Tensor:
    """Return planes (B, C, h, w) per match patch: (B, grid^2, ratio^2 * C) if finer, (B, h * w, C) if coarser."""
    batch, channels, height, width = planes.shape
    ratio = max(1, height // grid)
    split = planes.reshape(batch, channels, height // ratio, ratio, width // ratio, ratio)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, ratio**2 * channels)


def from_patches(patches: Tensor, grid: int, channels: int, ratio: int) -> Tensor:
    """Undo ``to_patches`` for one image: (grid^2, ratio^2 * C) -> (C, grid * ratio, grid * ratio)."""
    split = patches.reshape(grid, grid, ratio, ratio, channels)
    return split.permute(4, 0, 2, 1, 3).reshape(channels, grid * ratio, grid * ratio)
