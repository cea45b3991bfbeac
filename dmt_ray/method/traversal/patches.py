"""Patches of feature maps: how they are described, laid out in a bank, searched and mixed.

A bank holds the patches of many exemplars, of any shapes, one after the other: exemplars, rows, columns. A *grid* is
(rows, columns) of patches of one image; a patch is a square of ``match_stride`` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.networks.layers import tap_stride

#: Patches are matched on the grid of this stride, or of the nearest one (as a power of two) among the taps.
MATCH_STRIDE = 8
#: Descriptors are searched in this many principal directions: a fifth of the work, and nearly the same cosines.
SEARCH_DIMENSIONS = 256
#: Patches that the principal directions are found from.
_PRINCIPAL_SAMPLE = 16384
#: Exemplar patches compared at a time, with all patches of one image.
_SEARCH_BLOCK = 32768

Grid = tuple[int, int]


def match_stride(taps: Sequence[str]) -> int:
    """Return the stride of the match grid: 8, or the stride among the taps that is nearest to it."""
    return min(map(tap_stride, taps), key=lambda stride: (abs(math.log2(stride / MATCH_STRIDE)), stride))


def match_tap(taps: Sequence[str]) -> int:
    """Return the index of the first tap on the match grid."""
    stride = match_stride(taps)
    return [tap_stride(tap) for tap in taps].index(stride)


def positions(grid: Grid) -> Tensor:
    """Return the centres (rows * columns, 2) of a grid's patches as (y, x), each in -1..1 over the image."""
    rows, columns = ((torch.arange(side) + 0.5) / side * 2 - 1 for side in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


class BankLayout:
    """Where the patches of exemplars lie in a bank.

    Patches are searched on match grids. Features lie on grids of their own, which are finer where pictures are larger
    than ``pictures.MATCH_SIZE``.

    Parameters:
        match_grids: (K, 2) rows and columns of each exemplar's match grid.
        grids: (K, 2) rows and columns of each exemplar's grid of features.
        device: where to compute.

    Attributes:
        owner: (match patches,) int64, the exemplar that each patch belongs to.
        positions: (match patches, 2) float32, see ``positions``.
    """

    def __init__(self, match_grids: Sequence[Grid], grids: Sequence[Grid], device: torch.device) -> None:
        self._grids = [(int(rows), int(columns)) for rows, columns in grids]
        match = [(int(rows), int(columns)) for rows, columns in match_grids]
        counts = torch.tensor([rows * columns for rows, columns in match])
        self.owner = torch.arange(len(match)).repeat_interleave(counts).to(device)
        self.positions = torch.cat([positions(grid) for grid in match]).to(device)
        self._same = match == self._grids
        self._match = torch.tensor(match, device=device)
        self._fine = torch.tensor(self._grids, device=device)
        self._begins = _begins(self._match), _begins(self._fine)
        self._device = device
        self._covering: dict[int, Tensor] = {}

    def over(self, match_grid: Grid, grid: Grid) -> Tensor:
        """Return (patches,) int64, the match patch of an image that each of its patches of features lies in."""
        sides = zip(grid, match_grid, strict=True)
        rows, columns = (_places_within(fine, coarse, self._device)[0] for fine, coarse in sides)
        return (rows[:, None] * match_grid[1] + columns).flatten()

    def finer(self, index: Tensor, match_grid: Grid, grid: Grid) -> Tensor:
        """Return the patches of features that stand for the match patches ``index``.

        A patch of features takes the match patch over it, and of each of that one's exemplar patches the patch of
        features at the same place within.

        Parameters:
            index: (match patches of the image, k) int64 match patches of the bank.
            match_grid, grid: of the image.

        Returns:
            (patches of the image, k) int64 into the bank's patches of features.
        """
        if self._same and match_grid == grid:
            return index
        found = index[self.over(match_grid, grid)]
        inside = [_places_within(*sides, self._device)[1] for sides in zip(grid, match_grid, strict=True)]
        share = torch.stack(torch.meshgrid(*inside, indexing="ij"), -1).flatten(0, 1)
        owner = self.owner[found]
        local = found - self._begins[0][owner]
        columns = self._match[owner, 1]
        result = self._begins[1][owner]
        for axis, place in enumerate((local // columns, local % columns)):
            side, coarse = self._fine[owner, axis], self._match[owner, axis]
            fine = ((place + share[:, axis, None]) * side / coarse).long().clamp_max(side - 1)
            result = result + fine * (self._fine[owner, 1] if axis == 0 else 1)
        return result

    def covering(self, index: Tensor, ratio: int) -> Tensor:
        """Return where a tap whose patches are ``ratio`` times as wide keeps those that are at ``index``."""
        if ratio == 1:
            return index
        if ratio not in self._covering:
            parts, begin = [], 0
            for rows, columns in self._grids:
                parts.append(begin + covering((rows, columns), ratio))
                begin += (rows // ratio) * (columns // ratio)
            self._covering[ratio] = torch.cat(parts).to(self._device)
        return self._covering[ratio][index]


def _begins(grids: Tensor) -> Tensor:
    """Return (K,) where the patches of each of (K, 2) grids begin."""
    counts = grids.prod(1)
    return counts.cumsum(0) - counts


def _places_within(fine: int, coarse: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return in which of ``coarse`` parts of a side the centre of each of ``fine`` is, and where in it, 0..1."""
    place = (torch.arange(fine, device=device) + 0.5) * (coarse / fine)
    over = place.long().clamp_max(coarse - 1)
    return over, place - over


def covering(grid: Grid, ratio: int) -> Tensor:
    """Return, for each patch of a grid, the patch (counted by rows) of the ``ratio`` times coarser grid over it."""
    rows, columns = (torch.arange(side) // ratio for side in grid)
    return (rows[:, None] * (grid[1] // ratio) + columns).flatten()


def coarseness(grid: Grid, height: int) -> int:
    """Return how many times wider a tap's own patches are than those of the match grid; 1 where they are finer."""
    return max(1, grid[0] // height)


def mix_patches(bank: Tensor, index: Tensor, weights: Tensor, grid: Grid, shape: Sequence[int]) -> Tensor:
    """Return one tap's map (C, h, w) whose every patch is a weighted sum of a bank's patches.

    Parameters:
        bank: (patches of the tap's own or the match grid, whichever is coarser, values), from ``to_patches``.
        index: (patches of the image, k) into ``bank``, see ``BankLayout.covering``.
        weights: (patches of the image, k).
        grid: the image's match grid.
        shape: (C, h, w).
    """
    channels, height, _ = shape
    # A bag sums rows as it reads them: no (patches, neighbors, values) array comes into being.
    moved = F.embedding_bag(index, bank, mode="sum", per_sample_weights=weights.to(bank.dtype)).float()
    if height < grid[0]:
        planes = moved.T.reshape(channels, *grid)
        return F.avg_pool2d(planes[None], grid[0] // height)[0]
    return from_patches(moved, grid, channels, height // grid[0])


def standardised_norms(changes: Sequence[Tensor], deviations: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean lengths (B,) of changes of features, one (B, C, h, w) per tap, in standardised units."""
    squares = [
        (change / deviation).square().flatten(1).sum(1) for change, deviation in zip(changes, deviations, strict=True)
    ]
    return torch.stack(squares).sum(0).sqrt()


def nearest_patches(
    queries: Tensor,
    descriptors: Tensor,
    bias: Tensor,
    neighbors: int,
    places: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the most similar patches of a bank, a block of it at a time.

    Parameters:
        queries: (patches, P) descriptors of one image's patches.
        descriptors: (bank, P) descriptors of the bank.
        bias: (bank,) added to every patch's similarity with each of the bank.
        neighbors: patches to take; fewer when the bank is smaller.
        places: positions of the image's patches (patches, 2) and of the bank's (bank, 2), both weighted. Half their
            squared distance is taken off the similarity.

    Returns:
        Similarities (patches, neighbors), falling, and indices of the same shape into the bank, int64.

    Raises:
        ImageError: kind ``not-finite`` when a similarity is not finite, since it compares with nothing.
    """
    count = min(neighbors, len(descriptors))
    best = queries.new_full((len(queries), 0), 0.0)
    index = torch.zeros((len(queries), 0), dtype=torch.long, device=queries.device)
    for first in range(0, len(descriptors), _SEARCH_BLOCK):
        block = slice(first, first + _SEARCH_BLOCK)
        similarity = queries @ descriptors[block].float().T
        similarity += bias[block]
        if places is not None:
            here, there = places[0], places[1][block]
            similarity += here @ there.T
            similarity -= there.square().sum(1) / 2 + here.square().sum(1, keepdim=True) / 2
        value, place = similarity.topk(min(count, similarity.shape[1]), dim=1)
        merged = torch.cat([best, value], 1)
        best, order = merged.topk(min(count, merged.shape[1]), dim=1)
        index = torch.cat([index, place + first], 1).gather(1, order)
    if not bool(torch.isfinite(best).all()):  # NaN sorts above every number, so none is lost on the way
        raise ImageError("not-finite", "The similarities to the exemplars are not all finite numbers.")
    return best, index


def describe(maps: Sequence[Tensor], means: Sequence[Tensor], deviations: Sequence[Tensor], grid: Grid) -> Tensor:
    """Return joint descriptors (B, patches, sum of C) of unit length, of maps (B, C, h, w)."""
    parts = []
    for tap, mean, deviation in zip(maps, means, deviations, strict=True):
        plane = (tap - mean) / deviation
        if plane.shape[-1] > grid[1]:
            plane = F.adaptive_avg_pool2d(plane, grid)
        elif plane.shape[-1] < grid[1]:
            plane = F.interpolate(plane, size=grid, mode="bilinear", align_corners=False)
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


def to_patches(planes: Tensor, grid: Grid) -> Tensor:
    """Return planes (B, C, h, w) per match patch: (B, patches, ratio^2 * C) if finer, (B, h * w, C) if coarser."""
    batch, channels, height, width = planes.shape
    ratio = max(1, height // grid[0])
    split = planes.reshape(batch, channels, height // ratio, ratio, width // ratio, ratio)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, ratio**2 * channels)


def from_patches(patches: Tensor, grid: Grid, channels: int, ratio: int) -> Tensor:
    """Undo ``to_patches`` for one image: (patches, ratio^2 * C) -> (C, rows * ratio, columns * ratio)."""
    split = patches.reshape(*grid, ratio, ratio, channels)
    return split.permute(4, 0, 2, 1, 3).reshape(channels, grid[0] * ratio, grid[1] * ratio)
