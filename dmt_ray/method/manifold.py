"""The manifold of the exemplars: standardised features F and their Gram matrix, built in chunks of D.

Everything the traversal needs of F is G = F F^T, so F is only ever touched in column chunks: once to build G, once
per image for its products with the exemplars, and once to turn a displacement back into features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.witness import BorderedGram

#: Columns of F that are in memory as float64 at a time.
CHUNK = 65536
#: A deviation below this share of the layer's mean deviation is raised to it: units that are almost dead among the
#: exemplars would otherwise throw an image that does excite them far off the manifold.
DEVIATION_FLOOR = 0.1


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on ``device``; on the CPU it shares the array's (possibly read-only) memory.

    Nothing in this package writes to such a tensor, so PyTorch's warning about read-only arrays does not apply.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


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
    floor = DEVIATION_FLOOR * float(deviation.mean())
    return mean, np.maximum(deviation, floor if floor > 0 else 1.0)


class Manifold:
    """Standardised exemplar features with the operations the traversal needs.

    Parameters:
        arrays: what ``build`` returned; may be read-only views of shared memory.
        taps: number of taps.
        device: where to compute; F stays where it is and travels in chunks.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], taps: int, device: torch.device) -> None:
        self.device = device
        self.features = arrays["features"]
        self.sources = int(arrays["sources"])
        self.targets = int(arrays["targets"])
        self.shared = as_tensor(arrays["gram"], device)
        self.means = [as_tensor(arrays[f"mean_{k}"], device) for k in range(taps)]
        self.deviations = [as_tensor(arrays[f"deviation_{k}"], device) for k in range(taps)]

    @staticmethod
    def build(
        source: Sequence[np.ndarray],
        target: Sequence[np.ndarray],
        standardise: str,
        *,
        device: torch.device,
    ) -> dict[str, np.ndarray]:
        """Return the manifold of source and target maps as plain arrays.

        Parameters:
            source: per tap, (N, C, h, w) maps.
            target: per tap, (M, C, h, w) maps.
            standardise: ``channel`` or ``unit``.
            device: where the Gram matrix is computed.

        Returns:
            ``features`` (N + M, D) float16 standardised, ``gram`` (N + M, N + M) float64, ``mean_k`` and
            ``deviation_k`` of tap k, ``sources`` and ``targets`` as 0-d arrays.
        """
        count = len(source[0]) + len(target[0])
        sizes = [int(np.prod(tap.shape[1:])) for tap in source]
        features = np.empty((count, sum(sizes)), np.float16)
        arrays: dict[str, np.ndarray] = {
            "features": features,
            "sources": np.array(len(source[0])),
            "targets": np.array(len(target[0])),
        }
        begin = 0
        for k, (a, b) in enumerate(zip(source, target, strict=True)):
            both = np.concatenate([a, b])
            mean, deviation = standardisation(both, standardise)
            for row in range(count):
                features[row, begin : begin + sizes[k]] = ((both[row] - mean) / deviation).ravel()
            arrays[f"mean_{k}"], arrays[f"deviation_{k}"] = mean, deviation
            begin += sizes[k]
        gram = torch.zeros((count, count), dtype=torch.float64, device=device)
        for column in range(0, features.shape[1], CHUNK):
            chunk = as_tensor(features[:, column : column + CHUNK], device).double()
            gram += chunk @ chunk.T
        arrays["gram"] = gram.cpu().numpy()
        return arrays

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
        for column in range(0, self.features.shape[1], CHUNK):
            part = x[:, column : column + CHUNK].double()
            chunk = as_tensor(self.features[:, column : column + CHUNK], self.device).double()
            cross += part @ chunk.T
            own += part.square().sum(1)
        return BorderedGram(self.shared, cross, own, self.sources, self.targets)

    def move(self, x: Tensor, r: Tensor) -> Tensor:
        """Return z = F^T (e_x + r) (B, D) of standardised images x (B, D) and displacements r (B, K + 1)."""
        z = x * (1 + r[:, -1:].float())
        weights = r[:, :-1].float()
        for column in range(0, self.features.shape[1], CHUNK):
            chunk = as_tensor(self.features[:, column : column + CHUNK], self.device).float()
            z[:, column : column + CHUNK] += weights @ chunk
        return z
