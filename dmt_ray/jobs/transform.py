"""Transform: photos move from one class towards another."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dmt_ray.config import JudgeConfig, MaskConfig, require
from dmt_ray.errors import ImageError
from dmt_ray.jobs.job import Editor, ExemplarList, ExemplarPictures, Job, JobConfig, Measures
from dmt_ray.method.settings import TransformerSettings, TransformInversionConfig, TransformTraversalConfig

if TYPE_CHECKING:
    from dmt_ray.jobs.job import Array
    from dmt_ray.method.networks.feature_network import FeatureNetwork
    from dmt_ray.method.traversal.selection import ImageIdentity
    from dmt_ray.storage.inputs.listing import InputItem
    from dmt_ray.storage.inputs.reader import InputReader

#: The sets of exemplars, by the option that names each.
SETS = ("source", "target", "basis")


@dataclass(frozen=True)
class ExemplarConfig:
    """What transform learns from: two classes of photos, or a manifold that was made of them before."""

    source: str | None = None
    """Photos of the class to move away from: a folder, a glob, a list file, or a CSV or Parquet table."""
    target: str | None = None
    """Photos of the class to move towards, in the same forms."""
    basis: str | None = None
    """Photos of no class that only add directions to move in."""
    source_where: str | None = None
    """SQL condition on the source table's columns, such as "Smiling < 0 AND Male > 0"."""
    target_where: str | None = None
    """SQL condition on the target table's columns."""
    basis_where: str | None = None
    """SQL condition on the basis table's columns."""
    exemplar_image_column: str | None = None
    """Tables: the column with encoded image bytes. Default: found by type and name."""
    exemplar_uri_column: str | None = None
    """Tables: the column with image paths or URIs, instead of bytes. Default: found by name."""
    attribute_columns: tuple[str, ...] = ()
    """Tables: numeric columns that --neighbors-by attributes compares; the input must have them too."""
    balance: tuple[str, ...] = ()
    """Tables: numeric columns, such as eyeglasses,male, in which sources and targets get the same means by weighing
    the exemplars, so that no image is moved by what the classes differ in there."""
    group_column: str | None = None
    """Tables: an image is never moved by exemplars whose value here is its own, such as the person shown."""
    exemplar_limit: int | None = None
    """Take only so many exemplars of each set, drawn with --seed."""
    manifold: str | None = None
    """A folder or URI that `dmt-ray fit` wrote, instead of --source and --target."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.manifold is None:
            for option in ("source", "target"):
                value = getattr(self, option)
                require(bool(value and value.strip()), option, value, "a path or URI, unless --manifold is given")
        for option in ("source", "target", "basis", "source_where", "target_where", "basis_where"):
            value = getattr(self, option)
            if self.manifold is not None:
                require(value is None, option, value, "left out when --manifold is given")
        for option in ("source", "target", "basis"):
            value, where = getattr(self, option), getattr(self, f"{option}_where")
            require(where is None or value is not None, f"{option}_where", where, f"given with --{option}")
        require(len(set(self.balance)) == len(self.balance), "balance", self.balance, "free of repetition")
        limit = self.exemplar_limit
        require(limit is None or limit >= 1, "exemplar_limit", limit, "at least 1")
        both = self.exemplar_image_column is not None and self.exemplar_uri_column is not None
        require(not both, "exemplar_image_column", self.exemplar_image_column, "left out with --exemplar-uri-column")


@dataclass(frozen=True, kw_only=True)
class TransformConfig(JobConfig):
    """Move a dataset of photos from one class towards another by deep manifold traversal."""

    exemplars: ExemplarConfig
    traversal: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    inversion: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    judging: JudgeConfig = field(default_factory=JudgeConfig)

    job: ClassVar[str] = "transform"
    places: ClassVar[tuple[str, ...]] = (*SETS, "manifold", "mask_folder")

    def __post_init__(self) -> None:
        """Check what goes together across sections."""
        by_attributes = self.traversal.neighbors_by == "attributes"
        require(
            not by_attributes or bool(self.exemplars.attribute_columns) or self.exemplars.manifold is not None,
            "neighbors_by",
            "attributes",
            "features unless --attribute-columns says which",
        )
        stepless = self.traversal.budget_weight or self.traversal.beta
        require(
            not (self.output.save_path and stepless),
            "save_path",
            self.output.save_path,
            "0 unless the steps are given by --strength",
        )
        if self.judging.until_flipped:
            require(not stepless, "until_flipped", True, "left out with --budget-weight or --beta")
            path = self.output.save_path
            require(path == 0, "save_path", path, "0 with --until-flipped")

    @property
    def editor_settings(self) -> TransformerSettings:
        """What the editor is told."""
        return TransformerSettings(
            self.model.size,
            self.traversal,
            self.inversion,
            self.output.save_path,
            self.output.resolution,
            noise_seed=self.inputs.seed,
            until_flipped=self.judging.until_flipped,
        )

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image; None where something else decides it."""
        return (None,) if self.judging.until_flipped else self.traversal.steps

    def named_places(self) -> dict[str, str]:
        """Return the paths and URIs that the options name, by option."""
        place = self.judging.place
        return super().named_places() | ({} if place is None else {"judge": place})


class Transform(Job[TransformConfig]):
    """Learns from two classes of photos, and moves every input from the one towards the other."""

    config = TransformConfig
    decided: Mapping[str, tuple[str, ...]] = {
        **Job.decided,
        "exemplars": ("attribute_columns", "balance", "group_column"),
    }

    def saved_manifold(self, config: TransformConfig) -> str | None:
        """Return what ``dmt-ray fit`` saved, where --manifold names it."""
        return config.exemplars.manifold or super().saved_manifold(config)

    def masks(self, config: TransformConfig) -> MaskConfig:
        """Return where images may change."""
        return config.masks

    def judging(self, config: TransformConfig) -> JudgeConfig:
        """Return who judges results."""
        return config.judging

    def list_exemplars(self, config: TransformConfig) -> dict[str, ExemplarList]:
        """List sources, targets and the basis, with the weights that --balance asks for."""
        from dmt_ray.jobs.exemplar_sets import balance_sets, draw, naming_option

        settings = config.exemplars
        given = [option for option in SETS if getattr(settings, option) is not None]
        listed = {option: naming_option(option, functools.partial(_list_set, settings, option)) for option in given}
        drawn = {option: draw(found, settings.exemplar_limit, config.inputs.seed) for option, found in listed.items()}
        return balance_sets(drawn, settings.balance) if settings.balance else drawn

    def working(self, rgb: Array, config: TransformConfig) -> Array:
        """Return an exemplar at working size; for local traversal it keeps its aspect ratio."""
        from dmt_ray.method.pictures import working_rgb

        return working_rgb(rgb, config.model.size, keep_aspect=config.traversal.traversal == "local")

    def identity(self, item: InputItem, data: bytes, config: TransformConfig, reader: InputReader) -> ImageIdentity:
        """Return the digest of an image's bytes, and its table's group and attributes.

        Raises:
            StorageError: its table has no such column.
            ImageError: kind ``no-attributes`` when an attribute is missing or no number.
        """
        import numpy as np

        from dmt_ray.method.traversal.selection import ImageIdentity, digest

        settings = config.exemplars
        columns = [*settings.attribute_columns, *([settings.group_column] if settings.group_column else [])]
        if not columns or (item.record is None and not settings.attribute_columns):
            return ImageIdentity(content=digest(data))
        values = reader.read_record(item, columns)
        group = values[settings.group_column] if settings.group_column else None
        attributes = None
        if settings.attribute_columns:
            try:
                attributes = np.array([float(values[name]) for name in settings.attribute_columns], np.float32)
            except (TypeError, ValueError) as error:
                raise ImageError("no-attributes", f"The attributes {values} are not all numbers.") from error
        return ImageIdentity(digest(data), None if group is None else str(group), attributes)

    def exemplar_identity(
        self, option: str, item: InputItem, data: bytes, config: TransformConfig, reader: InputReader
    ) -> ImageIdentity:
        """Return what is known of an exemplar; pictures of a basis have no group and no attributes."""
        from dmt_ray.method.traversal.selection import ImageIdentity, digest

        if option == "basis":
            return ImageIdentity(content=digest(data))
        return self.identity(item, data, config, reader)

    def learn(self, network: FeatureNetwork, pictures: ExemplarPictures, config: TransformConfig) -> dict[str, Array]:
        """Return the manifold of both classes."""
        from dmt_ray.method.class_manifold import build_manifold
        from dmt_ray.storage.scratch import allocate

        sets = [pictures.pictures(option) for option in SETS]
        return build_manifold(network, sets, pictures.count, config.editor_settings, allocate)

    def editor(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: TransformConfig,
        device: str,
        measures: Measures,
    ) -> Editor:
        """Build the transformer."""
        from dmt_ray.jobs.networks import make_network
        from dmt_ray.method.transformer import HELD_TAPS, Transformer

        held: Sequence[str] = HELD_TAPS if config.inversion.held_weight > 0 else ()
        network = make_network(arrays, config, device, held)
        return Transformer(network, exemplars, config.editor_settings, measures.lpips, measures.judge)


def _list_set(settings: ExemplarConfig, option: str) -> ExemplarList:
    """List one set; its attributes and groups are only checked here, and read with each picture.

    What the classes are balanced by is taken from here, because the weights of one depend on all.
    """
    from dmt_ray.storage.inputs.exemplar_tables import list_exemplars

    compared = option != "basis"  # no image chooses or avoids the pictures of a basis, and none is of a class
    columns = list(dict.fromkeys([*settings.attribute_columns, *settings.balance]))
    found = list_exemplars(
        getattr(settings, option),
        where=getattr(settings, f"{option}_where"),
        attribute_columns=columns if compared else (),
        group_column=settings.group_column if compared else None,
        image_column=settings.exemplar_image_column,
        uri_column=settings.exemplar_uri_column,
    )
    values = None
    if compared and settings.balance and found.attributes is not None:
        values = found.attributes[:, [columns.index(name) for name in settings.balance]]
    return ExemplarList(found.items, found.containers, values, passed_over=found.passed_over)
