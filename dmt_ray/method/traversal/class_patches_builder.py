"""Build the bank of two classes' patches (``class_patches``) out of their exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.pictures import MATCH_SIZE
from dmt_ray.method.traversal.manifold import Allocate, floored
from dmt_ray.method.traversal.patches import (
    Grid,
    describe,
    describe_scene,
    from_patches,
    match_stride,
    match_tap,
    principal_directions,
    to_patches,
)


class _Patches:
    """Patches of exemplars' maps, one exemplar after the other.

    Parameters:
        count: exemplars to come at most.
        taps: names of the taps.
        size: no picture has more than size x size pixels.
        allocate: makes the large arrays, in memory or in files.

    Attributes:
        grids: rows and columns of each exemplar.
    """

    def __init__(self, count: int, taps: Sequence[str], size: int, allocate: Allocate) -> None:
        self._match, stride = match_tap(taps), match_stride(taps)
        self._most, self._allocate = count * (size // stride) ** 2, allocate
        self.grids: list[Grid] = []
        self._shapes: list[list[tuple[int, ...]]] = []
        self._banks: list[np.ndarray] = []
        self._filled = [0] * len(taps)

    def add(self, maps: Sequence[Tensor]) -> None:
        """Take the maps (n, C, h, w) float16 per tap of some more exemplars of one shape."""
        grid = (int(maps[self._match].shape[2]), int(maps[self._match].shape[3]))
        for k, values in enumerate(maps):
            patches = to_patches(values, grid).numpy()
            if len(self._banks) <= k:
                ratio = max(1, grid[0] // values.shape[2])
                self._banks.append(self._allocate((self._most // ratio**2, patches.shape[2]), np.float16))
            for each in patches:
                self._banks[k][self._filled[k] : self._filled[k] + len(each)] = each
                self._filled[k] += len(each)
        self.grids += [grid] * len(maps[0])
        self._shapes += [[tuple(tap.shape[1:]) for tap in maps]] * len(maps[0])

    def maps(self) -> Iterator[tuple[Grid, list[Tensor]]]:
        """Yield each exemplar's grid and maps (1, C, h, w) float32 per tap."""
        begins = [0] * len(self._banks)
        for grid, shapes in zip(self.grids, self._shapes, strict=True):
            maps = []
            for k, shape in enumerate(shapes):
                number = len(to_patches(torch.empty(1, *shape, device="meta"), grid)[0])
                patches = torch.from_numpy(self._banks[k][begins[k] : begins[k] + number]).float()
                maps.append(_to_map(patches, grid, shape)[None])
                begins[k] += number
            yield grid, maps

    def arrays(self) -> list[np.ndarray]:
        """Return what was filled of each tap's bank."""
        return [bank[:filled] for bank, filled in zip(self._banks, self._filled, strict=True)]


class ClassPatchesBuilder:
    """Takes exemplars as they come, sources first, then targets, and makes the bank of their patches.

    Parameters:
        count: exemplars to come at most.
        taps: names of the taps.
        size: working size; no picture has more than size x size pixels.
        allocate: makes the large arrays, in memory or in files.
    """

    def __init__(self, count: int, taps: Sequence[str], size: int, allocate: Allocate = np.empty) -> None:
        self._stride, self._allocate = match_stride(taps), allocate
        self._features = _Patches(count, taps, size, allocate)
        self._matched = self._features if size <= MATCH_SIZE else _Patches(count, taps, MATCH_SIZE, allocate)
        self._colors: list[np.ndarray] = []
        self._sums: list[list[Tensor]] = []

    def add(self, maps: Sequence[Tensor], match_maps: Sequence[Tensor], copies: Tensor) -> None:
        """Take some more exemplars of one shape.

        Parameters:
            maps: per tap, (n, C, h, w).
            match_maps: per tap, maps of ``copies``; ``maps`` themselves up to size ``MATCH_SIZE``.
            copies: (n, 3, H, W) in 0..255, the pictures' copies to match (``pictures.match_copies``).
        """
        means = F.avg_pool2d(copies, self._stride).flatten(2).transpose(1, 2)
        self._colors += list(means.half().cpu().numpy())
        values = _halves(maps)
        self._features.add(values)
        if self._matched is not self._features:
            values = _halves(match_maps)
            self._matched.add(values)
        exact = [tap.double().flatten(2) for tap in values]
        moments = [torch.stack([tap.mean(2), tap.square().mean(2)], 1) for tap in exact]
        self._sums += [list(own) for own in zip(*moments, strict=True)]

    def finish(self, sources: int, targets: int) -> dict[str, np.ndarray]:
        """Return the bank as plain arrays.

        Parameters:
            sources, targets: how many of the exemplars that came are of each class.

        Returns:
            ``grids`` and ``match_grids`` (K, 2) int64; ``colors`` (match patches, 3) float16, the mean colour of each
            match patch in 0..255; ``projection`` (sum of C, P) float32; ``descriptors`` (match patches, P) and
            ``scenes`` (K, P) float16; ``mean_k`` and ``deviation_k`` (C, 1, 1) float32 of the sources' copies;
            ``patches_k`` (patches of the tap's own grid or of ``grids``, whichever is coarser, values) float16;
            ``sources`` and ``targets`` as 0-d arrays.
        """
        statistics = [self._statistics(0, sources), self._statistics(sources, sources + targets)]
        match_grids = self._matched.grids
        width = sum(len(mean) for mean in statistics[0][0])
        total = sum(rows * columns for rows, columns in match_grids)
        raw = self._allocate((total, width), np.float16)
        filled = 0
        for n, (grid, maps) in enumerate(self._matched.maps()):
            described = describe(maps, *statistics[int(n >= sources)], grid)[0]
            raw[filled : filled + len(described)] = described.half().numpy()
            filled += len(described)
        projection = principal_directions(torch.from_numpy(raw))
        descriptors = self._allocate((total, projection.shape[1]), np.float16)
        scenes = np.empty((sources + targets, projection.shape[1]), np.float16)
        begin = 0
        for n, (rows, columns) in enumerate(match_grids):
            part = slice(begin, begin + rows * columns)
            projected = torch.from_numpy(raw[part]).float() @ projection
            descriptors[part] = projected.half().numpy()
            scenes[n] = describe_scene(projected[None])[0].half().numpy()
            begin += rows * columns
        arrays = {
            "grids": np.array(self._features.grids, np.int64),
            "match_grids": np.array(match_grids, np.int64),
            "colors": np.concatenate(self._colors),
            "projection": projection.numpy(),
            "descriptors": descriptors,
            "scenes": scenes,
            "sources": np.array(sources),
            "targets": np.array(targets),
        }
        for k, (mean, deviation) in enumerate(zip(*statistics[0], strict=True)):
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = mean.numpy(), deviation.numpy()
        return arrays | {f"patches_{k}": bank for k, bank in enumerate(self._features.arrays())}

    def _statistics(self, begin: int, end: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return each tap's mean and deviation (C, 1, 1) per channel over a class; every picture counts alike."""
        means, deviations = [], []
        for moments in zip(*self._sums[begin:end], strict=True):
            mean, square = torch.stack(moments).mean(0)
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            means.append(mean.float()[:, None, None])
            deviations.append(torch.from_numpy(floored(deviation.float().numpy()))[:, None, None])
        return means, deviations


def _halves(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return maps as float16 in main memory; what it cannot hold is brought to its largest number."""
    return [tap.float().clamp(-65504, 65504).half().cpu() for tap in maps]


def _to_map(patches: Tensor, grid: Grid, shape: tuple[int, ...]) -> Tensor:
    """Undo ``to_patches`` for one image, coarse or fine: return (C, h, w)."""
    channels, height, _ = shape
    if height <= grid[0]:
        return patches.T.reshape(shape)
    return from_patches(patches, grid, channels, height // grid[0])
