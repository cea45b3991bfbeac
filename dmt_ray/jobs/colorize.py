"""Colorize: black-and-white photos learn their colours from colour photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dmt_ray.config import require
from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.jobs.job import Editor, ExemplarList, ExemplarPictures, Job, JobConfig, Measures
from dmt_ray.method.settings import ColorizerSettings, InversionConfig, TraversalConfig

if TYPE_CHECKING:
    from dmt_ray.jobs.job import Array
    from dmt_ray.method.networks.feature_network import FeatureNetwork


@dataclass(frozen=True)
class ReferenceConfig:
    """What colorize learns from."""

    reference: str
    """Colour photos to learn from, in the same forms. Source = their grey copies, target = themselves."""
    reference_limit: int | None = None
    """Take only so many references, drawn with --seed."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(bool(self.reference.strip()), "reference", self.reference, "a path or URI")
        limit = self.reference_limit
        require(limit is None or limit >= 1, "reference_limit", limit, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig(JobConfig):
    """Colorize a dataset of black-and-white photos by deep manifold traversal."""

    references: ReferenceConfig
    traversal: TraversalConfig = field(default_factory=TraversalConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)

    job: ClassVar[str] = "colorize"
    places: ClassVar[tuple[str, ...]] = ("reference",)

    @property
    def editor_settings(self) -> ColorizerSettings:
        """What the editor is told."""
        return ColorizerSettings(
            self.model.size, self.traversal, self.inversion, self.output.save_path, self.output.resolution
        )

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image."""
        return self.traversal.strength


class Colorize(Job[ColorizeConfig]):
    """Learns from colour photos and their grey copies, and gives grey inputs their chroma."""

    config = ColorizeConfig
    digital_source_type = "algorithmicallyEnhanced"

    def list_exemplars(self, config: ColorizeConfig) -> dict[str, ExemplarList]:
        """List the references."""
        from dmt_ray.jobs.exemplar_sets import draw, list_place, naming_option

        inputs, settings = config.inputs, config.references

        def listing() -> ExemplarList:
            if inputs.image_column is None and inputs.uri_column is None:
                return list_place(settings.reference)
            try:
                return list_place(settings.reference, inputs.image_column, inputs.uri_column)
            except SettingsError:
                return list_place(settings.reference)  # the columns may mean the input's table alone

        return {"reference": draw(naming_option("reference", listing), settings.reference_limit, inputs.seed)}

    def check_exemplar(self, option: str, rgb: Array) -> None:
        """Raise ImageError for a grey reference: it would teach that what it shows has no colour."""
        from dmt_ray.method.colorizer import is_grey

        if is_grey(rgb):
            raise ImageError("grey", "The picture is grey, and a reference must have colour.")

    def learn(self, network: FeatureNetwork, pictures: ExemplarPictures, config: ColorizeConfig) -> dict[str, Array]:
        """Return what the references show before and after."""
        import numpy as np

        from dmt_ray.method.colorizer import build_exemplars

        references = [picture for picture, _ in pictures.pictures("reference")]
        return build_exemplars(network, np.stack(references), config.editor_settings)

    def editor(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: ColorizeConfig,
        device: str,
        measures: Measures,
    ) -> Editor:
        """Build the colorizer."""
        from dmt_ray.jobs.networks import make_network
        from dmt_ray.method.colorizer import Colorizer

        return Colorizer(make_network(arrays, config, device), exemplars, config.editor_settings, measures.lpips)
