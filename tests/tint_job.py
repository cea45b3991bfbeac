"""A whole job in one module, as docs/contributing.md tells it: photos take on the mean colour of some others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dmt_ray.jobs.exemplar_sets import list_place, naming_option
from dmt_ray.jobs.job import Job, JobConfig
from dmt_ray.jobs.registry import JOBS
from dmt_ray.method.displacement import Displacement, Edit, Figures
from dmt_ray.method.metrics.similarity import Similarity
from dmt_ray.method.pictures import upsample_edit, working_rgb
from dmt_ray.method.settings import InversionConfig, TraversalConfig


@dataclass(frozen=True)
class TintOptions:
    """What tint learns from."""

    tint: str
    """Photos whose mean colour the inputs take on."""


@dataclass(frozen=True, kw_only=True)
class TintConfig(JobConfig):
    """Give photos the mean colour of other photos."""

    tints: TintOptions
    traversal: TraversalConfig = field(default_factory=TraversalConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)

    job: ClassVar[str] = "tint"
    places: ClassVar[tuple[str, ...]] = ("tint",)

    @property
    def strengths(self):
        """The strength of each row of an image."""
        return self.traversal.strengths


class Tint(Job[TintConfig]):
    """Moves the mean colour of each input towards that of the exemplars."""

    config = TintConfig

    def list_exemplars(self, config):
        """List the exemplars."""
        return {"tint": naming_option("tint", lambda: list_place(config.tints.tint))}

    def learn(self, network, pictures, config):
        """Return the mean colour."""
        return {"mean": np.mean([picture.mean((0, 1)) for picture, _ in pictures.pictures("tint")], 0)}

    def editor(self, arrays, exemplars, config, device, measures):
        """Return what shifts colours."""
        return TintEditor(exemplars["mean"], config)


class TintEditor:
    """Shifts all pixels of a picture by the same colour."""

    def __init__(self, mean, config):
        self.mean, self.size, self.strengths = mean, config.model.size, config.strengths
        self.rows = frozenset(range(len(self.strengths)))

    def working(self, rgb):
        """Return the picture (3, size, size) at working size."""
        return working_rgb(rgb, self.size).transpose(2, 0, 1)

    def traverse(self, pictures, identities):
        """Return the shift of each picture."""
        shifts = self.mean - pictures.mean((2, 3))
        return [
            Displacement({"shift": shift}, [Figures(s, float(np.linalg.norm(s * shift))) for s in self.strengths])
            for shift in shifts
        ]

    def reconstruct(self, pictures, displacements, masks):
        """Return the shifted pictures."""
        return [
            [self._edit(picture, displacement, figures) for figures in displacement.steps]
            for picture, displacement in zip(pictures, displacements, strict=True)
        ]

    def bytes_per_image(self, height, width):
        """Return what a picture takes in float32."""
        return 12.0 * height * width

    def assemble(self, rgb, edit, mask):
        """Return the photo with the shift."""
        return upsample_edit(rgb, edit.planes, mask)

    def _edit(self, picture, displacement, figures):
        shift = (figures.strength * displacement.arrays["shift"]).astype(np.float32)
        planes = np.broadcast_to(shift[:, None, None], (3, self.size, self.size))
        result = np.clip(picture.transpose(1, 2, 0) + shift, 0, 255).astype(np.uint8)
        return Edit(figures, planes, result, 0.0, 0.0, 0, Similarity(100.0, 1.0, None))


JOBS["tint"] = Tint()
