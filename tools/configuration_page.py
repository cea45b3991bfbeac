"""Write docs/configuration.md, which lists every option, from the dataclasses that define them.

    python tools/configuration_page.py [FILE]

A test compares the page with what this would write.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from dmt_ray.command_line.commands import all_commands, job_configs
from dmt_ray.command_line.help_text import INTERNAL, bare, metavar
from dmt_ray.jobs.registry import JOBS

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_HEAD = """\
# Configuration

Every option of every command, as `--help-all` shows them. `python tools/configuration_page.py` makes this page from
the code, and a test compares the two. [The command line](command-line.md) describes presets, options from a file and
completion; [the API](api/options.md) has the same options as dataclasses.
"""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option or a positional argument of a command."""

    name: str
    value: str
    default: str
    text: str

    def row(self) -> str:
        """Return it as a row of a table."""
        return f"| {self.name} | {self.value} | {self.default} | {self.text} |"


@dataclasses.dataclass(frozen=True)
class Section:
    """Options that one dataclass holds."""

    owner: type[Any]
    options: list[Option]

    @property
    def title(self) -> str:
        """Its heading."""
        name = self.owner.__name__
        for ending in ("Config", "Options", "Command"):
            name = name.removesuffix(ending)
        return name.removeprefix("Transform") or name


def page() -> str:
    """Return the whole page."""
    commands = all_commands()
    jobs = {name: list(sections(job_configs()[name][0])) for name in JOBS}
    shared = [
        section
        for section in next(iter(jobs.values()))
        if all(any(section.owner is other.owner for other in others) for others in jobs.values())
    ]
    own = [section for section in sections(commands["colorize"]) if section.owner is commands["colorize"]]
    links = {section.owner: f"[{section.title}](#{section.title.lower()})" for section in shared}
    seen = Counter(section.title for section in shared)
    parts = [_HEAD, "## Every job\n", f"`dmt-ray {'`, `dmt-ray '.join(jobs)}` and jobs of your own have these.\n"]
    parts += [_table(own[0].options), *map(_section, shared)]
    for name, command in commands.items():
        found = jobs[name] if name in jobs else list(sections(command))
        new = [section for section in found if section.owner not in links]
        parts.append(f"## `dmt-ray {name}`\n")
        parts.append(_first_paragraph(command) + "\n")
        if name not in jobs and len(new) < len(found):
            reused = [links[section.owner] for section in found if section not in new]
            parts.append(f"It has the options of {', '.join(reused)} above, and:\n")
        for section in new:
            of_command = section.owner.__name__.endswith("Command") or len(new) == 1
            parts.append(_table(section.options) if of_command else _section(section))
            if not of_command:  # a heading's anchor has a number behind it from the second time on
                times, seen[section.title] = seen[section.title], seen[section.title] + 1
                links[section.owner] = f"[{section.title}](#{section.title.lower()}{f'_{times}' if times else ''})"
    return "\n".join(parts)


def sections(command: type[Any]) -> Iterator[Section]:
    """Yield the sections of a command, its own options first."""
    hints = typing.get_type_hints(command, include_extras=True)
    texts = _texts(command)
    own = []
    nested = []
    for field in dataclasses.fields(command):
        kind = bare(hints[field.name])
        if dataclasses.is_dataclass(kind):
            nested.append(kind)
        elif field.name not in INTERNAL or tyro.conf.Positional in typing.get_args(hints[field.name]):
            own.append(_option(field, hints[field.name], texts.get(field.name, "")))
    if own:
        yield Section(command, own)
    for inner in nested:
        yield from sections(typing.cast(type[Any], inner))


def _option(field: dataclasses.Field[Any], kind: Any, text: str) -> Option:
    flag = field.name.replace("_", "-")
    positional = tyro.conf.Positional in typing.get_args(kind)
    told = [each for each in typing.get_args(kind) if getattr(each, "help", None)]
    name = f"`{field.name.upper()}`" if positional else f"`--{flag}`"
    if bare(kind) is bool and field.default is True:
        name += f" `--no-{flag}`"
    shown = metavar(kind) or ""
    value = (
        " ".join(f"`{part}`" for part in shown.strip("{}").split(","))
        if shown.startswith("{")
        else shown.replace("|", " or ")
    )
    return Option(name, value, _default(field), _cell(told[0].help if told else text))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    match field.default:
        case None | ():
            return "*none*"
        case bool():
            return "on" if field.default else "off"
        case tuple():
            return f"`{' '.join(map(str, field.default))}`"
    return f"`{field.default}`"


def _texts(owner: type[Any]) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if not dataclasses.is_dataclass(base) or base.__module__ == "types":
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # made by make_dataclass
            continue
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for field, after in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
            ):
                texts[field.target.id] = ast.literal_eval(after.value)
    return texts


def _section(section: Section) -> str:
    return f"### {section.title}\n\n{_first_paragraph(section.owner)}\n\n{_table(section.options)}"


def _table(options: list[Option]) -> str:
    head = "| option | value | default | what it does |\n|---|---|---|---|\n"
    return head + "\n".join(option.row() for option in options) + "\n"


def _first_paragraph(owner: type[Any]) -> str:
    return _cell((owner.__doc__ or "").strip().split("\n\n")[0])


def _cell(text: str) -> str:
    plain = " ".join(text.split())
    for char in ("|", "*", "<"):
        plain = plain.replace(char, f"\\{char}")
    return plain


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE).write_text(page(), encoding="utf-8")
