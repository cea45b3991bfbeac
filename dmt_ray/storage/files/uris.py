"""Local paths and URIs as text: told apart, made absolute, joined and resolved."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from dmt_ray.errors import SettingsError
from dmt_ray.masking import masked

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
#: A byte that is not UTF-8, as ``escaped`` writes it.
_ESCAPED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")
#: So many names at most may be made of one pattern with braces.
_MOST_NAMES = 1_000_000
#: A character that makes a path a glob.
MAGIC = re.compile(r"[*?\[]")


def is_local(uri: str) -> bool:
    """Tell whether a place is on a local (or locally mounted) disk."""
    match = SCHEME.match(uri)
    return match is None or match[1].lower() in ("file", "local")


def local_path(uri: str) -> Path:
    """Return the absolute path of a local place; links are kept as they are, and ``escaped`` names are found."""
    match = SCHEME.match(uri)
    path = uri[match.end() :] if match else uri
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (Path.absolute keeps "..")
    return Path(_unescaped(path) if "\\x" in path else path)


def absolute(uri: str) -> str:
    """Return a local place as an absolute path, so that it means the same in every process; URIs stay as they are.

    Names that are not UTF-8 come escaped.
    """
    return escaped(str(local_path(uri))) if is_local(uri) else uri


def escaped(path: str) -> str:
    """Return a path as UTF-8 text: a byte that is none, such as 0xFF, becomes ``\\xff``."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unescaped(path: str) -> str:
    """Return the path that ``escaped`` was given, where there is such a file or folder; a name as it stands first."""
    found = "/"
    for name in path.split("/"):
        known = os.path.join(found, name)  # noqa: PTH118
        if "\\x" in name and not os.path.lexists(known):
            raw = _ESCAPED_BYTE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(name))
            bare = os.path.join(found, os.fsdecode(raw))  # noqa: PTH118
            known = bare if os.path.lexists(bare) else known
        found = known
    return found


def with_braces_expanded(uri: str) -> list[str]:
    """Return the names that a pattern with braces stands for, such as ``{000..219}.tar`` or ``{a,b}/*.jpg``.

    Just the name itself where it has no such braces.

    Raises:
        SettingsError: there are more than a million.
    """
    if "{" not in uri:
        return [uri]
    import bracex  # here, because few names have braces

    try:
        return list(dict.fromkeys(bracex.expand(uri, keep_escapes=True, limit=_MOST_NAMES)))
    except bracex.ExpansionLimitException as error:
        raise SettingsError(
            f"{masked(uri)} stands for more than {_MOST_NAMES} names; use a pattern with *, or a list file."
        ) from error


def join(uri: str, *parts: str) -> str:
    """Append path parts to a folder's URI or path."""
    joined = uri if uri.endswith("://") else uri.rstrip("/") or "/"
    for part in parts:
        if stripped := part.strip("/"):
            joined = joined + stripped if joined.endswith("/") else f"{joined}/{stripped}"
    return joined


def resolve(uri: str, folder_uri: str) -> str:
    """Return the full URI of what a file in ``folder_uri`` refers to; full URIs and absolute paths stay."""
    if SCHEME.match(uri) or uri.startswith(("/", "~")):
        return uri
    match = SCHEME.match(folder_uri)
    scheme = match[0] if match else ""
    path = posixpath.normpath(posixpath.join(folder_uri[len(scheme) :], uri))
    return scheme + path
