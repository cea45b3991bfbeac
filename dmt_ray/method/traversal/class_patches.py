"""Local traversal between unpaired classes: every patch moves from its nearest sources to its nearest targets.

The move of a patch is the mean of its nearest target patches less the mean of its nearest source patches, both
weighted by a kernel on the similarity. Up to the kernel's width this is the gradient of log p_target - log p_source
under kernel density estimates of the two classes (mean shift, Comaniciu & Meer 2002, section 2), so each patch climbs
where the target class is denser and the source class is not. Nothing has to be aligned, which global traversal needs.

Each class is described relative to its own mean and deviation, so that a sky by day finds skies by night although
they differ; the picture that is moved counts as a source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.networks.layers import tap_stride
from dmt_ray.method.traversal.balancing import exemplar_weights
from dmt_ray.method.traversal.device_blocks import as_tensor
from dmt_ray.method.traversal.manifold import Allocate, floored
from dmt_ray.method.traversal.patches import (
    BankLayout,
    Grid,
    coarseness,
    describe,
    describe_scene,
    from_patches,
    match_stride,
    mix_patches,
    nearest_patches,
    positions,
    principal_directions,
    to_patches,
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
        self._match = _match_tap(taps)
        self.sources, self.targets = int(arrays["sources"]), int(arrays["targets"])
        grids = [(int(rows), int(columns)) for rows, columns in arrays["grids"]]
        self.layout = BankLayout(grids, device)
        self.split = sum(rows * columns for rows, columns in grids[: self.sources])
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
        """Return the match grid of pictures, by their maps (B, C, h, w) per tap."""
        rows, columns = maps[self._match].shape[2:]
        return int(rows), int(columns)

    def search(self, maps: Sequence[Tensor], allowed: Tensor, search: PatchSearch) -> tuple[Tensor, Tensor]:
        """Find the nearest source patches and the nearest target patches of every patch of one image.

        Parameters:
            maps: per tap, (1, C, h, w) maps of the image.
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

    def displacement(self, index: Tensor, weights: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return what the features of one image move by at strength 1, shaped as its maps ``like`` (1, C, h, w)."""
        grid = self.grid_of(like)
        return [
            mix_patches(
                bank, self.layout.covering(index, coarseness(grid, tap.shape[2])), weights, grid, tap.shape[1:]
            )[None]
            for bank, tap in zip(self.banks, like, strict=True)
        ]

    def mean_colors(self, index: Tensor, weights: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the mean colours (3, rows, columns) in 0..255 of a patch's nearest sources, and of its targets."""
        colors = self.colors.float()[index]
        source, target = (
            (colors * part[..., None]).sum(1).T.reshape(3, *grid)
            for part in (-weights.clamp_max(0), weights.clamp_min(0))
        )
        return source, target


class ClassPatchesBuilder:
    """Takes exemplars as they come, sources first, then targets, and makes the bank of their patches.

    Parameters:
        count: exemplars to come at most.
        taps: names of the taps.
        size: working size; no picture has more than size x size pixels.
        allocate: makes the large arrays, in memory or in files.
    """

    def __init__(self, count: int, taps: Sequence[str], size: int, allocate: Allocate = np.empty) -> None:
        self._match, self._stride = _match_tap(taps), match_stride(taps)
        self._count, self._size, self._allocate = count, size, allocate
        self._grids: list[Grid] = []
        self._shapes: list[list[tuple[int, ...]]] = []
        self._banks: list[np.ndarray] = []
        self._filled = [0] * len(taps)
        self._colors: list[np.ndarray] = []
        self._sums: list[list[Tensor]] = []

    def add(self, maps: Sequence[Tensor], images: Tensor) -> None:
        """Take some more exemplars of one shape.

        Parameters:
            maps: per tap, (n, C, h, w).
            images: (n, 3, H, W) in 0..255.
        """
        grid = (int(maps[self._match].shape[2]), int(maps[self._match].shape[3]))
        means = F.avg_pool2d(images, self._stride).flatten(2).transpose(1, 2)
        self._colors += list(means.half().cpu().numpy())
        sums: list[list[Tensor]] = [[] for _ in range(len(images))]
        for k, tap in enumerate(maps):
            values = tap.float().clamp(-65504, 65504).half().cpu()
            patches = to_patches(values, grid).numpy()
            if len(self._banks) <= k:
                ratio = max(1, grid[0] // tap.shape[2])
                most = self._count * (self._size // self._stride // ratio) ** 2
                self._banks.append(self._allocate((most, patches.shape[2]), np.float16))
            for each in patches:
                self._banks[k][self._filled[k] : self._filled[k] + len(each)] = each
                self._filled[k] += len(each)
            exact = values.double().flatten(2)
            for n in range(len(images)):
                sums[n].append(torch.stack([exact[n].sum(1), exact[n].square().sum(1)]) / exact.shape[2])
        self._sums += sums
        self._grids += [grid] * len(images)
        self._shapes += [[tuple(tap.shape[1:]) for tap in maps]] * len(images)

    def finish(self, sources: int, targets: int) -> dict[str, np.ndarray]:
        """Return the bank as plain arrays.

        Parameters:
            sources, targets: how many of the exemplars that came are of each class.

        Returns:
            ``grids`` (K, 2) int32; ``colors`` (patches, 3) float16, the mean colour of each patch in 0..255;
            ``projection`` (sum of C, P) float32; ``descriptors`` (patches, P) and ``scenes`` (K, P) float16;
            ``mean_k`` and ``deviation_k`` (C, 1, 1) float32 of the sources; ``patches_k`` (patches of the tap's own
            or the match grid, whichever is coarser, values) float16; ``sources`` and ``targets`` as 0-d arrays.
        """
        count = sources + targets
        statistics = [self._statistics(0, sources), self._statistics(sources, count)]
        width = sum(shape[0] for shape in self._shapes[0])
        total = sum(rows * columns for rows, columns in self._grids[:count])
        raw = self._allocate((total, width), np.float16)
        filled, begins = 0, [0] * len(self._banks)
        for n, grid in enumerate(self._grids[:count]):
            maps = []
            for k, shape in enumerate(self._shapes[n]):
                number = len(to_patches(torch.empty(1, *shape, device="meta"), grid)[0])
                patches = torch.from_numpy(self._banks[k][begins[k] : begins[k] + number]).float()
                maps.append(_to_map(patches, grid, shape)[None])
                begins[k] += number
            described = describe(maps, *statistics[int(n >= sources)], grid)[0]
            raw[filled : filled + len(described)] = described.half().numpy()
            filled += len(described)
        projection = principal_directions(torch.from_numpy(raw))
        descriptors = self._allocate((total, projection.shape[1]), np.float16)
        scenes = np.empty((count, projection.shape[1]), np.float16)
        begin = 0
        for n, (rows, columns) in enumerate(self._grids[:count]):
            part = slice(begin, begin + rows * columns)
            projected = torch.from_numpy(raw[part]).float() @ projection
            descriptors[part] = projected.half().numpy()
            scenes[n] = describe_scene(projected[None])[0].half().numpy()
            begin += rows * columns
        arrays = {
            "grids": np.array(self._grids[:count], np.int32),
            "colors": np.concatenate(self._colors[:count]),
            "projection": projection.numpy(),
            "descriptors": descriptors,
            "scenes": scenes,
            "sources": np.array(sources),
            "targets": np.array(targets),
        }
        for k, (mean, deviation) in enumerate(zip(*statistics[0], strict=True)):
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = mean.numpy(), deviation.numpy()
        return arrays | {f"patches_{k}": bank[: begins[k]] for k, bank in enumerate(self._banks)}

    def _statistics(self, begin: int, end: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return each tap's mean and deviation (C, 1, 1) per channel over a class; every picture counts alike."""
        means, deviations = [], []
        for k in range(len(self._banks)):
            mean, square = torch.stack([sums[k] for sums in self._sums[begin:end]]).mean(0)
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            means.append(mean.float()[:, None, None])
            deviations.append(torch.from_numpy(floored(deviation.float().numpy()))[:, None, None])
        return means, deviations


def _match_tap(taps: Sequence[str]) -> int:
    """Return the index of the first tap on the match grid."""
    stride = match_stride(taps)
    return [tap_stride(tap) for tap in taps].index(stride)


def _to_map(patches: Tensor, grid: Grid, shape: tuple[int, ...]) -> Tensor:
    """Undo ``to_patches`` for one image, coarse or fine: return (C, h, w)."""
    channels, height, _ = shape
    if height <= grid[0]:
        return patches.T.reshape(shape)
    return from_patches(patches, grid, channels, height // grid[0])
