"""What colours are looked up by: every patch of a grey picture, described by several layers of the network together.

Pictures are described at one size, whatever the working size of the run: the same photo finds the same colours at
every ``--size``, and a reference takes the same room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method import color
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH
from dmt_ray.method.traversal.patches import (
    MATCH_STRIDE,
    SEARCH_DIMENSIONS,
    describe,
    describe_scene,
    principal_directions,
)

#: Layers that describe a patch together; every backbone has them.
COLOR_LAYERS = ("conv2_2", "conv3_3", "conv4_3", "conv5_1")
#: Values that are kept of a patch beside its descriptor: chroma (Cb, Cr), and mean and deviation of its luma.
EXTRAS = 4


@dataclass(frozen=True)
class Described:
    """Grey pictures as their patches.

    Attributes:
        descriptors: (B, patches, P) float32, of unit length before they were projected.
        tone: (B, patches, 2) float32, mean and deviation of each patch's luma in 0..1.
        scenes: (B, P) float32 of unit length, the pictures as a whole.
    """

    descriptors: Tensor
    tone: Tensor

    @property
    def scenes(self) -> Tensor:
        """The mean direction of each picture's patches."""
        return describe_scene(self.descriptors)

    def __len__(self) -> int:
        return len(self.descriptors)


class PatchDescriber:
    """Describes the patches of grey pictures.

    Parameters:
        network: has the layers.
        arrays: what ``learn`` returned; may be read-only views of shared memory.
        size: side in pixels at which pictures are described.
    """

    def __init__(self, network: FeatureNetwork, arrays: Mapping[str, np.ndarray], size: int) -> None:
        self._network, self.size = network, size
        device = network.device
        self.means = [torch.tensor(arrays[f"mean_{layer}"], device=device) for layer in COLOR_LAYERS]
        self.deviations = [torch.tensor(arrays[f"deviation_{layer}"], device=device) for layer in COLOR_LAYERS]
        self.projection = torch.tensor(arrays["projection"], device=device)
        self.grid = grid_of(size)

    @staticmethod
    def learn(network: FeatureNetwork, luma: Sequence[np.ndarray], size: int) -> dict[str, np.ndarray]:
        """Return how patches are to be described, from some of the references.

        Parameters:
            network: has the layers.
            luma: (size, size) float32 in 0..255 of each picture.
            size: side in pixels.

        Returns:
            ``mean_<layer>`` and ``deviation_<layer>`` (1, C, 1, 1) float32 over pictures and patches, and
            ``projection`` (sum of C, P) float32 onto principal directions.
        """
        parts: list[list[Tensor]] = [[] for _ in COLOR_LAYERS]
        for begin in range(0, len(luma), BATCH):
            for part, tap in zip(parts, _maps(network, np.stack(luma[begin : begin + BATCH])), strict=True):
                part.append(_on_grid(tap, grid_of(size)).half().cpu())
        maps = [torch.cat(part) for part in parts]
        means = [tap.float().mean((0, 2, 3), keepdim=True) for tap in maps]
        deviations = [tap.float().std((0, 2, 3), keepdim=True, unbiased=False).clamp_min(1e-4) for tap in maps]
        rows = torch.cat(
            [
                describe([tap[n : n + 1].float() for tap in maps], means, deviations, grid_of(size)).half()
                for n in range(len(luma))
            ]
        )
        arrays = {"projection": principal_directions(rows.flatten(0, 1)).numpy()}
        for layer, mean, deviation in zip(COLOR_LAYERS, means, deviations, strict=True):
            arrays[f"mean_{layer}"], arrays[f"deviation_{layer}"] = mean.numpy(), deviation.numpy()
        return arrays

    @torch.no_grad()
    def __call__(self, luma: np.ndarray | Tensor) -> Described:
        """Describe pictures of luma (B, size, size) in 0..255."""
        planes = torch.as_tensor(luma, device=self._network.device).float()
        maps = _maps(self._network, planes)
        descriptors = describe(maps, self.means, self.deviations, self.grid) @ self.projection
        return Described(descriptors, tone_of(planes[:, None], self.grid))

    @torch.no_grad()
    def change(self, luma: Tensor, chroma: Tensor) -> Tensor:
        """Return how far chroma (B, 2, size, size) moves the features of luma (B, size, size), standardised: (B,)."""
        before = _maps(self._network, luma)
        after = self._network(color.to_rgb(luma[:, None], chroma).clamp(0, 255) / 255, COLOR_LAYERS)
        squares = [
            ((b - a) / deviation).square().flatten(1).sum(1)
            for a, b, deviation in zip(before, after, self.deviations, strict=True)
        ]
        return torch.stack(squares).sum(0).sqrt()


def grid_of(size: int) -> tuple[int, int]:
    """Return rows and columns of patches of a picture of a side in pixels."""
    return size // MATCH_STRIDE, size // MATCH_STRIDE


def row_width() -> int:
    """Return how many float16 are kept of each patch of a reference: its descriptor, and ``EXTRAS``."""
    return SEARCH_DIMENSIONS + EXTRAS


def pack(found: Described, chroma: Tensor) -> np.ndarray:
    """Return (B, patches, P + EXTRAS) float16 to keep of references with chroma (B, 2, size, size)."""
    rows, columns = grid_of(chroma.shape[-1])
    planes = F.adaptive_avg_pool2d(chroma, (rows, columns)).flatten(2).transpose(1, 2)
    packed: np.ndarray = torch.cat([found.descriptors, planes, found.tone], 2).half().cpu().numpy()
    return packed


def tone_of(luma: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return mean and deviation (B, patches, 2) of each patch of luma (B, 1, h, w) in 0..255, in 0..1."""
    scaled = luma / 255
    mean = F.adaptive_avg_pool2d(scaled, grid)
    deviation = (F.adaptive_avg_pool2d(scaled.square(), grid) - mean.square()).clamp_min(0).sqrt()
    return torch.cat([mean, deviation], 1).flatten(2).transpose(1, 2)


@torch.no_grad()
def _maps(network: FeatureNetwork, luma: np.ndarray | Tensor) -> list[Tensor]:
    """Return the layers' maps (B, C, h, w) of luma (B, size, size)."""
    planes = torch.as_tensor(luma, device=network.device).float()
    maps: list[Tensor] = network(planes[:, None].expand(-1, 3, -1, -1) / 255, COLOR_LAYERS)
    return maps


def _on_grid(tap: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring a map to the grid, as ``describe`` does."""
    if tap.shape[-1] > grid[1]:
        return F.adaptive_avg_pool2d(tap, grid)
    return F.interpolate(tap, size=grid, mode="bilinear", align_corners=False)
