"""What is where: files of a folder or glob with their identities, names in a folder, and whether a place exists."""

from __future__ import annotations

from collections.abc import Collection

from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import local, remote
from dmt_ray.storage.files.guarding import guard
from dmt_ray.storage.files.uris import MAGIC, is_local, local_path


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
        uri: a file, a folder (searched to any depth) or a glob (folders that it matches are searched too). A name
            with glob characters that exists as it stands is that file or folder.
        suffixes: keep only names that end so, whatever their case, such as ``{".jpg"}``. None keeps all. A single
            file named outright is kept whatever its suffix.

    Returns:
        Full URIs. Empty when nothing is there, hidden names left out.

    Raises:
        StorageError: the place exists but cannot be listed.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        named, found = guard(uri, lambda: local.find(local_path(uri)))
        return _selected(named, found, suffixes)
    named, entries = remote.find(uri)
    return _selected(named, entries, suffixes)


def list_identified(uri: str, suffixes: Collection[str] | None = None) -> list[tuple[str, str | None]]:
    """List the files of one place as ``list_files`` does, each with its identity, and without a request per file.

    Returns:
        Pairs of a full URI and what ``identity`` gives for it; None where the listing does not tell enough (a web
        server's never does).

    Raises:
        StorageError: the place exists but cannot be listed.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        return [(file, identity(file)) for file in list_files(uri, suffixes)]
    named, entries = remote.find(uri)
    return [(file, entries[file]) for file in _selected(named, entries, suffixes)]


def listing_root(uri: str) -> str:
    """Return the folder that the results of ``list_files(uri)`` lie in: themselves minus it are relative paths.

    The folder itself, a file's folder, or a glob's longest part without glob characters.
    """
    if is_local(uri):
        path = local_path(uri)
        if guard(uri, path.is_dir):
            return str(path)
        return str(path.parent) if path.exists() else str(local.split_glob(path)[0])
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
    return {name for name in names if name and not name.startswith(".")}


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


def _selected(named: str | None, found: Collection[str], suffixes: Collection[str] | None) -> list[str]:
    """Return the one file that was named, or else those found that end in a suffix, sorted."""
    if named is not None:
        return [named]
    if suffixes is None:
        return sorted(found)
    endings = tuple(suffix.lower() for suffix in suffixes)
    return sorted(file for file in found if file.lower().endswith(endings))
