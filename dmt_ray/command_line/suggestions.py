"""What to say of a mistyped command, option or value: one sentence with what is meant, most likely."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmt_ray.errors import SettingsError


def check_command(word: str, commands: Iterable[str]) -> None:
    """Raise SettingsError, with the command that is meant, unless there is such a command."""
    names = list(commands)
    if word not in names:
        raise SettingsError(f"{word!r} is no command{_meant(word, names)} `dmt-ray --help` lists the commands.")


def check_options(words: Sequence[str], command: str, options: Mapping[str, Any]) -> None:
    """Raise SettingsError, with the option that is meant, when a word looks like an option and is none.

    Parameters:
        words: the command line behind the command.
        command: its name.
        options: the type of every option of the command.
    """
    flags = [f"--{name.replace('_', '-')}" for name in options]
    negated = [f"--no-{name.replace('_', '-')}" for name, kind in options.items() if kind is bool]
    for word in words:
        if word == "--":
            return
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in flags and flag not in negated:
            raise SettingsError(
                f"{flag} is no option of {command}{_meant(flag, [*flags, *negated])} "
                f"`dmt-ray {command} --help-all` lists the options."
            )


def check_values(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise SettingsError when a word is no option and no option's value: mostly a pattern that the shell expanded.

    Parameters:
        words: the command line behind a command that takes nothing but options.
        options: the type of every option of the command.
    """
    free = 0.0
    option = "the command"
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            option, _, value = word.partition("=")
            kind = options.get(option[2:].replace("-", "_"), bool)
            free = math.inf if typing.get_origin(kind) is tuple else float(kind is not bool) - bool(value)
        elif free < 1:
            raise SettingsError(
                f"{word!r} is one word too many behind {option}. Put a pattern such as 'photos/*.jpg', and a name "
                "with spaces, in quotes: the shell makes several words of it."
            )
        else:
            free -= 1


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close and len(word) > 4:
        close = [name for name in known if name.startswith(word)][:1]
    return f"; did you mean {close[0]}?" if close else "."
