"""A frozen stack of convolutions whose post-ReLU maps come out by name, for networks that edit and that judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmt_ray.method.networks.layers import Convolution, convolution_shapes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ConvStack(nn.Module):
    """Convolutions with given weights; nothing is trained. ``.to`` moves them to another device or dtype.

    Parameters:
        layers: in network order.
        arrays: torchvision names (``features.0.weight`` as out x in x height x width, ``features.0.bias``) to float32
            arrays.
        memory_format: of weights and maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[Convolution],
        arrays: Mapping[str, np.ndarray],
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.memory_format = memory_format
        for name in convolution_shapes(layers):
            array = torch.tensor(arrays[name])
            array = array.contiguous(memory_format=memory_format) if array.dim() == 4 else array
            self.register_buffer(name.replace(".", "_"), array)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def maps(self, images: Tensor, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield the post-ReLU map (B, C, h, w) of each of some layers, in network order.

        Without gradients, what was yielded is forgotten as soon as the caller lets go of it. The stack ends at the
        deepest of the layers.

        Parameters:
            images: (B, 3, H, W), sRGB in 0..1.
            names: of the layers.
        """
        left = set(names)
        dtype = self.get_buffer(f"features_{self.layers[0].index}_weight").dtype
        x = ((images - self.mean) / self.std).to(dtype).contiguous(memory_format=self.memory_format)
        for layer in self.layers:
            if layer.pool is not None:
                x = F.max_pool2d(x, layer.pool, stride=2)
            weight = self.get_buffer(f"features_{layer.index}_weight")
            bias = self.get_buffer(f"features_{layer.index}_bias")
            x = F.relu(F.conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding))
            if layer.name in left:
                left.discard(layer.name)
                yield layer.name, x
            if not left:
                return

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the post-ReLU maps of all layers; see ``maps``."""
        return [found for _, found in self.maps(images, [layer.name for layer in self.layers])]
