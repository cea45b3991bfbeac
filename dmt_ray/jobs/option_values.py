"""Values of options as Python gives them: turned into what an option's type is, or refused by the option's name."""

from __future__ import annotations

import numbers
import os
import types
import typing
from collections.abc import Iterable
from typing import Any

from dmt_ray.errors import SettingsError

#: What stands for a type in a message.
_NAMES: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def option_value(name: str, value: object, kind: Any) -> Any:
    """Return a value as an option's type has it: a path as text, a list or a single value as a tuple.

    Numbers of NumPy become Python's. A text for a list is cut at its commas, as on the command line.

    Parameters:
        name: of the option.
        value: what was given.
        kind: the option's type: a plain type, a ``Literal``, a tuple of one of them, or one of these or None.

    Raises:
        SettingsError: the value is of another type.
    """
    made, fits = _made(value, kind)
    if not fits:
        raise SettingsError(f"--{name.replace('_', '-')} is {value!r}; it must be {_described(kind)}.")
    return made


def _made(value: object, kind: Any) -> tuple[Any, bool]:
    """Return the value as the type has it, and whether it can be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None, type(None) in arguments
        return next((found for each in arguments if (found := _made(value, each))[1]), (None, False))
    if origin is tuple:
        several = value.split(",") if isinstance(value, str) else value if _is_several(value) else [value]
        made = [_made(each, arguments[0]) for each in typing.cast(Iterable[object], several)]
        return tuple(each for each, _ in made), all(fits for _, fits in made)
    if origin is typing.Literal:
        return value, value in arguments
    if isinstance(value, bool) or kind is bool:
        return value, isinstance(value, bool) and kind is bool
    if kind is int and isinstance(value, numbers.Integral):
        return int(value), True
    if kind is float and isinstance(value, numbers.Real):
        return float(value), True
    if kind is str and isinstance(value, str | os.PathLike):
        return os.fspath(value), isinstance(os.fspath(value), str)
    return value, False


def _is_several(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, bytes | os.PathLike)


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        words = [_described(each) for each in arguments if each is not type(None)]
        return " or ".join([*words, *(["None"] if type(None) in arguments else [])])
    if origin is tuple:
        return f"a list, each of it {_described(arguments[0])}"
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    return _NAMES.get(kind, "of another type")
