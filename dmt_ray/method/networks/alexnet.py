"""AlexNet's five convolutions: a network other than the one that edits, to judge edits by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dmt_ray.method.networks.conv_stack import Convolution, ConvStack

#: Krizhevsky 2014 (arXiv 1404.5997), as torchvision has it.
ALEXNET_LAYERS = (
    Convolution(0, 3, 64, kernel=11, stride=4, padding=2),
    Convolution(3, 64, 192, kernel=5, padding=2, pool=3),
    Convolution(6, 192, 384, pool=3),
    Convolution(8, 384, 256),
    Convolution(10, 256, 256),
)


class AlexNet(ConvStack):
    """The five post-ReLU maps of AlexNet, of 64, 192, 384, 256 and 256 channels.

    Calling it with images (B, 3, H, W), sRGB in 0..1, H and W at least 31, returns the list of maps. They have a
    quarter of the picture's sides (less a little), then an eighth, then thrice a sixteenth: 96 px give maps of 23, 11
    and 5. No gradient reaches the weights.

    Parameters:
        arrays: torchvision names to float32 arrays, such as ``storage.weights.load_alexnet().arrays``.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(ALEXNET_LAYERS, arrays)
