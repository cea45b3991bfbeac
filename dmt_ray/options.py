"""Options in other forms than words: files, presets and comma-separated lists become the command line's own words."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from dmt_ray.command_line.presets import PRESET_NAMES, preset_values
from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import TooLargeError, masked, read_bytes

#: Options that may be given several times, each time with more values.
REPEATABLE = frozenset({"allow_uri"})

_MOST_YAML_BYTES = 64 * 2**10
_MOST_RECORD_BYTES = 16 * 2**20
#: Options that belong to one start of a run, and are not repeated.
_OF_ONE_START = frozenset({"mode", "extend", "retry_failed", "dry_run", "estimate"})
#: What a ``run.json`` has in the place of a secret.
_LEFT_OUT = re.compile(r"\*\*\*|\?sha256:[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A command line with what ``--config`` and ``--preset`` stand for."""

    words: list[str]
    """The whole command line; later words win."""
    preset: str | None = None
    """The preset that was asked for."""
    preset_set: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the preset sets, by option; without options that are given explicitly."""


def expand_config(argv: list[str], options: Mapping[str, Any], command: str) -> Expanded:
    """Put the options of ``--config FILE`` and of ``--preset NAME`` before the command line's own, which win.

    Options of a YAML file win over a preset. A ``run.json`` has every option, so a preset wins over it.

    Parameters:
        argv: the command line.
        options: the type of every option that the command has.
        command: its name.

    Raises:
        SettingsError: the file cannot be read, is no flat mapping, has a key that is no option, or is the
            ``run.json`` of another job.
    """
    path, preset = _value_of("config", argv), _value_of("preset", argv)
    file: list[str] = []
    record: list[str] = []
    if path is not None:
        mapping = _read_mapping(path)
        if "program" in mapping:
            record = _options_of(path, _recorded(path, mapping, command, _named(argv)), options)
        else:
            in_file = mapping.pop("preset", None)
            preset = preset or (None if in_file is None else str(in_file))
            if preset is not None and preset not in PRESET_NAMES:
                raise SettingsError(
                    f"{masked(path)}: preset is {preset!r}; it must be one of {', '.join(PRESET_NAMES)}."
                )
            file = _options_of(path, mapping, options)
    if preset not in PRESET_NAMES:  # the command line's own parser reports another name
        return Expanded([*record, *file, *argv])
    explicit = [*file, *argv]
    saved_manifold = _value_of("manifold", [*record, *explicit]) not in (None, "None")
    values = preset_values(preset, command, options, saved_manifold=saved_manifold)
    values = {name: value for name, value in values.items() if name not in _named(explicit)}
    words = [word for name, value in values.items() for word in _option(preset, name, value, options[name])]
    return Expanded([*record, *words, *explicit], preset, values)


def _value_of(option: str, argv: list[str]) -> str | None:
    """Return the value of an option on a command line; None where it is not there, or has no value."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scan.add_argument(f"--{option}")
    try:
        value: str | None = getattr(scan.parse_known_args(argv)[0], option)
    except argparse.ArgumentError:  # the command line's own parser reports an option without its value
        return None
    return value


def _named(words: list[str]) -> set[str]:
    """Return the options that words name, also by ``--no-``."""
    flags = [word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    return {*flags, *(flag.removeprefix("no_") for flag in flags)}


def _recorded(path: str, content: Mapping[str, Any], command: str, given: set[str]) -> dict[str, Any]:
    """Return the options that a ``run.json`` holds, but for those that are given anew and the mode of the start.

    Raises:
        SettingsError: it is of another job, or lacks a secret that an option had.
    """
    shown, sections = masked(path), content.get("config")
    if not str(content["program"]).startswith("dmt_ray ") or not isinstance(sections, dict):
        raise SettingsError(f"{shown} is no run.json of dmt_ray.")
    job = str(content["program"]).split()[-1]
    if job != command:
        raise SettingsError(f"{shown} is of a run of {job}: repeat it by `dmt-ray {job} --config {shown}`.")
    values: dict[str, Any] = {}
    for section in sections.values():
        if not isinstance(section, dict):
            raise SettingsError(f"{shown} is damaged: its config must be sections of options.")
        values |= {name: value for name, value in section.items() if name not in _OF_ONE_START | given}
    for name, value in values.items():
        if any(
            isinstance(each, str) and _LEFT_OUT.search(each)
            for each in (value if isinstance(value, list) else [value])
        ):
            raise SettingsError(
                f"{shown} keeps no secrets, and --{name.replace('_', '-')} had one; give that option again."
            )
    return values


def join_repeated(argv: list[str]) -> list[str]:
    """Put the values of an option that may be given several times behind its first place.

    Parameters:
        argv: the command line's own words, without those of a YAML file.
    """
    words: list[str] = []
    values: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in argv:
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") in REPEATABLE:
            key = name.replace("_", "-")
            if key not in values:
                words.append(key)
            current = values.setdefault(key, [])
            current += [value] if equals else []
        elif current is not None and not word.startswith("-"):
            current.append(word)
        else:
            current = None
            words.append(word)
    return [each for word in words for each in (word, *values.get(word, ()))]


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


def _without_base_60(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Return YAML's pattern of a type; that of numbers without those that have colons."""
    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    return re.compile(f"(?!.*:)(?:{pattern.pattern})", pattern.flags) if tag in numbers else pattern


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases: a few lines of them can stand for more values than any memory holds.

    Nor does it take 1:8 for a number to the base of 60: it is a range.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, _without_base_60(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(
                None, None, "aliases (*) are not read; write the value", event.start_mark
            )
        return super().compose_node(parent, index)


def _read_mapping(path: str) -> dict[Any, Any]:
    """Return what a YAML file, or the ``run.json`` of a run, holds.

    Raises:
        SettingsError: it is too large, no plain YAML, or no mapping; quotes nothing of it.
    """
    mapping = _read_yaml(path)
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise SettingsError(f"{path} must be a mapping of option names to values, such as 'size: 96'.")
    return mapping


def _read_yaml(path: str) -> Any:
    """Return what a YAML file holds.

    Raises:
        SettingsError: it is too large, or no plain YAML; quotes nothing of it.
    """
    shown = masked(path)
    is_record = path.partition("?")[0].endswith(".json")
    try:
        data = read_bytes(path, max_bytes=_MOST_RECORD_BYTES if is_record else _MOST_YAML_BYTES)
        return json.loads(data) if is_record else yaml.load(data, _PlainLoader)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{shown} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from error
    except TooLargeError as error:
        raise SettingsError(f"{error} A file of options has a few lines.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise SettingsError(f"{shown} is not YAML: {error.problem or error.context}{where}.") from error
    except (yaml.reader.ReaderError, UnicodeDecodeError) as error:
        raise SettingsError(f"{shown} is not a text file.") from error
    except RecursionError as error:
        raise SettingsError(f"{shown} is not YAML that can be read: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError) as error:  # such as a date with a month 13
        raise SettingsError(f"{shown} is not YAML that can be read: a value is not what it looks like.") from error


def _options_of(path: str, mapping: Mapping[Any, Any], known: Mapping[str, Any]) -> list[str]:
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
