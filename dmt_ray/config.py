"""Options that every job has, as frozen dataclasses, and the checks that all options share.

The command line, ``--config FILE.yaml``, ``run.json`` and the output's fingerprint are made from the fields of each
job's options: the sections here, those of ``method/settings.py``, and the job's own. ``RunConfig`` and
``ComputeConfig`` only decide how a run works, so they may differ between a run and its resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dmt_ray.errors import SettingsError

PathFormat = Literal["webp", "gif"]


ImageFormat = Literal["png", "jpeg", "webp", "png16", "tiff16"]


MetadataChoice = Literal["keep", "none"]


Resolution = Literal["native", "working"]


Mode = Literal["resume", "overwrite", "error"]

#: The address of a Ray that the run starts.
LOCAL_RAY = "local"


def require(condition: bool, option: str, value: object, need: str) -> None:
    """Raise SettingsError, which names the option, its value and what it must be, unless the condition holds."""
    if not condition:
        raise SettingsError(f"--{option.replace('_', '-')} is {value!r}; it must be {need}.")


def require_choice(option: str, value: object, choices: object) -> None:
    """Require that a value is one of the values of a ``Literal`` type."""
    allowed = get_args(choices)
    require(value in allowed, option, value, "one of " + ", ".join(map(str, allowed)))


def require_strengths(values: tuple[float, ...]) -> None:
    """Require at least one strength, each between 0 and 100, rising."""
    require(len(values) >= 1, "strength", values, "at least one number")
    require(all(0 <= value <= 100 for value in values), "strength", values, "between 0 and 100")
    require(list(values) == sorted(set(values)), "strength", values, "rising, without repetition")


def ray_host_and_port(address: str) -> tuple[str, int] | None:
    """Split ``host:port`` and ``ray://host:port``; None for everything else."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        return None
    return host.strip("[]"), int(port)


def pool_range(size: int | str) -> tuple[int, int]:
    """Return the least and the most actors of a pool: ``8`` is 8 of each, ``"2:64"`` is 2 and 64.

    Raises:
        ValueError: it is neither, or the least is below 1 or above the most.
    """
    least, colon, most = str(size).partition(":")
    pair = (int(least), int(most if colon else least))
    if not 1 <= pair[0] <= pair[1]:
        raise ValueError(f"{size} is no range from 1 upwards")
    return pair


def is_elastic(size: int | str | None) -> bool:
    """Tell whether a pool's size is a range."""
    return isinstance(size, str) and ":" in size


@dataclass(frozen=True)
class InputConfig:
    """What to read. Every place is a local path, a glob, or a URI that fsspec knows (s3://, gs://, ...)."""

    input: str
    """Photos to work on: a file, folder or glob of images, Parquet, CSV or tar archives, or a list file (.txt).
    Braces stand for several names: 'shards/{000..219}.tar'."""
    input_kind: str | None = None
    """What counts of a folder that holds several kinds: images, parquet, tar, csv or list. Default: the one that
    holds the most pictures."""
    image_column: str | None = None
    """Parquet: the column with encoded image bytes; tar: the images' ending. Default: found by type and name."""
    uri_column: str | None = None
    """Parquet and CSV: the column with image URIs. Default: found by name."""
    where: str | None = None
    """Parquet, CSV, and images beside a metadata table: a SQL condition on the table's columns, such as
    "width > 512"; takes the rows that fulfil it."""
    sample: int | None = None
    """Take only so many of the inputs, drawn with --seed."""
    limit: int | None = None
    """Take only the first so many inputs."""
    seed: int = 0
    """Seed for every random choice."""
    max_pixels: int = 200_000_000
    """An image with more pixels (width x height) than this becomes an error row."""
    max_bytes: int = 512 * 2**20
    """So does one whose file has more bytes than this; where the store tells its size, it is not even read."""
    accept_truncated: bool = False
    """Keep what can be decoded of a photo whose file's end is missing (JPEG, PNG, GIF, TIFF, BMP, PPM); the row's
    column `truncated` says so. Without it such a photo becomes an error row. Exemplars and masks must be whole."""
    allow_uri: tuple[str, ...] = ()
    """What lists and tables may name beyond what docs/security.md lets them: paths and URIs, and all that lies under
    them, such as http://10.0.0.5/photos/. Repeatable."""
    displacements: str | None = None
    """Output of a run with --traversal-only whose displacements to use; `dmt-ray reconstruct` says so itself."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(bool(self.input.strip()), "input", self.input, "a path or URI")
        for option in ("input_kind", "where"):
            value = getattr(self, option)
            require(value is None or bool(value.strip()), option, value, "left out, or not empty")
        for option in ("limit", "sample"):
            value = getattr(self, option)
            require(value is None or value >= 1, option, value, "at least 1")
        for option in ("max_pixels", "max_bytes"):
            require(getattr(self, option) >= 1, option, getattr(self, option), "at least 1")
        require(all(place.strip() for place in self.allow_uri), "allow_uri", self.allow_uri, "paths or URIs")
        require(
            self.image_column is None or self.uri_column is None,
            "image_column",
            self.image_column,
            "left out when --uri-column is given",
        )


@dataclass(frozen=True)
class OutputConfig:
    """What to write, and where."""

    output: str
    """Folder or URI for plan.parquet, run.json and shards/."""
    shard_size: int = 32
    """Images per shard: one shard is one Parquet file and one unit of retry."""
    image_format: ImageFormat = "png"
    """Encoding of the image column; png16 and tiff16 have 16 bits per channel, all others 8."""
    metadata: MetadataChoice = "keep"
    """keep writes each input's EXIF, XMP, IPTC and resolution into its results; none leaves them out. Either way, the
    file says how the result came to be."""
    image_quality: int = 95
    """Quality for jpeg and webp, 1 to 100."""
    resolution: Resolution = "native"
    """native returns each photo at its own size with its own detail; working returns size x size."""
    save_path: int = 0
    """Keep so many steps from the input to the result, each with an inversion of its own, as an animation."""
    path_format: PathFormat = "webp"
    """Encoding of the animation column."""
    traversal_only: bool = False
    """Save each image's displacement instead of a picture, for `dmt-ray reconstruct` to finish elsewhere."""
    lpips: bool = True
    """Measure LPIPS to the input; needs the published heads, which `dmt-ray weights` fetches."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        require_choice("image_format", self.image_format, ImageFormat)
        require_choice("metadata", self.metadata, MetadataChoice)
        require_choice("resolution", self.resolution, Resolution)
        require_choice("path_format", self.path_format, PathFormat)
        require(0 <= self.save_path <= 100, "save_path", self.save_path, "between 0 and 100")
        require(bool(self.output.strip()), "output", self.output, "a folder or URI")
        require(not (self.traversal_only and self.save_path), "save_path", self.save_path, "0 with --traversal-only")
        require(self.shard_size >= 1, "shard_size", self.shard_size, "at least 1")
        require(1 <= self.image_quality <= 100, "image_quality", self.image_quality, "between 1 and 100")


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
    no_progress_timeout: float = 1800.0
    """Seconds without any progress (a stage of a shard that begins or ends) until the run says which processes are
    stuck where, ends them and does their shards again; where there are none, it exits with code 3."""
    grace: float = 30.0
    """Seconds that running shards are given to end after Ctrl-C or SIGTERM."""
    mask_plan: bool = False
    """Leave signatures and passwords out of plan.parquet; a resumed run then takes them from --input again."""
    dry_run: bool = False
    """Check everything, say what would be done and about what it takes, and stop before any actor starts; --estimate
    times three photos for that."""
    estimate: bool = False
    """With --dry-run: time three of the photos in this process, and say what time, memory and bytes the run takes."""
    progress: bool = True
    """Show rows done and failed, rows per second, time left, actors at work and their share of the GPUs: as a bar on
    a terminal, as a line of the log every few seconds elsewhere."""
    report: bool = False
    """Write OUT/report/index.html when every row is there, as `dmt-ray report OUT` does."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        require_choice("mode", self.mode, Mode)
        require(0 <= self.max_error_rate <= 1, "max_error_rate", self.max_error_rate, "between 0 and 1")
        timeout = self.shard_timeout
        require(timeout is None or 0 < timeout < math.inf, "shard_timeout", timeout, "above 0")
        idle = self.no_progress_timeout
        require(0 < idle < math.inf, "no_progress_timeout", idle, "above 0")
        require(0 <= self.grace < math.inf, "grace", self.grace, "at least 0")
        require(self.dry_run or not self.estimate, "estimate", True, "given with --dry-run")
        for option in ("extend", "retry_failed"):
            alone = self.mode == "resume" or not getattr(self, option)
            require(alone, "mode", self.mode, f"resume with --{option.replace('_', '-')}")


@dataclass(frozen=True)
class ComputeConfig:
    """Actors and resources. Left alone, pools are sized from what the Ray cluster has."""

    ray_address: str = "auto"
    """The Ray to join: HOST:PORT of a cluster's head, ray://HOST:PORT, or local for one of the run's own. auto takes
    RAY_ADDRESS, else a submitted job's cluster, else the one that you started last on this machine, else local."""
    gpus_per_actor: float = 1.0
    """GPUs per reconstruction actor when the cluster has GPUs; fractions are allowed."""
    allow_cpu_fallback: bool = False
    """Compute on the CPU, with a warning, where Ray gives a GPU that does not answer; that is an error otherwise."""
    reconstruction_actors: int | str | None = None
    """Size of the reconstruction pool: a number, or MIN:MAX such as 2:64 for a pool that grows and shrinks with the
    cluster. The run begins once MIN actors have room; what is missing to MAX is what an autoscaler sees as demand."""
    traversal_actors: int | str | None = None
    """Size of the traversal pool, in the same way. Default beside a MIN:MAX reconstruction pool: 1 to a quarter of
    it."""
    wait_for_workers: float | None = None
    """Seconds to wait until nodes have room for the pools. Default: 1800 with --wait-for-gpus or a MIN:MAX pool,
    else 0."""
    wait_for_gpus: int | None = None
    """Begin only when the cluster has so many GPUs; its autoscaler is asked for them."""
    batch_size: int | Literal["auto"] = "auto"
    """Images inverted side by side, of one shard. auto takes what fits a GPU's memory, and 8 on a CPU. Results agree
    across batch sizes up to rounding."""
    threads_per_actor: int | None = None
    """Torch threads of each CPU actor."""
    metrics: bool = False
    """Serve rows, errors, seconds, shards and busy actors on the metrics ports of Ray's nodes, for Prometheus."""

    def __post_init__(self) -> None:
        """Check ranges."""
        named = self.ray_address in ("auto", LOCAL_RAY) or ray_host_and_port(self.ray_address) is not None
        require(named, "ray_address", self.ray_address, "auto, local, HOST:PORT or ray://HOST:PORT")
        require(self.gpus_per_actor > 0, "gpus_per_actor", self.gpus_per_actor, "above 0")
        for option in ("batch_size", "threads_per_actor", "wait_for_gpus"):
            value = getattr(self, option)
            require(value in (None, "auto") or value >= 1, option, value, "at least 1")
        for option in ("reconstruction_actors", "traversal_actors"):
            require(_is_pool_size(getattr(self, option)), option, getattr(self, option), "at least 1, or MIN:MAX")
        seconds = self.wait_for_workers
        require(seconds is None or 0 <= seconds < math.inf, "wait_for_workers", seconds, "at least 0")


def _is_pool_size(size: int | str | None) -> bool:
    try:
        return size is None or bool(pool_range(size))
    except ValueError:
        return False


@dataclass(frozen=True)
class JudgeConfig:
    """Who says whether a result is of the target class: another network than the one whose features are moved."""

    judge: str = "alexnet"
    """alexnet, a probe on AlexNet's features that is fitted to the exemplars; none; or a path or URI of an .onnx
    classifier of your own (docs/output.md says what it must be)."""
    judge_margin: float = 0.0
    """A result counts as flipped when its decision value exceeds this."""
    until_flipped: bool = False
    """Move each image only as far as it takes: to the smallest strength, from 0 to the largest of --strength and to
    5 % of that, whose result counts as flipped. One row per image; its strength says how far."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        known = self.judge in ("alexnet", "none") or self.judge.lower().endswith(".onnx")
        require(known, "judge", self.judge, "alexnet, none, or an .onnx file")
        require(0 <= self.judge_margin < math.inf, "judge_margin", self.judge_margin, "at least 0")
        require(self.judge != "none" or not self.until_flipped, "judge", self.judge, "a judge with --until-flipped")

    @property
    def place(self) -> str | None:
        """The path or URI of a classifier; None where there is none."""
        return None if self.judge in ("alexnet", "none") else self.judge


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
        require(not both, "mask_column", self.mask_column, "left out when --mask-folder is given")


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    limit: int = 10_000
    """Photos in the page's list, the first ones of the plan. Counts, errors and charts are of all rows."""
    picture_size: int = 512
    """Longest side of the larger pictures, in pixels."""
    read_input: bool = True
    """Read the input again for the pictures before; the output does not hold them."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.limit >= 1, "limit", self.limit, "at least 1")
        require(64 <= self.picture_size <= 4096, "picture_size", self.picture_size, "between 64 and 4096")
