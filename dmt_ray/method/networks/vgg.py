"""VGG-16 and VGG-19: tables of layers (Simonyan & Zisserman 2015), as torchvision numbers them."""

from __future__ import annotations

from dmt_ray.method.networks.layers import Backbone, Convolution

_CHANNELS = (64, 128, 256, 512, 512)


def vgg_layers(convolutions: tuple[int, ...]) -> tuple[Convolution, ...]:
    """Return the layers of a VGG network.

    Parameters:
        convolutions: how many each block has; a max-pool lies between two blocks.
    """
    layers: list[Convolution] = []
    index, channels_in = 0, 3
    for block, count in enumerate(convolutions, 1):
        for number in range(1, count + 1):
            pool = 2 if number == 1 and block > 1 else None
            index += 0 if pool is None else 1  # the max-pool
            channels_out = _CHANNELS[block - 1]
            layers.append(Convolution(f"conv{block}_{number}", index, channels_in, channels_out, pool=pool))
            index += 2  # convolution and ReLU
            channels_in = channels_out
    return tuple(layers)


#: Up to conv5_1, the deepest layer that the papers take.
VGG16 = Backbone(
    "vgg16",
    vgg_layers((2, 2, 3, 3, 1)),
    torchvision="VGG16_Weights",
    packaged=True,
    sha256="4e0ebe22666573cb0095f1e46dc354ee43ad5f3d7686c601d620eec596d3f4ac",
)
VGG19 = Backbone("vgg19", vgg_layers((2, 2, 4, 4, 1)), torchvision="VGG19_Weights")
