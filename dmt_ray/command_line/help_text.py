"""Help texts: what one can do, two examples for each command, the options that matter first, plain metavars."""

from __future__ import annotations

import dataclasses
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

_WHAT = """\
usage: dmt-ray COMMAND [OPTIONS]

Edit whole collections of photos by deep manifold traversal, on Ray: colorize learns colours from colour photos and
gives them to grey ones; transform moves photos from one class towards another, such as young to old.

  dmt-ray colorize --input grey_photos/ --reference colour_photos/ --output out/
  dmt-ray transform --input photos/ --source young/ --target old/ --output out/ --strength 4,6,8
  dmt-ray report out/

commands:
"""
_MORE = """
`dmt-ray COMMAND --help` shows examples and the options that matter first, `--help-all` every option.
`dmt-ray --version` shows the version; `dmt-ray completion --help` says how a shell completes options.
"""

#: Two examples of each command, as they stand in its help.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "colorize": (
        "dmt-ray colorize --input grey_photos/ --reference colour_photos/ --output out/",
        "dmt-ray colorize --input s3://bucket/grey --reference s3://bucket/colour --output s3://bucket/out --report",
    ),
    "transform": (
        "dmt-ray transform --input photos/ --source young/ --target old/ --output out/ --strength 4,6,8",
        "dmt-ray transform --input photos/ --source day/ --target night/ --output out/ --traversal local",
    ),
    "fit": (
        'dmt-ray fit --source faces.csv --source-where "age < 30" --target faces.csv --target-where "age > 60" '
        "--output ageing/",
        "dmt-ray fit --reference s3://bucket/colour --output s3://bucket/bank",
    ),
    "reconstruct": (
        "dmt-ray reconstruct s3://bucket/moves --output s3://bucket/out",
        "dmt-ray reconstruct moves/ --output out/ --iterations 40 --image-format png16",
    ),
    "weights": ("dmt-ray weights", "dmt-ray weights --backbone vgg19 --weights torchvision"),
    "verify": ("dmt-ray verify out/", "dmt-ray verify s3://bucket/out --deep"),
    "compact": (
        "dmt-ray compact out/ large/",
        "dmt-ray compact s3://bucket/out s3://bucket/large --file-size 512",
    ),
    "export": (
        "dmt-ray export out/ pictures/",
        'dmt-ray export out/ dataset/ --format huggingface --only "flipped"',
    ),
    "plan": (
        "dmt-ray plan --images 10000000 --size 256 --gpus 64",
        "dmt-ray plan --images 100000 --gpus 8 --gpu a100 --price-per-gpu-hour 2.5",
    ),
    "report": ("dmt-ray report out/", "dmt-ray report s3://bucket/out --limit 1000"),
    "completion": (
        "dmt-ray completion bash > ~/.local/share/bash-completion/completions/dmt-ray",
        "dmt-ray completion zsh > ~/.zfunc/_dmt-ray",
    ),
}

_RUN = ("mode", "extend", "retry_failed", "max_error_rate", "limit", "dry_run", "report")
#: The options that a command's help shows, in their order; of a command that is not here it shows all.
_FIRST: Mapping[str, tuple[str, ...]] = {
    "colorize": (
        *("input", "reference", "output", "manifold", "preset", "config", "strength", "size", "prior", "scenes"),
        *("scene_weight", "resolution", "image_format", "batch_size", *_RUN),
    ),
    "transform": (
        *("input", "source", "target", "output", "manifold", "preset", "config", "strength", "size", "traversal"),
        *("until_flipped", "balance", "resolution", "image_format", "mode", "extend", "retry_failed", "limit"),
        *("dry_run", "report"),
    ),
    "fit": (
        *("source", "target", "reference", "output", "preset", "config", "basis", "source_where", "target_where"),
        *("balance", "prior"),
        *("exemplar_limit", "traversal", "size", "backbone", "weights", "ray_address"),
    ),
    "reconstruct": (
        *("displacements", "output", "iterations", "tv_weight", "image_format", "image_quality", "resolution"),
        *("judge", "lpips", "batch_size", "gpus_per_actor", "mode", "retry_failed", "max_error_rate", "dry_run"),
        "report",
    ),
}
#: What the help of a job that is not in _FIRST shows after the options that it must have.
_FIRST_OF_ANY_JOB = ("preset", "config", "strength", "size", "resolution", "image_format", *_RUN)
#: Options that another command sets: no help shows them.
INTERNAL = frozenset({"displacements"})
_WIDTH = 110


def overview(summaries: Mapping[str, str]) -> str:
    """Return the help of ``dmt-ray`` itself: what one can do, three examples, and a line for each command."""
    column = max(map(len, summaries)) + 2
    lines = [
        textwrap.fill(
            _first_paragraph(text), _WIDTH, initial_indent=f"  {name:{column}}", subsequent_indent=" " * (column + 2)
        )
        for name, text in summaries.items()
    ]
    return _WHAT + "\n".join(lines) + "\n" + _MORE


def first_options(name: str, command: type) -> tuple[str, ...] | None:
    """Return the options that a command's ``--help`` shows, in their order; None for all of them.

    Parameters:
        name: of the command.
        command: the class of its options.
    """
    if name in _FIRST:
        return _FIRST[name]
    options = _needed(command)
    if "config" not in options:  # no job
        return None
    required = [option for option, needed in options.items() if needed]
    return (*required, *(option for option in _FIRST_OF_ANY_JOB if option in options))


def count_options(command: type) -> int:
    """Return how many options a command has, but for internal ones."""
    own = {field.name for field in dataclasses.fields(command)}
    return len(_needed(command).keys() - (INTERNAL - own))


def describe(command: str, text: str, more: str = "") -> str:
    """Return what a command's help says above its options: what it does, two examples, and the rest of the text.

    Parameters:
        command: its name.
        text: what it does; the first paragraph stands before the examples.
        more: stands at the end.
    """
    first = _first_paragraph(text)
    rest = text.strip()[len(text.strip().split("\n\n")[0]) :]
    examples = (
        "\n".join(["Examples:", *(f"  {example}" for example in EXAMPLES[command])]) if command in EXAMPLES else ""
    )
    return "\n\n".join(part for part in (first, examples, *map(_one_line, rest.split("\n\n")), more) if part)


def help_registry(command: type | None = None, shown: Sequence[str] | None = None) -> ConstructorRegistry:
    """Return the rules by which tyro writes a command's help, or the completions of all commands.

    Metavars say the type alone, and only defaults that are values are shown.

    Parameters:
        command: the class of its options.
        shown: the options to show, in their order, in one list; None for all, by section.
    """
    registry = ConstructorRegistry()
    inside = False

    def rules_of_tyro(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inside
        inside = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside = False
        return spec if isinstance(spec, StructConstructorSpec) else None

    def flat(field: StructFieldSpec) -> list[StructFieldSpec]:
        kind = bare(field.type)
        if not dataclasses.is_dataclass(kind):
            return [field]
        section = rules_of_tyro(StructTypeInfo.make(typing.cast(type, kind), field.default, in_union_context=False))
        return [] if section is None else [option for part in section.fields for option in flat(part)]

    @registry.struct_rule
    def plain(info: StructTypeInfo) -> StructConstructorSpec | None:
        if inside or not dataclasses.is_dataclass(info.type):
            return None
        spec = rules_of_tyro(info)
        if spec is None:
            return None
        fields = list(spec.fields)
        if shown is not None and info.type is command:
            by_name = {option.name: option for field in fields for option in flat(field)}
            fields = [by_name[name] for name in shown]
        return dataclasses.replace(spec, fields=tuple(_plain(field) for field in fields if not _internal(field)))

    return registry


def _needed(command: type) -> dict[str, bool]:
    """Return whether each option must be given, however deep its section."""
    needed: dict[str, bool] = {}
    hints = typing.get_type_hints(command)
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(hints[field.name]):
            needed |= _needed(hints[field.name])
        else:
            needed[field.name] = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return needed


def _internal(field: StructFieldSpec) -> bool:
    return field.name in INTERNAL and not _positional(field)


def _positional(field: StructFieldSpec) -> bool:
    return tyro.conf.Positional in typing.get_args(field.type)


def _plain(field: StructFieldSpec) -> StructFieldSpec:
    """Return an option with a metavar of its type alone, and without a default that is no value."""
    if dataclasses.is_dataclass(bare(field.type)):
        return field
    told = field.helptext() if callable(field.helptext) else field.helptext
    unset = field.default is None or field.default is False or field.default == ()
    value = metavar(field.type)
    if _positional(field) and value == "TEXT":
        value = field.name.upper()
    shape: Any = tyro.conf.arg(metavar=value, help_behavior_hint="" if unset else None)
    base: Any = field.type
    kind: Any = Annotated[base, shape]
    if field.default is False:  # its --no- only matters after a file that sets it
        without_negation: Any = tyro.conf.FlagCreatePairsOff
        kind = without_negation[kind]
    return dataclasses.replace(field, type=kind, helptext=None if told is None else _one_line(told))


def metavar(kind: Any) -> str | None:
    """Return what stands for the value in the help; None for what tyro shows."""
    kind = bare(kind)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"{metavar(arguments[0])} ..."
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        named = [metavar(each) for each in arguments if each is not type(None)]
        return None if None in named else "|".join(map(str, named))
    if typing.get_origin(kind) is typing.Literal:
        if len(arguments) == 1:
            return str(arguments[0])
        return "{" + ",".join(map(str, arguments)) + "}"
    return None if kind is bool else {str: "TEXT", int: "INT", float: "FLOAT"}.get(kind)


def bare(kind: Any) -> Any:
    """Return a type without its annotations."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    return kind


def _first_paragraph(text: str) -> str:
    return _one_line(text.strip().split("\n\n")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())
