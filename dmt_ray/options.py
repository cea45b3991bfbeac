"""Options in other forms than words: YAML files and comma-separated lists become the command line's own arguments."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import TooLargeError, masked, read_bytes

#: Options that may be given several times, each time with more values.
REPEATABLE = frozenset({"allow_uri"})

_MOST_YAML_BYTES = 64 * 2**10


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
    except argparse.ArgumentError:  # the command line's own parser reports "--config" without a value
        return argv
    return argv if path is None else _options_of(path, options) + argv


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


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases: a few lines of them can stand for more values than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(
                None, None, "aliases (*) are not read; write the value", event.start_mark
            )
        return super().compose_node(parent, index)


def _read_yaml(path: str) -> Any:
    """Return what a YAML file holds.

    Raises:
        SettingsError: it is too large, or no plain YAML; quotes nothing of it.
    """
    shown = masked(path)
    try:
        return yaml.load(read_bytes(path, max_bytes=_MOST_YAML_BYTES), _PlainLoader)
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


def _options_of(path: str, known: Mapping[str, Any]) -> list[str]:
    mapping = _read_yaml(path)
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
