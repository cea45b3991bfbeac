"""Local paths and URIs as text: told apart, made absolute, joined and resolved."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
#: A character that makes a path a glob.
MAGIC = re.compile(r"[*?\[]")


def is_local(uri: str) -> bool:
    """Tell whether a place is on a local (or locally mounted) disk."""
    match = SCHEME.match(uri)
    return match is None or match[1].lower() in ("file", "local")


def local_path(uri: str) -> Path:
    """Return the absolute path of a local place; links are kept as they are."""
    match = SCHEME.match(uri)
    path = uri[match.end() :] if match else uri
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 (Path.absolute keeps "..")


def absolute(uri: str) -> str:
    """Return a local place as an absolute path, so that it means the same in every process; URIs stay as they are."""
    return str(local_path(uri)) if is_local(uri) else uri


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
