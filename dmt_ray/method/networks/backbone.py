"""The registry of backbones: networks whose features can be moved. It needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dmt_ray.method.networks.layers import Backbone
from dmt_ray.method.networks.vgg import VGG16, VGG19

#: A new backbone is one table of layers and one entry here.
BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in (VGG16, VGG19)}

if TYPE_CHECKING:
    BackboneName = str
else:  # the command line shows these as choices
    BackboneName = Literal[tuple(BACKBONES)]
