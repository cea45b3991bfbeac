"""Colorize: black-and-white photos learn their colours from colour photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from dmt_ray.config import require
from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.jobs.job import Editor, ExemplarList, ExemplarPictures, Job, JobConfig, Measures
from dmt_ray.method.settings import ColorizerSettings, InversionConfig, TraversalConfig

if TYPE_CHECKING:
    from dmt_ray.jobs.job import Array
    from dmt_ray.method.networks.feature_network import FeatureNetwork


@dataclass(frozen=True)
class ReferenceConfig:
    """What colorize learns from: colour photos, or a bank that was made of them before."""

    reference: str | None = None
    """Colour photos to learn from, in the same forms. Source = their grey copies, target = themselves."""
    reference_limit: int | None = None
    """Take only so many references, drawn with --seed."""
    manifold: str | None = None
    """A folder or URI that `dmt-ray fit --reference` wrote, instead of --reference."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        if self.manifold is None:
            named = bool(self.reference and self.reference.strip())
            require(named, "reference", self.reference, "a path or URI, unless --manifold is given")
        else:
            require(bool(self.manifold.strip()), "manifold", self.manifold, "a folder or URI")
            for option in ("reference", "reference_limit"):
                value = getattr(self, option)
                require(value is None, option, value, "left out when --manifold is given")
        limit = self.reference_limit
        require(limit is None or limit >= 1, "reference_limit", limit, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ColorizeConfig(JobConfig):
    """Colorize a dataset of black-and-white photos by deep manifold traversal."""

    references: ReferenceConfig
    traversal: TraversalConfig = field(default_factory=TraversalConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)

    job: ClassVar[str] = "colorize"
    places: ClassVar[tuple[str, ...]] = ("reference", "manifold")

    @property
    def editor_settings(self) -> ColorizerSettings:
        """What the editor is told."""
        return ColorizerSettings(
            self.model.size,
            self.traversal,
            self.inversion,
            self.output.save_path,
            self.output.resolution,
            seed=self.inputs.seed,
        )

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image."""
        return self.traversal.strengths


class Colorize(Job[ColorizeConfig]):
    """Learns from colour photos and their grey copies, and gives grey inputs their chroma."""

    config = ColorizeConfig
    digital_source_type = "algorithmicallyEnhanced"

    def saved_manifold(self, config: ColorizeConfig) -> str | None:
        """Return what ``dmt-ray fit --reference`` saved, where --manifold names it."""
        return config.references.manifold or super().saved_manifold(config)

    def suggested_by(self, decided: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        """Return the taps and the size with local traversal: patches are described alike whatever they are."""
        local = decided.get("traversal", {}).get("traversal") == "local"
        return frozenset({"taps", "size"}) if local else frozenset()

    def list_exemplars(self, config: ColorizeConfig) -> dict[str, ExemplarList]:
        """List the references."""
        from dmt_ray.jobs.exemplar_sets import draw, list_place, naming_option

        inputs, settings = config.inputs, config.references
        place = settings.reference
        assert place is not None  # otherwise the manifold is saved already

        def listing() -> ExemplarList:
            if inputs.image_column is None and inputs.uri_column is None:
                return list_place(place)
            try:
                return list_place(place, inputs.image_column, inputs.uri_column)
            except SettingsError:
                return list_place(place)  # the columns may mean the input's table alone

        return {"reference": draw(naming_option("reference", listing), settings.reference_limit, inputs.seed)}

    def check_exemplar(self, option: str, rgb: Array) -> None:
        """Raise ImageError for a grey reference: it would teach that what it shows has no colour."""
        from dmt_ray.method.colorizer import is_grey

        if is_grey(rgb):
            raise ImageError("grey", "The picture is grey, and a reference must have colour.")

    def layers(self, config: ColorizeConfig) -> tuple[str, ...]:
        """Return the layers that describe patches, where traversal is local."""
        from dmt_ray.method.colors.describing import COLOR_LAYERS

        return COLOR_LAYERS if config.traversal.traversal == "local" else ()

    def working(self, rgb: Array, config: ColorizeConfig) -> Array:
        """Return a reference at the size that it is learned from at."""
        from dmt_ray.method.colorizer import exemplar_side
        from dmt_ray.method.pictures import working_rgb

        return working_rgb(rgb, exemplar_side(config.editor_settings))

    def learn(self, network: FeatureNetwork, pictures: ExemplarPictures, config: ColorizeConfig) -> dict[str, Array]:
        """Return what the references show before and after."""
        from dmt_ray.method.colorizer import build_exemplars
        from dmt_ray.storage.scratch import allocate

        references = [picture for picture, _ in pictures.pictures("reference")]
        return build_exemplars(network, references, config.editor_settings, allocate)

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
        from dmt_ray.storage.models.manifolds import open_chunks

        network = make_network(arrays, config, device, self.layers(config))
        store = None
        place = self.saved_manifold(config)
        if config.traversal.traversal == "local" and "patches" not in exemplars and place is not None:
            store = open_chunks(place, "patches")
        return Colorizer(network, exemplars, config.editor_settings, measures.lpips, store)
