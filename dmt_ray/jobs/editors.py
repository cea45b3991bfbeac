"""What edits pictures: the face that the pipeline knows of each job's editor, and how one is built on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from dmt_ray.config import ColorizeConfig, TransformConfig
from dmt_ray.method.colorizer import Colorizer
from dmt_ray.method.displacement import Displacement, Edit
from dmt_ray.method.networks.vgg import VGG, normalised
from dmt_ray.method.transformer import HELD_TAPS, Transformer
from dmt_ray.method.traversal.selection import ImageIdentity

Array = np.ndarray[Any, Any]

#: Every job's options.
JobConfig = ColorizeConfig | TransformConfig


class Editor(Protocol):
    """Moves pictures and brings them back; holds the network and the exemplars."""

    rows: frozenset[int]
    """Which steps of a displacement were asked for; the others are on the way to them."""

    def working(self, rgb: Array) -> Array:
        """Return what the other calls take of a decoded picture (H, W, 3) uint8, at working size."""
        ...

    def traverse(self, pictures: Array, identities: Sequence[ImageIdentity]) -> list[Displacement]:
        """Return one displacement per picture of a stacked batch; ``identities`` say what is known of each."""
        ...

    def reconstruct(
        self, pictures: Array, displacements: Sequence[Displacement], masks: Sequence[Array | None]
    ) -> list[list[Edit]]:
        """Return each picture's edits, one per step; masks are (size, size) float32 in 0..1."""
        ...

    def assemble(self, rgb: Array, edit: Edit, mask: Array | None) -> Array:
        """Return the result (H, W, 3) uint8 of a decoded picture and an edit of it; a mask is (H, W) uint8."""
        ...


def make_network(arrays: Mapping[str, Array], config: JobConfig, device: str, also: Sequence[str] = ()) -> VGG:
    """Build the run's network on a device; ``also`` are layers that it must have beside its taps."""
    model = config.model
    return VGG(arrays, model.backbone, model.taps, precision=model.precision, device=torch.device(device), also=also)


def make_editor(
    arrays: Mapping[str, Array],
    exemplars: Mapping[str, Array],
    config: JobConfig,
    device: str,
    lpips: Mapping[str, Array] | None = None,
) -> Editor:
    """Build the job's editor on a device.

    Parameters:
        arrays: weights by torchvision name.
        exemplars: what was learned of the exemplars.
        config: the run's options.
        device: torch device.
        lpips: what LPIPS to the input is measured with; None leaves it out.
    """
    if config.model.normalise:
        arrays = normalised(arrays, config.model.backbone, exemplars)
    if isinstance(config, ColorizeConfig):
        return Colorizer(make_network(arrays, config, device), exemplars, config, lpips)
    held = HELD_TAPS if config.inversion.held_weight > 0 else ()
    return Transformer(make_network(arrays, config, device, held), exemplars, config, lpips)
