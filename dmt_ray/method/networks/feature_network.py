"""The network whose features are moved: a backbone up to the deepest tap, on a device, in a precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.conv_stack import ConvStack


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


class FeatureNetwork(ConvStack):
    """A frozen backbone; calling it returns the maps of its taps.

    Parameters:
        arrays: torchvision names (``features.0.weight`` as out x in x 3 x 3, ``features.0.bias``) to float32 arrays.
        backbone: a name of the registry, such as ``vgg16``.
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
        known = BACKBONES[backbone]
        deepest = max(known.taps.index(tap) for tap in (*taps, *also))
        super().__init__(known.layers[: deepest + 1], arrays, torch.channels_last)
        self.backbone = backbone
        self.taps = tuple(taps)
        self.device = device
        self.dtype = resolve_precision(precision, device)
        """Of weights and activations."""
        mean, std = self.mean, self.std
        self.to(device, self.dtype)
        self.mean, self.std = mean.to(device), std.to(device)  # pictures are scaled in their own precision

    def forward(self, images: Tensor, taps: Sequence[str] | None = None) -> list[Tensor]:
        """Return the post-ReLU maps.

        Parameters:
            images: (B, 3, H, W) float RGB in 0..1; H and W at least 16.
            taps: layers to return instead of the network's ``taps``; those and ``also`` can be had.

        Returns:
            One float32 tensor (B, C, H / stride, W / stride) per tap, in the order of ``taps``.
        """
        taps = self.taps if taps is None else taps
        found = {name: tap.to(torch.promote_types(tap.dtype, torch.float32)) for name, tap in self.maps(images, taps)}
        return [found[tap] for tap in taps]
