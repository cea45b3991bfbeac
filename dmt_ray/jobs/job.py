"""What a job is: its options, its sets of exemplars, how it learns from them, and its editor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, get_type_hints

import numpy as np

from dmt_ray.config import ComputeConfig, InputConfig, JudgeConfig, MaskConfig, OutputConfig, RunConfig
from dmt_ray.jobs.option_values import option_value
from dmt_ray.method.settings import ModelConfig
from dmt_ray.output.layout import MANIFOLD_FOLDER
from dmt_ray.storage import files

if TYPE_CHECKING:
    from dmt_ray.method.displacement import Displacement, Edit
    from dmt_ray.method.metrics.verdicts import Judge
    from dmt_ray.method.networks.feature_network import FeatureNetwork
    from dmt_ray.method.traversal.balancing import ClassBalance
    from dmt_ray.method.traversal.selection import ImageIdentity
    from dmt_ray.storage.inputs.listing import InputItem
    from dmt_ray.storage.inputs.reader import InputReader

Array = np.ndarray[Any, Any]
#: Arrays by name: weights, or what a job has learned.
Arrays = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class JobConfig(ABC):
    """The options of one job: the sections that every job has. A job's own options come as further sections."""

    inputs: InputConfig
    output: OutputConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    run: RunConfig = field(default_factory=RunConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    job: ClassVar[str]
    """The job's name, as in ``dmt-ray NAME``."""
    places: ClassVar[tuple[str, ...]] = ()
    """The job's own options that name a path or URI."""

    @property
    @abstractmethod
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image; None where something else decides it."""

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Make the options from their values, each a keyword by its name on the command line.

        Example:
            >>> from dmt_ray import ColorizeConfig
            >>> config = ColorizeConfig.of(input="photos/", reference="colour/", output="out/", strength=2, size=96)
            >>> config.model.size, config.traversal.strength
            (96, (2.0,))

        Raises:
            TypeError: there is no such option, or one that is needed is missing; names it.
            SettingsError: a value is out of range or of another type.
        """
        hints = get_type_hints(cls)
        made, left = {}, dict(options)
        for section in fields(cls):
            kind = cast(type, hints[section.name])
            types = get_type_hints(kind)
            missing = [
                option.name
                for option in fields(kind)
                if option.default is MISSING and option.default_factory is MISSING and option.name not in left
            ]
            if missing:
                raise TypeError(f"{cls.__name__} needs {' and '.join(missing)}.")
            names = [option.name for option in fields(kind) if option.name in left]
            made[section.name] = kind(**{name: option_value(name, left.pop(name), types[name]) for name in names})
        if left:
            raise TypeError(f"{cls.__name__} has no option {', '.join(left)}.")
        return cls(**made)

    def option(self, name: str) -> Any:
        """Return the value of an option, whatever its section.

        Raises:
            KeyError: the job has no such option.
        """
        return getattr(getattr(self, self._section_of(name)), name)

    def has_option(self, name: str) -> bool:
        """Tell whether the job has an option."""
        try:
            self._section_of(name)
        except KeyError:
            return False
        return True

    def with_options(self, values: Mapping[str, object]) -> Self:
        """Return the options with some of them replaced, whatever their sections.

        Raises:
            KeyError: the job has no such option.
            SettingsError: a value is out of range.
        """
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            sections.setdefault(self._section_of(name), {})[name] = value
        made = {section: replace(getattr(self, section), **changed) for section, changed in sections.items()}
        return replace(self, **made)

    def named_places(self) -> dict[str, str]:
        """Return the paths and URIs that the options name, by option."""
        found = {name: self.option(name) for name in ("input", "output", "displacements", *self.places)}
        return {name: place for name, place in found.items() if place is not None}

    def _section_of(self, name: str) -> str:
        for section in fields(self):
            value = getattr(self, section.name)
            if is_dataclass(value) and name in {option.name for option in fields(value)}:
                return section.name
        raise KeyError(f"the job {self.job} has no option {name}")


class Editor(Protocol):
    """Moves pictures and brings them back; holds the network and the exemplars."""

    rows: frozenset[int]
    """Which steps of a displacement were asked for; the others are on the way to them."""

    def working(self, rgb: Array) -> Array:
        """Return what the other calls take of a decoded picture (H, W, 3) uint8, at working size.

        Its last two dimensions are height and width. Pictures of one shape are stacked to batches.
        """
        ...

    def traverse(self, pictures: Array, identities: Sequence[ImageIdentity]) -> list[Displacement]:
        """Return one displacement per picture of a stacked batch; ``identities`` tell what is known of each."""
        ...

    def reconstruct(
        self, pictures: Array, displacements: Sequence[Displacement], masks: Sequence[Array | None]
    ) -> list[list[Edit]]:
        """Return each picture's edits, one per step; masks are (h, w) float32 in 0..1, as the pictures."""
        ...

    def bytes_per_image(self, height: int, width: int) -> float:
        """Return how many bytes of device memory ``reconstruct`` takes at most for each picture of a working size."""
        ...

    def assemble(self, rgb: Array, edit: Edit, mask: Array | None) -> Array:
        """Return the result (H, W, 3) of a decoded picture and an edit of it; a mask is (H, W) uint8.

        The picture is uint8, or uint16 where results of 16 bits are asked for; the result is of its dtype, or uint8.
        """
        ...


@dataclass(frozen=True)
class Measures:
    """What an editor measures its results with, where a run has it; an editor may do without."""

    lpips: Mapping[str, Array] | None = None
    """For LPIPS to the input."""
    judge: Judge | None = None
    """For verdicts on the input and on the result."""


class ExemplarPictures(Protocol):
    """Reads sets of exemplars for a job to learn from."""

    @property
    def count(self) -> int:
        """Exemplars of all sets, usable or not."""
        ...

    def pictures(self, option: str) -> Iterator[tuple[Array, ImageIdentity]]:
        """Yield a set's pictures (see ``Job.working``) and what is known of them; none for a set that is not given.

        Raises:
            SettingsError: there are items, and none can be used.
        """
        ...


Config = TypeVar("Config", bound=JobConfig)


class Job(ABC, Generic[Config]):
    """One job. A new one is a module with a subclass of this and its options, and an entry in ``registry.py``."""

    config: type[Config]
    """The class of its options."""
    digital_source_type: str = "compositeWithTrainedAlgorithmicMedia"
    """What the job does to a photo, as a term of the IPTC's vocabulary (docs/output.md gives the reasons)."""
    decided: Mapping[str, tuple[str, ...]] = {
        "model": ("backbone", "taps", "size", "normalise"),
        "traversal": ("traversal", "standardise"),
    }
    """What a saved manifold decides for the runs that use it, by section of the options."""

    @property
    def name(self) -> str:
        """The job's name, as in ``dmt-ray NAME``."""
        return self.config.job

    def saved_manifold(self, config: Config) -> str | None:
        """Return where the run's manifold is saved already; None where the run learns from exemplars."""
        place = config.inputs.displacements
        return None if place is None else files.join(place, MANIFOLD_FOLDER)

    def layers(self, config: Config) -> tuple[str, ...]:
        """Return the layers that the network must have beside its taps; by default none."""
        return ()

    def suggested_by(self, decided: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        """Return options of ``decided`` that a manifold only suggests: a run may say otherwise; by default none.

        Parameters:
            decided: the manifold's own values, by section and option.
        """
        return frozenset()

    def masks(self, config: Config) -> MaskConfig:
        """Return where images may change; by default everywhere."""
        return MaskConfig()

    def judging(self, config: Config) -> JudgeConfig:
        """Return who judges results; by default nobody. A job with a judge has the sets ``source`` and ``target``."""
        return JudgeConfig("none")

    @abstractmethod
    def list_exemplars(self, config: Config) -> dict[str, ExemplarList]:
        """List the sets of exemplars, by the option that names each.

        Raises:
            SettingsError: a set is empty or cannot be listed.
        """

    def check_exemplar(self, option: str, rgb: Array) -> None:
        """Raise ImageError when a picture (H, W, 3) uint8 cannot be an exemplar of a set; by default any can."""

    def working(self, rgb: Array, config: Config) -> Array:
        """Return an exemplar (H, W, 3) uint8 at working size, (h, w, 3) uint8; by default (size, size, 3)."""
        from dmt_ray.method.pictures import working_rgb

        return working_rgb(rgb, config.model.size)

    def identity(self, item: InputItem, data: bytes, config: Config, reader: InputReader) -> ImageIdentity:
        """Return what is known of an image beside its pixels; by default nothing.

        Parameters:
            item: the image.
            data: its encoded bytes.
            config: the run's options.
                    reader: reads the image's record.
        """
        from dmt_ray.method.traversal.selection import ImageIdentity

        return ImageIdentity()

    def exemplar_identity(
        self, option: str, item: InputItem, data: bytes, config: Config, reader: InputReader
    ) -> ImageIdentity:
        """Return what is known of an exemplar of a set; by default the same as of an image. See ``identity``."""
        return self.identity(item, data, config, reader)

    @abstractmethod
    def learn(self, network: FeatureNetwork, pictures: ExemplarPictures, config: Config) -> dict[str, Array]:
        """Return what the editor needs of the exemplars, as plain arrays to share.

        Parameters:
            network: with the run's taps.
            pictures: reads the sets of exemplars.
            config: the run's options.
        """

    @abstractmethod
    def editor(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: Config,
        device: str,
        measures: Measures,
    ) -> Editor:
        """Build the job's editor on a device.

        Parameters:
            arrays: weights by torchvision name, rescaled already where the options ask for it.
            exemplars: what ``learn`` returned.
            config: the run's options.
            device: torch device, such as ``cuda:0``.
            measures: what results are measured with.
        """


@dataclass(frozen=True)
class ExemplarList:
    """One set of exemplars, as it was listed."""

    items: Sequence[InputItem]
    containers: Mapping[str, str] = field(default_factory=dict)
    """Identities of the tables and archives that the items lie in, by URI."""
    balance_values: Array | None = None
    """(items, columns) float64, what the classes are balanced by; None where they are not."""
    balance: ClassBalance | None = None
    """The items' weights, with which the classes are balanced; None weighs all alike."""
    passed_over: tuple[str, ...] = ()
    """Sentences on what their place holds besides."""
