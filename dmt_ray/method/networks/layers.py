"""Tables of layers: what a network is made of, without its numbers and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """One convolution and its ReLU.

    Attributes:
        name: of the map behind the ReLU, such as ``conv3_1``.
        index: of the convolution in torchvision's ``features``.
        channels_in, channels_out, kernel, stride, padding: as PyTorch means them.
        pool: side of the max-pool of stride 2 that comes before; None for none.
    """

    name: str
    index: int
    channels_in: int
    channels_out: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = None


@dataclass(frozen=True)
class Backbone:
    """A network whose features can be moved.

    Attributes:
        name: as ``--backbone`` names it.
        layers: its convolutions in network order. A tap ``conv<block>_<number>`` has the stride 2^(block - 1).
        torchvision: name of torchvision's enumeration of its weights; None where torchvision has none.
        packaged: the Python package that carries VGG-16 has its weights too.
        sha256: content hash that every source of its weights must reproduce; None where it is not known.
    """

    name: str
    layers: tuple[Convolution, ...]
    torchvision: str | None = None
    packaged: bool = False
    sha256: str | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the maps that can be taken, in network order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Torchvision's name and the shape of every array, in network order."""
        return convolution_shapes(self.layers)


def convolution_shapes(layers: Sequence[Convolution]) -> dict[str, tuple[int, ...]]:
    """Return torchvision's name and the shape of every array of some layers, in network order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        kernel = (layer.kernel, layer.kernel)
        shapes[f"features.{layer.index}.weight"] = (layer.channels_out, layer.channels_in, *kernel)
        shapes[f"features.{layer.index}.bias"] = (layer.channels_out,)
    return shapes


def tap_stride(tap: str) -> int:
    """Return how many input pixels one cell of a tap's map spans along each side: 1, 2, 4, 8 or 16."""
    return int(2 ** (int(tap.removeprefix("conv").partition("_")[0]) - 1))
