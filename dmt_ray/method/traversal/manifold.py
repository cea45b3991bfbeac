"""The manifold of the exemplars: standardised features F and their Gram matrix, built in chunks of D.

Everything the traversal needs of F is G = F F^T, so F is only ever touched in blocks: by rows while it is filled and
standardised in place, by columns once to build G, once per image for its products with the exemplars, and once to
turn a displacement back into features. It may lie in a memory-mapped file or in shared memory, and is never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.memory import free_bytes
from dmt_ray.method.traversal.device_blocks import DeviceBlocks, as_tensor, blocks
from dmt_ray.method.traversal.shrinkage import pooled_f_ratio, squared_differences
from dmt_ray.method.traversal.witness import BorderedGram

#: A deviation below this share of the layer's mean deviation is raised to it: units that are almost dead among the
#: exemplars would otherwise throw an image that does excite them far off the manifold.
DEVIATION_FLOOR = 0.1

#: Share of a CUDA device's free memory that F may take there.
RESIDENT_SHARE = 0.25

#: Makes room for an array of a shape and a dtype, in memory or in a file.
Allocate = Callable[[tuple[int, ...], type[np.generic]], np.ndarray]


def standardisation(features: np.ndarray, standardise: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of one tap's features.

    Parameters:
        features: (K, C, h, w) maps of all exemplars.
        standardise: ``channel`` (over images and positions) or ``unit`` (over images, as in the paper).

    Returns:
        Mean and deviation, float32 (C, 1, 1) for ``channel`` and (C, h, w) for ``unit``.
    """
    channels, height, width = features.shape[1:]
    wide = (channels, 1, 1) if standardise == "channel" else (channels, height, width)
    mean, deviation = np.empty(wide, np.float32), np.empty(wide, np.float32)
    axes = (0, 1, 2) if standardise == "channel" else (0,)
    for c in range(channels):  # a channel at a time: float64 of all features would not fit
        column = features[:, c].astype(np.float64)
        mean[c] = column.mean(axis=axes)
        deviation[c] = column.std(axis=axes)
    return mean, floored(deviation)


class ManifoldBuilder:
    """Fills F with the maps of exemplars as they come, then standardises it in place and makes the Gram matrix.

    Parameters:
        count: exemplars to come at most; sources first, then targets, then the basis.
        standardise: ``channel`` (one mean and deviation per channel, over images and positions), ``unit`` (each unit
            its own, as in the paper) or ``none``.
        allocate: makes the array for F, (count, D) float16; NumPy's own memory by default.
    """

    def __init__(self, count: int, standardise: str, allocate: Allocate = np.empty) -> None:
        self._count = count
        self._standardise = standardise
        self._allocate = allocate
        self._filled = 0
        self._shapes: list[tuple[int, ...]] = []
        self._sums: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._features = np.empty((0, 0), np.float16)

    def add(self, maps: Sequence[Tensor]) -> None:
        """Take the maps of some more exemplars, one (n, C, h, w) per tap."""
        if not self._shapes:
            self._shapes = [tuple(tap.shape[1:]) for tap in maps]
            width = sum(int(np.prod(shape)) for shape in self._shapes)
            self._features = self._allocate((self._count, width), np.float16)
            wide = [shape if self._standardise == "unit" else (shape[0], 1, 1) for shape in self._shapes]
            self._sums = [torch.zeros(shape, dtype=torch.float64) for shape in wide]
            self._squares = [torch.zeros(shape, dtype=torch.float64) for shape in wide]
        number = len(maps[0])
        axes = (0,) if self._standardise == "unit" else (0, 2, 3)
        begin = 0
        for k, tap in enumerate(maps):
            values = tap.clamp(-65504, 65504).half().cpu()  # what is stored is what is summed
            size = int(np.prod(self._shapes[k]))
            rows = self._features[self._filled : self._filled + number, begin : begin + size]
            rows[:] = values.flatten(1).numpy()
            exact = values.double()
            self._sums[k] += exact.sum(axes).view_as(self._sums[k])
            self._squares[k] += exact.square().sum(axes).view_as(self._squares[k])
            begin += size
        self._filled += number

    def finish(
        self, sources: int, targets: int, device: torch.device, weights: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the manifold as plain arrays.

        Parameters:
            sources, targets: how many of the exemplars that came are sources and targets; the rest is basis.
            device: where the Gram matrix is computed.
            weights: (sources + targets,) float64 with sum 1 in each class; None weighs all of a class alike.

        Returns:
            ``features`` (K, D) float16 standardised, ``gram`` (K, K) float64, ``mean_k`` and ``deviation_k`` of tap
            k, ``f_ratio`` (D,) float16 that the two classes differ, ``sources`` and ``targets`` as 0-d arrays;
            ``exemplar_weights`` (sources + targets,) float64 where weights were given.
        """
        features = self._features[: self._filled]
        arrays: dict[str, np.ndarray] = {
            "features": features,
            "sources": np.array(sources),
            "targets": np.array(targets),
        }
        begin = 0
        for k, shape in enumerate(self._shapes):
            mean, deviation = self._statistics(k)
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = mean, deviation
            size = int(np.prod(shape))
            if self._standardise != "none":
                for row in features:
                    part = row[begin : begin + size]
                    part[:] = ((part.reshape(shape) - mean) / deviation).ravel()
            begin += size
        arrays["gram"] = gram_matrix(features, device).cpu().numpy()
        arrays["f_ratio"] = self._f_ratio(features, sources, targets, device, weights)
        if weights is not None:
            arrays["exemplar_weights"] = weights
        return arrays

    def _f_ratio(
        self, features: np.ndarray, sources: int, targets: int, device: torch.device, weights: np.ndarray | None
    ) -> np.ndarray:
        weighed = None if weights is None else as_tensor(weights, device)
        difference, chance = (np.empty(features.shape[1], np.float32) for _ in range(2))
        for columns, block in blocks(features):
            chunk = as_tensor(block[: sources + targets], device).double()
            for whole, part in zip(
                (difference, chance), squared_differences(chunk[:sources], chunk[sources:], weighed), strict=True
            ):
                whole[columns] = part.cpu().numpy()
        return pooled_f_ratio(difference, chance, self._shapes)

    def _statistics(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        shape = self._shapes[k]
        if self._standardise == "none":
            return np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
        count = self._filled * (1 if self._standardise == "unit" else int(np.prod(shape[1:])))
        mean = self._sums[k] / count
        deviation = (self._squares[k] / count - mean.square()).clamp_min(0).sqrt()
        return mean.float().numpy(), floored(deviation.float().numpy())


def floored(deviation: np.ndarray) -> np.ndarray:
    """Return deviations raised to the floor."""
    floor = DEVIATION_FLOOR * float(deviation.mean())
    raised: np.ndarray = np.maximum(deviation, floor if floor > 0 else 1.0)
    return raised


def gram_matrix(features: np.ndarray, device: torch.device) -> Tensor:
    """Return F F^T (K, K) float64 of F (K, D)."""
    gram = torch.zeros((len(features), len(features)), dtype=torch.float64, device=device)
    for _, block in blocks(features):
        chunk = as_tensor(block, device).double()
        gram += chunk @ chunk.T
    return gram


class Manifold:
    """Standardised exemplar features with the operations the traversal needs.

    Parameters:
        arrays: what ``ManifoldBuilder.finish`` returned; may be read-only views of shared memory or of a file.
        taps: number of taps.
        device: where to compute.
        resident: copy F to the device once; otherwise it stays where it is and travels in blocks. None copies it to a
            CUDA device of whose free memory it takes no more than ``RESIDENT_SHARE``.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], taps: int, device: torch.device, resident: bool | None = None
    ) -> None:
        self.device = device
        self.features = arrays.get("features", np.empty((0, 0), np.float16))  # a bank of patches has none
        if resident is None:
            free = free_bytes(device)
            resident = free is not None and self.features.nbytes <= RESIDENT_SHARE * free
        self._blocks = DeviceBlocks(self.features, device, resident=resident)
        self.sources = int(arrays["sources"])
        self.targets = int(arrays["targets"])
        self.shared = as_tensor(arrays.get("gram", np.empty((0, 0))), device)
        weights = arrays.get("exemplar_weights")
        self.weights = None if weights is None else as_tensor(weights, device)
        self.means = [as_tensor(arrays[f"mean_{k}"], device) for k in range(taps)]
        self.deviations = [as_tensor(arrays[f"deviation_{k}"], device) for k in range(taps)]

    def standardise(self, maps: Sequence[Tensor]) -> Tensor:
        """Return standardised features (B, D) float32 of maps, one (B, C, h, w) per tap."""
        parts = [
            ((tap - mean) / deviation).flatten(1)
            for tap, mean, deviation in zip(maps, self.means, self.deviations, strict=True)
        ]
        return torch.cat(parts, 1)

    def unstandardise(self, z: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """Return maps shaped as ``like`` of standardised features z (B, D)."""
        pieces = z.split([tap[0].numel() for tap in like], dim=1)
        return [
            piece.view(len(piece), *tap.shape[1:]) * deviation + mean
            for piece, tap, mean, deviation in zip(pieces, like, self.means, self.deviations, strict=True)
        ]

    def border(self, x: Tensor) -> BorderedGram:
        """Return the Gram matrices that standardised images x (B, D) make with the exemplars."""
        cross = torch.zeros((len(x), len(self.features)), dtype=torch.float64, device=self.device)
        own = torch.zeros(len(x), dtype=torch.float64, device=self.device)
        for columns, block in self._blocks:
            part = x[:, columns].double()
            cross += part @ block.double().T
            own += part.square().sum(1)
        return BorderedGram(self.shared, cross, own, self.sources, self.targets, self.weights)

    def move(self, x: Tensor, r: Tensor) -> Tensor:
        """Return z = F^T (e_x + r) (B, D) of standardised images x (B, D) and displacements r (B, K + 1)."""
        z = x * (1 + r[:, -1:].float())
        weights = r[:, :-1].float()
        used = weights.ne(0).any(0).nonzero().squeeze(1)  # with few neighbours most rows are not
        some = len(used) < len(self.features)
        if some:
            weights = weights[:, used]
        for columns, block in self._blocks.of_rows(used) if some else self._blocks:
            z[:, columns] += weights @ block.float()
        return z
