"""LPIPS 0.1: how different two pictures look, as published linear heads on a network's features say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.conv_stack import ConvStack
from dmt_ray.method.networks.layers import Convolution, convolution_shapes
from dmt_ray.method.networks.vgg import vgg_layers

#: Convolutions of each network, and the names of those whose maps are compared: the last of each block.
LPIPS_LAYERS: dict[str, tuple[Convolution, ...]] = {"vgg16": vgg_layers((2, 2, 3, 3, 3)), "alexnet": ALEXNET_LAYERS}
LPIPS_TAPS = {
    "vgg16": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
    "alexnet": tuple(layer.name for layer in ALEXNET_LAYERS),
}

#: Added to the length of a cell's features before dividing by it, as published.
_EPSILON = 1e-10


def lpips_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array that ``Lpips`` needs: the network's, then the heads'."""
    channels = {layer.name: layer.channels_out for layer in LPIPS_LAYERS[network]}
    heads = {f"lin{k}.model.1.weight": (1, channels[tap], 1, 1) for k, tap in enumerate(LPIPS_TAPS[network])}
    return convolution_shapes(LPIPS_LAYERS[network]) | heads


class Lpips(nn.Module):
    """The distance of Zhang et al. 2018 (arXiv 1801.03924, equation 1), version 0.1 of its weights.

    Features of both pictures are normalised to length one over the channels of each cell; their squared difference,
    weighted per channel by the head, is averaged over the cells and summed over the five taps. The published scaling
    layer for pictures in -1..1 is ImageNet's normalisation of pictures in 0..1.

    It costs two passes of the network. With vgg16 they take 1.2 million floating-point operations and, without
    gradients, about 1.8 KB of memory per pixel of a pair: 1.9 GB for a pair of 1024 x 1024. With alexnet a twentieth
    of the operations and a ninth of the memory. The weights are 59 MB (alexnet 10 MB).

    Parameters:
        network: ``vgg16`` or ``alexnet``.
        arrays: arrays of ``lpips_shapes(network)``, such as ``storage.weights.load_lpips(network).arrays``.
    """

    def __init__(self, network: str, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.stack = ConvStack(LPIPS_LAYERS[network], arrays)
        self._names = LPIPS_TAPS[network]
        names = [name for name in lpips_shapes(network) if name.startswith("lin")]
        self.taps = len(names)
        for k, name in enumerate(names):
            self.register_buffer(f"head_{k}", torch.tensor(arrays[name]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance (B,) of pictures a and b, each (B, 3, H, W) sRGB in 0..1.

        Zero for the same picture, seldom over one. H and W at least 16 (31 with alexnet). Symmetric.

        Raises:
            ValueError: the shapes differ.
        """
        if a.shape != b.shape:
            raise ValueError(f"pictures of {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
        total = a.new_zeros(len(a))
        for k, (_, maps) in enumerate(self.stack.maps(torch.cat([a, b]), self._names)):
            one, other = _unit(maps).chunk(2)
            weighted = torch.einsum("bchw,c->bhw", (one - other).square(), self.get_buffer(f"head_{k}").flatten())
            total = total + weighted.mean((1, 2))
        return total


def _unit(maps: Tensor) -> Tensor:
    """Return maps whose cells have length one over the channels (those of no features stay zero)."""
    # Under the root a number that changes no value, for a gradient that is finite where a cell has no features.
    length = (maps.square().sum(1, keepdim=True) + _EPSILON**2).sqrt()
    return maps / (length + _EPSILON)
