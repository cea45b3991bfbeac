"""A frozen stack of convolutions whose post-ReLU maps come out one by one: the networks that judge edits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmt_ray.method.networks.vgg import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Convolution:
    """One convolution and its ReLU.

    Attributes:
        index: of the convolution in torchvision's ``features``.
        channels_in, channels_out, kernel, stride, padding: as PyTorch means them.
        pool: side of the max-pool of stride 2 that comes before; None for none.
        tapped: whether its map is wanted.
    """

    index: int
    channels_in: int
    channels_out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = None
    tapped: bool = True


def conv_stack_shapes(layers: Sequence[Convolution]) -> dict[str, tuple[int, ...]]:
    """Return torchvision's name and the shape of every array of the layers, in network order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[f"features.{layer.index}.weight"] = (
            *(layer.channels_out, layer.channels_in),
            *(layer.kernel, layer.kernel),
        )
        shapes[f"features.{layer.index}.bias"] = (layer.channels_out,)
    return shapes


class ConvStack(nn.Module):
    """Convolutions with given weights, in the dtype that ``.to`` gives them (float32 at first); nothing is trained.

    Parameters:
        layers: in network order.
        arrays: torchvision names (``features.0.weight``, ``features.0.bias``) to float32 arrays.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Sequence[Convolution], arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        for name in conv_stack_shapes(layers):
            self.register_buffer(name.replace(".", "_"), torch.tensor(arrays[name]))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the post-ReLU map (B, C, h, w) of each tapped layer for images (B, 3, H, W), sRGB in 0..1.

        Without gradients, what was yielded is forgotten as soon as the caller lets go of it.
        """
        x = (images - self.mean) / self.std
        for layer in self.layers:
            if layer.pool is not None:
                x = F.max_pool2d(x, layer.pool, stride=2)
            weight = self.get_buffer(f"features_{layer.index}_weight")
            bias = self.get_buffer(f"features_{layer.index}_bias")
            x = F.relu(F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding))
            if layer.tapped:
                yield x

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the post-ReLU maps of all tapped layers; see ``maps``."""
        return list(self.maps(images))
