"""The command line, ``dmt-ray COMMAND``: the jobs of the registry, and the commands around them."""

from __future__ import annotations

import dataclasses
import logging
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

import tyro

import dmt_ray
from dmt_ray.command_line.commands import (
    CompactCommand,
    CompletionCommand,
    ExportCommand,
    ReconstructCommand,
    ReportCommand,
    VerifyCommand,
    WeightsCommand,
    all_commands,
    job_command,
    job_configs,
)
from dmt_ray.command_line.help_text import count_options, describe, first_options, help_registry, overview
from dmt_ray.command_line.suggestions import check_command, check_options, check_values
from dmt_ray.config import ComputeConfig
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.fit import FitConfig
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.reconstruct import ReconstructConfig
from dmt_ray.logs import printable, set_up_logging
from dmt_ray.options import expand_config, join_repeated, option_types, split_lists
from dmt_ray.process_exit import EXIT_INTERRUPTED, INTERRUPTED, close_broken_stdout, run_program, stdout_is_broken
from dmt_ray.report.scaling import PlanCommand
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

EXIT_DEFECT = 1
EXIT_SETTINGS = 2
EXIT_INCOMPLETE = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dmt-ray`` and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _reporting(lambda: _main(words))


def job_main(name: str, argv: Sequence[str] | None = None) -> int:
    """Run the script of a job, such as ``jobs/colorize_dataset.py``, and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _reporting(lambda: _run_config(name, words, prog=None))


def parse_options(name: str, argv: Sequence[str], prog: str | None = None) -> Any:
    """Turn the command line of a job or of ``fit``, and the file that it may name, into checked options.

    Parameters:
        name: of the command, such as ``colorize``.
        argv: the words behind it.
        prog: what ``--help`` calls the program.

    Raises:
        SettingsError: a value is out of range, there is no such option, or the file is no good.
        SystemExit: with 2 after a bad word, with 0 after ``--help``.
    """
    command = job_command(name)
    words = join_repeated(list(argv))
    if _asks_for_help(words):
        return _parse(name, command, words, prog)
    known = option_types(command)
    check_options(words, name, known)
    check_values(words, known)
    options = option_types(job_configs()[name][0])
    expanded = expand_config(words, options, name)
    try:
        parsed = _parse(name, command, split_lists(expanded.words, options), prog)
    except SettingsError as error:
        option = str(error).partition(" is ")[0].removeprefix("--").replace("-", "_")
        if option in expanded.preset_set:
            raise SettingsError(f"{error} --preset {expanded.preset} sets it.") from error
        raise
    if expanded.preset_set:
        values = ", ".join(f"{option} {value}" for option, value in expanded.preset_set.items())
        logger.info("The preset %s sets %s.", expanded.preset, values)
    return parsed.settings


def _parse(name: str, command: type[Any], words: list[str], prog: str | None) -> Any:
    """Turn the words behind a command into its options; shows its help where they ask for that."""
    help_words, shown, more = words, None, ""
    if _asks_for_help(words):
        help_words = ["--help"]
        shown = first_options(name, command)
        if shown is not None:
            every = any(_as_flag(word) == "--help-all" for word in words)
            more = "" if every else f"These options matter first; --help-all shows all {count_options(command)}."
            shown = None if every else shown
    return tyro.cli(
        command,
        prog=prog,
        args=help_words,
        description=describe(name, command.__doc__ or "", more),
        config=(tyro.conf.OmitArgPrefixes,),
        registry=help_registry(command, shown) if help_words is not words else None,
    )


def _asks_for_help(words: Sequence[str]) -> bool:
    before = words[: words.index("--")] if "--" in words else words
    return any(_as_flag(word) in ("-h", "--help", "--help-all") for word in before)


def _as_flag(word: str) -> str:
    return word.replace("_", "-")


def _reporting(command: Callable[[], int]) -> int:
    """Turn errors that are meant for the user into a sentence on stderr and an exit code."""
    set_up_logging(logging.INFO, "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    try:
        code = _exit_code(command)
        sys.stdout.flush()
    except BrokenPipeError:
        code = close_broken_stdout()
    return code


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except DmtError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return EXIT_SETTINGS
    except SystemExit as end:  # the parser has shown a help text, or what is wrong with a word
        return end.code if isinstance(end.code, int) else 0 if end.code is None else EXIT_DEFECT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and stdout_is_broken():
            raise
        # Through the log, which masks secrets and escapes control characters, and with the code of an uncaught error.
        logger.critical("This is a defect of dmt-ray; please report it.", exc_info=True)
        return EXIT_DEFECT
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_INTERRUPTED


def _print(line: str) -> None:
    print(printable(line))


def _main(words: list[str]) -> int:
    if not words or _as_flag(words[0]) in ("-h", "--help", "--help-all"):
        summaries = {name: command.__doc__ or "" for name, command in all_commands().items()}
        print(overview(summaries), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else EXIT_SETTINGS
    if words[0] == "--version":
        print(f"dmt-ray {dmt_ray.__version__}")
        return 0
    name, rest = words[0], words[1:]
    commands = all_commands()
    check_command(name, commands)
    if name in job_configs():
        return _run_config(name, rest, prog=f"dmt-ray {name}")
    if not _asks_for_help(rest):
        check_options(rest, name, option_types(commands[name]))
    return _run_command(_parse(name, commands[name], rest, f"dmt-ray {name}"))


def _run_command(command: Any) -> int:
    handlers: dict[type, Callable[[Any], int]] = {
        WeightsCommand: _weights,
        VerifyCommand: _verify,
        CompactCommand: _compact,
        ExportCommand: _export,
        PlanCommand: _plan,
        ReportCommand: _report,
        ReconstructCommand: _reconstruct,
        CompletionCommand: _completion,
    }
    return handlers[type(command)](command)


def _run_config(name: str, argv: list[str], prog: str | None) -> int:
    config = parse_options(name, argv, prog)
    if isinstance(config, FitConfig):
        from dmt_ray.pipeline.fitting import fit

        fit(config, emit=_print)
        return 0
    return _run_job(config)


def _run_job(config: JobConfig) -> int:
    from dmt_ray.pipeline.run import run_job

    code = run_job(config, emit=_print)
    if config.run.report and not config.run.dry_run and code != EXIT_INCOMPLETE:
        try:
            _report(ReportCommand(config.output.output))
        except DmtError as error:  # the rows are there all the same
            print(printable(f"error: {error} `dmt-ray report` tries again."), file=sys.stderr)
    return code


def _reconstruct(command: ReconstructCommand) -> int:
    from dmt_ray.jobs.reconstruct import reconstruct_config

    values = {option.name: getattr(command, option.name) for option in dataclasses.fields(ReconstructConfig)}
    return _run_job(reconstruct_config(ReconstructConfig(**values)))


def _weights(command: WeightsCommand) -> int:
    from dmt_ray.storage.models.weights import load_lpips, resolve_weights
    from dmt_ray.storage.models.weights_cache import cached_weights

    fetched = [resolve_weights(command.backbone, command.weights)]
    if command.lpips:
        fetched += [load_lpips("vgg16"), load_lpips("alexnet")]
    for weights in fetched:
        _print(f"{weights.backbone}: sha256 {weights.sha256}, from {weights.origin}")
    for entry in cached_weights():
        _print(f"cached: {entry.backbone} {entry.sha256[:12]} {entry.path} ({entry.size / 1e6:.0f} MB)")
    return 0


def _verify(command: VerifyCommand) -> int:
    from dmt_ray.output.compact import verify_compaction
    from dmt_ray.output.compaction_record import is_compaction
    from dmt_ray.output.discard import DISCARDED_FOLDER, discard_unsound
    from dmt_ray.output.verify import verify_output
    from dmt_ray.storage.files import join, masked

    if is_compaction(command.output):
        if command.discard:
            raise SettingsError(f"{command.output} is a compaction: it is put right by compacting again.")
        compaction = verify_compaction(command.output, deep=command.deep)
        for line in compaction.sentences():
            _print(line)
        return 0 if compaction.complete else EXIT_INCOMPLETE
    report = verify_output(command.output, deep=command.deep)
    for line in report.sentences():
        _print(line)
    if command.discard:
        moved = discard_unsound(command.output, report)
        files = f"{counted(len(moved), 'file')} {agreed(len(moved), 'was', 'were')}"
        aside = masked(join(command.output, DISCARDED_FOLDER))
        _print(f"{files} moved aside into {aside}; run the job again to make what is missing.")
    return 0 if report.complete else EXIT_INCOMPLETE


def _compact(command: CompactCommand) -> int:
    from dmt_ray.output.compact import compact

    report = compact(command.output, command.dest, command.file_size * 10**6)
    for line in report.sentences():
        _print(line)
    were = agreed(report.written, "was", "were")
    _print(f"{counted(report.written, 'file')} {were} written; every checksum was compared and every image decoded.")
    return 0 if report.complete else EXIT_INCOMPLETE


def _export(command: ExportCommand) -> int:
    from dmt_ray.output.export.exporting import export

    report = export(command.output, command.dest, command.options)
    for line in report.sentences():
        _print(line)
    return 0


def _completion(command: CompletionCommand) -> int:
    tyro.extras.subcommand_cli_from_dict(
        typing.cast(dict[str, Callable[..., Any]], all_commands()),
        prog="dmt-ray",
        args=["--tyro-write-completion", command.shell, "-"],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        registry=help_registry(),
    )
    return 0


def _report(command: ReportCommand) -> int:
    from dmt_ray.report.page import write_report

    for line in write_report(command.output, command.options).sentences():
        _print(line)
    return 0


def _plan(command: PlanCommand) -> int:
    from dmt_ray.pipeline.resources import plan_pools
    from dmt_ray.report.scaling import estimate
    from dmt_ray.report.scaling_text import plan_sentences

    pools = plan_pools([{"GPU": command.gpus}], ComputeConfig())
    gpus = (pools.traversal.actors if pools.traversal.num_gpus == 1 else 0, pools.reconstruction.actors)
    for line in plan_sentences(command, estimate(command, *gpus), *gpus):
        _print(line)
    return 0


if __name__ == "__main__":
    run_program("dmt_ray.cli:main")
