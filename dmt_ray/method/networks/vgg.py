"""VGG-16 and VGG-19 up to conv5_1, built from a mapping of arrays, with post-ReLU taps by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmt_ray.config import TAPS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_BLOCK_CHANNELS = (64, 128, 256, 512, 512)


def _plan(backbone: str) -> list[tuple[str, int, int, int]]:
    """Return (tap, index in torchvision's ``features``, in channels, out channels) of each convolution to conv5_1."""
    layers, index, channels_in, block = [], 0, 3, 1
    for tap in TAPS[backbone]:
        tap_block = int(tap[4])
        if tap_block != block:
            index += 1  # the max-pool that closes the block before
            block = tap_block
        channels_out = _BLOCK_CHANNELS[block - 1]
        layers.append((tap, index, channels_in, channels_out))
        index += 2  # convolution and ReLU
        channels_in = channels_out
    return layers


def layer_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Return torchvision's name and the shape of every array up to conv5_1, in network order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for _, index, channels_in, channels_out in _plan(backbone):
        shapes[f"features.{index}.weight"] = (channels_out, channels_in, 3, 3)
        shapes[f"features.{index}.bias"] = (channels_out,)
    return shapes


def tap_stride(tap: str) -> int:
    """Return how many input pixels one cell of a tap's map spans along each side: 1, 2, 4, 8 or 16."""
    return int(2 ** (int(tap[4]) - 1))


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the convolutions: ``auto`` takes bfloat16 where the hardware has instructions for it."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(check is not None and check() for check in checks) else torch.float32


class VGG(nn.Module):
    """A frozen VGG trunk; calling it returns the maps of its taps.

    Parameters:
        arrays: torchvision names (``features.0.weight`` as out x in x 3 x 3, ``features.0.bias``) to float32 arrays.
        backbone: ``vgg16`` or ``vgg19``.
        taps: layers to return, such as ``("conv3_1", "conv4_1", "conv5_1")``; the network stops at the deepest.
        precision: ``auto``, ``fp32`` or ``bf16`` (weights and activations in bfloat16, maps returned as float32).
        device: where to compute.
        also: layers that a call may ask for beside ``taps``.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        backbone: str,
        taps: Sequence[str],
        *,
        precision: str,
        device: torch.device,
        also: Sequence[str] = (),
    ) -> None:
        super().__init__()
        plan = _plan(backbone)
        names = [layer[0] for layer in plan]
        self.backbone = backbone
        self.taps = tuple(taps)
        self.device = device
        self.dtype = resolve_precision(precision, device)
        plan = plan[: max(names.index(tap) for tap in (*self.taps, *also)) + 1]
        self._names = [layer[0] for layer in plan]
        self._weights: list[Tensor] = []
        self._biases: list[Tensor] = []
        for _, index, _, _ in plan:
            weight, bias = (torch.tensor(arrays[f"features.{index}.{part}"]) for part in ("weight", "bias"))
            weight = weight.to(device, self.dtype, memory_format=torch.channels_last)
            self._weights.append(weight)
            self._biases.append(bias.to(device, self.dtype))
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device).view(shape)
        self._std = torch.tensor(IMAGENET_STD, device=device).view(shape)

    def forward(self, images: Tensor, taps: Sequence[str] | None = None) -> list[Tensor]:
        """Return the post-ReLU maps.

        Parameters:
            images: (B, 3, H, W) float RGB in 0..1; H and W at least 16.
            taps: layers to return instead of the network's ``taps``; those and ``also`` can be had.

        Returns:
            One float32 tensor (B, C, H / stride, W / stride) per tap, in the order of ``taps``.
        """
        taps = self.taps if taps is None else taps
        deepest = max(self._names.index(tap) for tap in taps)
        x = ((images - self._mean) / self._std).to(self.dtype).contiguous(memory_format=torch.channels_last)
        maps: dict[str, Tensor] = {}
        block = "1"
        for name, weight, bias in list(zip(self._names, self._weights, self._biases, strict=True))[: deepest + 1]:
            if name[4] != block:
                block = name[4]
                x = F.max_pool2d(x, 2)
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
            if name in taps:
                maps[name] = x.to(torch.promote_types(x.dtype, torch.float32))
        return [maps[tap] for tap in taps]


class ActivationMeans:
    """Adds up the mean activation of every filter of some layers, over pictures and positions.

    Parameters:
        network: a VGG that has the layers.
        taps: the layers, from conv1_1 on.
    """

    def __init__(self, network: VGG, taps: Sequence[str]) -> None:
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
        backbone: ``vgg16`` or ``vgg19``.
        means: what ``ActivationMeans.arrays`` returned; layers beyond those stay as they are.
    """
    result = dict(arrays)
    before: np.ndarray | None = None
    for tap, index, _, _ in _plan(backbone):
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
