"""AlexNet's five convolutions: a table of layers of a network that judges edits and does not make them."""

from __future__ import annotations

from dmt_ray.method.networks.layers import Convolution

#: Krizhevsky 2014 (arXiv 1404.5997), as torchvision has it. For pictures of at least 31 x 31; its maps have a quarter
#: of their sides (less a little), then an eighth, then three times a sixteenth: 96 px give maps of 23, 11 and 5.
ALEXNET_LAYERS = (
    Convolution("conv1", 0, 3, 64, kernel=11, stride=4, padding=2),
    Convolution("conv2", 3, 64, 192, kernel=5, padding=2, pool=3),
    Convolution("conv3", 6, 192, 384, pool=3),
    Convolution("conv4", 8, 384, 256),
    Convolution("conv5", 10, 256, 256),
)
