"""What is where: files of a folder or glob with their identities, names in a folder, and whether a place exists."""

from __future__ import annotations

import functools
from collections.abc import Collection

from dmt_ray.masking import masked
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import local, remote
from dmt_ray.storage.files.guarding import guard
from dmt_ray.storage.files.uris import MAGIC, escaped, is_local, local_path, with_braces_expanded
from dmt_ray.storage.threads import reading_threads
from dmt_ray.words import agreed, counted

#: So many names of a pattern with braces are looked up side by side.
_AT_ONCE = 16


def identity(uri: str) -> str | None:
    """Return what tells a file from another one that takes its name later, at the price of one request.

    Locally that is the size and the modification time in nanoseconds; on a store the entity tag, or else the size and
    the time of the last change.

    Returns:
        A short text. None when the file is missing or a folder, or its place does not tell enough.

    Raises:
        StorageError: the store cannot be asked.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        return guard(uri, lambda: local.identity(local_path(uri)))
    fs, path, _ = remote.locate(uri)
    entry = guard(uri, lambda: remote.info(fs, path))
    return None if entry is None else remote.identity_of(entry)


def list_files(uri: str, suffixes: Collection[str] | None = None) -> list[str]:
    """List the files of one place, sorted.

    Parameters:
        uri: a file, a folder (searched to any depth) or a glob (folders that it matches are searched too). Braces
            stand for several of these: ``{000..219}.tar``, ``{a,b}/*.jpg``. A name with such characters that exists
            as it stands is that file or folder.
        suffixes: keep only names that end so, whatever their case, such as ``{".jpg"}``. None keeps all. A single
            file named outright is kept whatever its suffix.

    Returns:
        Full URIs. Empty when nothing is there, hidden names left out. Local names that are not UTF-8 come escaped.

    Raises:
        StorageError: the place exists but cannot be listed, or a name that braces stand for does not exist.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    return [file for file, _ in _listed(uri, suffixes, identified=False)]


def list_identified(uri: str, suffixes: Collection[str] | None = None) -> list[tuple[str, str | None]]:
    """List the files of one place as ``list_files`` does, each with its identity, and without a request per file.

    Returns:
        Pairs of a full URI and what ``identity`` gives for it; None where the listing does not tell enough (a web
        server's never does).

    Raises:
        StorageError: the place exists but cannot be listed, or a name that braces stand for does not exist.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    return _listed(uri, suffixes, identified=True)


def listing_root(uri: str) -> str:
    """Return the folder that the results of ``list_files(uri)`` lie in: themselves minus it are relative paths.

    The folder itself, a file's folder, or a glob's longest part without glob characters and braces.
    """
    if _alternatives(uri) != [uri]:
        return listing_root(uri.partition("{")[0] + "*")
    if is_local(uri):
        path = local_path(uri)
        if guard(uri, path.is_dir):
            return escaped(str(path))
        return escaped(str(path.parent if path.exists() else local.split_glob(path)[0]))
    fs, path_in_store, prefix = remote.locate(uri)
    known = guard(uri, lambda: remote.info(fs, path_in_store))
    if known is not None and known["type"] == "directory":
        return prefix + path_in_store
    if known is not None or not MAGIC.search(path_in_store):
        return prefix + path_in_store.rpartition("/")[0]
    return prefix + MAGIC.split(path_in_store, maxsplit=1)[0].rpartition("/")[0]


def list_names(folder_uri: str) -> set[str]:
    """Return the names of the files and folders directly inside a folder; empty when it is missing.

    Raises:
        StorageError: the folder exists but cannot be listed, or is a file.
    """
    try:
        names = _names(folder_uri)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return set()
        raise
    return {escaped(name) for name in names if name and not name.startswith(".")}


def modified_times(folder_uri: str) -> dict[str, float]:
    """Return when the files directly inside a folder were last changed, in seconds since 1970, by name.

    Files whose time the store does not tell are left out. A copy of a file may have a time of its own.

    Raises:
        StorageError: the folder exists but cannot be listed.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(folder_uri):
        return guard(folder_uri, lambda: local.modified_times(local_path(folder_uri)))
    fs, path, _ = remote.locate(folder_uri)
    return guard(folder_uri, lambda: remote.modified_times(fs, path))


def exists(uri: str) -> bool:
    """Tell whether a file or folder exists.

    Raises:
        StorageError: the store does not say.
    """
    if is_local(uri):
        return guard(uri, local_path(uri).exists)
    fs, path, _ = remote.locate(uri)
    return guard(uri, lambda: remote.info(fs, path)) is not None


def _names(folder_uri: str) -> list[str]:
    if is_local(folder_uri):
        return guard(folder_uri, lambda: [path.name for path in local_path(folder_uri).iterdir()])
    fs, path, _ = remote.locate(folder_uri)
    entries = guard(folder_uri, lambda: fs.ls(path, detail=False))
    if [entry.rstrip("/") for entry in entries] == [path.rstrip("/")]:
        known = guard(folder_uri, lambda: remote.info(fs, path))
        if known is not None and known["type"] == "file":
            raise StorageError(folder_uri, "is a file, not a folder")
    return [entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != path.rstrip("/")]


def _listed(uri: str, suffixes: Collection[str] | None, *, identified: bool) -> list[tuple[str, str | None]]:
    """Return the files of one place in order, with their identities where they are asked for."""
    names = _alternatives(uri)
    if names == [uri]:
        return _find(uri, suffixes, identified)
    with reading_threads(_AT_ONCE) as pool:
        found = list(pool.map(functools.partial(_find, suffixes=suffixes, identified=identified), names))
    missing = [name for name, files in zip(names, found, strict=True) if not files and not MAGIC.search(name)]
    if missing:
        raise StorageError(
            uri,
            f"{len(missing)} of its {counted(len(names), 'name')} {agreed(len(missing), 'does', 'do')} not exist; "
            f"the first: {masked(missing[0])}",
        )
    return sorted({file: known for files in found for file, known in files}.items())


def _alternatives(uri: str) -> list[str]:
    """Return the names that braces stand for; the URI alone where there are none, or a file has them in its name."""
    names = with_braces_expanded(uri)
    if names == [uri]:
        return names
    try:
        return [uri] if exists(uri) else names
    except StorageError:  # such as of a bucket whose name cannot hold braces
        return names


def _find(uri: str, suffixes: Collection[str] | None, identified: bool) -> list[tuple[str, str | None]]:
    if is_local(uri):
        named, found = guard(uri, lambda: local.find(local_path(uri)))
        return [(file, identity(file) if identified else None) for file in _selected(named, found, suffixes)]
    named, entries = remote.find(uri)
    return [(file, entries[file]) for file in _selected(named, entries, suffixes)]


def _selected(named: str | None, found: Collection[str], suffixes: Collection[str] | None) -> list[str]:
    """Return the one file that was named, or else those found that end in a suffix, sorted."""
    if named is not None:
        return [named]
    if suffixes is None:
        return sorted(found)
    endings = tuple(suffix.lower() for suffix in suffixes)
    return sorted(file for file in found if file.lower().endswith(endings))
