"""How much memory an inversion takes: the formula of docs/memory.md, and how much there is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dmt_ray.method.inversion.objective import NEAR_HISTORY
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.layers import tap_stride

#: Bytes per pixel and image of a pass of the network without and with gradients, in float32, to conv5_1.
FORWARD_BYTES, BACKWARD_BYTES = 900, 3000
#: Bytes per value of the taps' maps and of their targets, in float32.
_MAPS_BYTES = 8
#: Planes of pixels in float32 that L-BFGS holds beside its memory of pairs.
_PLANES = 5


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that a CUDA device has left for this process; None on another device."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch keeps for later counts as used there.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def values_per_pixel(backbone: str, taps: Sequence[str]) -> float:
    """Return how many features there are for each pixel of the working picture: 26 for the default taps."""
    channels = {layer.name: layer.channels_out for layer in BACKBONES[backbone].layers}
    return sum(channels[tap] / tap_stride(tap) ** 2 for tap in taps)


def inversion_bytes(pixels: int, values: float, *, half: bool = False, history: int = NEAR_HISTORY) -> float:
    """Return the bytes that the inversion of one image takes at most, whatever the batch.

    Parameters:
        pixels: of the image at working size.
        values: ``values_per_pixel`` of the taps.
        half: activations are in bfloat16.
        history: pairs in the memory of L-BFGS.
    """
    network = BACKWARD_BYTES / 2 if half else BACKWARD_BYTES
    planes = 12 * (2 * history + _PLANES)
    return float(pixels * (network + _MAPS_BYTES * values + planes))
