"""The papers' normalised VGG: filters rescaled to a mean activation of 1 over the exemplars (Gatys et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.feature_network import FeatureNetwork


class ActivationMeans:
    """Adds up the mean activation of every filter of some layers, over pictures and positions.

    Parameters:
        network: has the layers.
        taps: the layers, from conv1_1 on.
    """

    def __init__(self, network: FeatureNetwork, taps: Sequence[str]) -> None:
        self._network, self._taps = network, tuple(taps)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, images: Tensor) -> None:
        """Take pictures (B, 3, H, W) in 0..255."""
        with torch.inference_mode():
            maps = self._network(images.to(self._network.device) / 255, self._taps)
        for tap, values in zip(self._taps, maps, strict=True):
            total = values.double().mean((2, 3)).sum(0).cpu()
            self._sums[tap] = total + self._sums[tap] if tap in self._sums else total
        self._count += len(images)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``activation_<layer>`` (C,) float32 of each layer."""
        return {f"activation_{tap}": (total / self._count).float().numpy() for tap, total in self._sums.items()}


def tap_scales(means: Mapping[str, np.ndarray], taps: Sequence[str]) -> list[float]:
    """Return what brings squared differences of ``normalised`` maps back to the order of the network's own.

    That keeps the meaning of a weight of total variation, whatever the filters' scale.

    Parameters:
        means: has ``activation_<layer>`` (C,) of those layers that were rescaled; others have scale 1.
        taps: the layers.
    """
    names = [f"activation_{tap}" for tap in taps]
    return [float(np.square(means[name]).mean()) if name in means else 1.0 for name in names]


def normalised(
    arrays: Mapping[str, np.ndarray], backbone: str, means: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Rescale filters so that each one's mean activation is 1, as the papers' normalised VGG (Gatys et al. 2015).

    ReLU and max-pooling keep positive factors, so dividing a filter by its mean and multiplying the next layer's
    weights by it leaves every map as it was, but for its scale. A filter that is all but dead stays as it is.

    Parameters:
        arrays: weights by torchvision's names.
        backbone: a name of the registry.
        means: what ``ActivationMeans.arrays`` returned; layers beyond those stay as they are.
    """
    result = dict(arrays)
    before: np.ndarray | None = None
    for layer in BACKBONES[backbone].layers:
        tap, index = layer.name, layer.index
        weight, bias = result[f"features.{index}.weight"], result[f"features.{index}.bias"]
        if before is not None:
            weight = weight * before[None, :, None, None]
        before = None
        if f"activation_{tap}" in means:
            mean = means[f"activation_{tap}"]
            before = np.where(mean > 1e-4 * mean.mean(), mean, 1).astype(np.float32)
            weight, bias = weight / before[:, None, None, None], bias / before
        result[f"features.{index}.weight"] = np.ascontiguousarray(weight, np.float32)
        result[f"features.{index}.bias"] = np.ascontiguousarray(bias, np.float32)
    return result
