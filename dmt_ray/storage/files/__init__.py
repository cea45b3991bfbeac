"""The only door to files: local paths and every URI that fsspec knows (``s3://``, ``gs://``, ``memory://``, ...).

A place without ``scheme://`` is a local path. Listings give full URIs (plain absolute paths for local files), which
every other function here takes. Names that start with a dot are hidden: listings skip them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage.files import remote, retry

T = TypeVar("T")

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_USER_AND_PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s]*@")
_HTTP_TOKEN = re.compile(r"(?i)\b(https?)://[^/\s@]+@")
_HTTP_QUERY = re.compile(r"(?i)\b(https?://[^?\s]+)\?[^\s'\"]+")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_MAGIC = re.compile(r"[*?\[]")


class StorageError(DmtError):
    """A file or folder cannot be listed, read or written.

    Parameters:
        uri: the place; credentials in it are masked.
        reason: what is wrong, without a full stop.
    """

    def __init__(self, uri: str, reason: str) -> None:
        self.uri = masked(uri)
        self.reason = masked(reason)
        super().__init__(f"{self.uri}: {self.reason}.")

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.reason)


class TooLargeError(StorageError):
    """A file has more bytes than the caller allows.

    Parameters:
        uri: the place; credentials in it are masked.
        size: of the file, in bytes.
        limit: what is allowed, in bytes.
    """

    def __init__(self, uri: str, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(uri, f"has {size} bytes, and the limit is {limit}")

    def __reduce__(self) -> tuple[type[TooLargeError], tuple[str, int, int]]:  # type: ignore[override]
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.size, self.limit)


def masked(text: str) -> str:
    """Return the text with stars for every ``user:password@`` and every HTTP query (it may be a signature)."""
    text = _USER_AND_PASSWORD.sub("://***@", text)
    text = _HTTP_TOKEN.sub(r"\1://***@", text)
    return _HTTP_QUERY.sub(r"\1?***", text)


def is_local(uri: str) -> bool:
    """Tell whether a place is on a local (or locally mounted) disk."""
    match = _SCHEME.match(uri)
    return match is None or match[1].lower() in ("file", "local")


def absolute(uri: str) -> str:
    """Return a local place as an absolute path, so that it means the same in every process; URIs stay as they are."""
    return str(_local_path(uri)) if is_local(uri) else uri


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
    named, found = _guard(uri, lambda: _find_local(_local_path(uri))) if is_local(uri) else _find_remote(uri)
    if named is not None:
        return [named]
    if suffixes is not None:
        endings = tuple(suffix.lower() for suffix in suffixes)
        found = {file for file in found if file.lower().endswith(endings)}
    return sorted(found)


def listing_root(uri: str) -> str:
    """Return the folder that the results of ``list_files(uri)`` lie in: themselves minus it are relative paths.

    The folder itself, a file's folder, or a glob's longest part without glob characters.
    """
    if is_local(uri):
        path = _local_path(uri)
        if _guard(uri, path.is_dir):
            return str(path)
        return str(path.parent) if path.exists() else str(_split_glob(path)[0])
    fs, path_in_store, prefix = _remote(uri)
    kind = _guard(uri, lambda: _kind(fs, path_in_store))
    if kind == "directory":
        return prefix + path_in_store
    if kind is not None or not _MAGIC.search(path_in_store):
        return prefix + path_in_store.rpartition("/")[0]
    return prefix + _MAGIC.split(path_in_store, maxsplit=1)[0].rpartition("/")[0]


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """Read a whole file.

    Parameters:
        uri: the file.
        max_bytes: a larger file is refused, before it is read where its size is known.

    Raises:
        TooLargeError: more than ``max_bytes``.
        StorageError: missing or unreadable, also after the tries that ``retry`` allows.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        path = _local_path(uri)
        if max_bytes is not None:
            _check_size(uri, _guard(uri, path.stat).st_size, max_bytes)
        return _guard(uri, path.read_bytes)
    fs, name, _ = _remote(uri)
    if max_bytes is not None:
        _check_size(uri, _guard(uri, lambda: fs.info(name)).get("size"), max_bytes)  # None: the server does not say
    data = _guard(uri, lambda: cast(bytes, fs.cat_file(name)))
    if max_bytes is not None:
        _check_size(uri, len(data), max_bytes)
    return data


def read_range(uri: str, start: int, size: int) -> bytes:
    """Read ``size`` bytes of a file from offset ``start`` on.

    Raises:
        StorageError: missing, unreadable, or shorter than that.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    with open_file(uri) as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise StorageError(uri, f"ends before byte {start + size}")
    return data


@contextlib.contextmanager
def open_file(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for seeking and reading parts of it, such as Parquet row groups.

    From afar each read is one request of exactly that range.

    Raises:
        StorageError: missing or unreadable, also while reading.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        file: IO[bytes] = _guard(uri, lambda: _local_path(uri).open("rb"))
    else:
        fs, path, _ = _remote(uri)
        size = _guard(uri, lambda: fs.info(path)).get("size")
        if size is None:
            raise StorageError(uri, "the server does not tell its size, so it cannot be read in parts")

        def read(start: int, end: int) -> bytes:
            data = _guard(uri, lambda: cast(bytes, fs.cat_file(path, start=start, end=end)))
            if len(data) != end - start:
                raise StorageError(uri, f"{end - start} bytes were asked for and {len(data)} came")
            return data

        file = cast(IO[bytes], remote.RangeReader(read, int(size)))
    try:
        yield file
    finally:
        file.close()


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it under its name; replaces what was there.

    A local file is written under a hidden name in its folder (made if missing), flushed to the disk and renamed. An
    object store gets one upload, which it makes visible when complete; one that fails halfway is made again.

    Raises:
        StorageError: cannot be written; no partial or temporary file stays behind.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        _guard(uri, lambda: _write_local(_local_path(uri), data))
        return
    fs, path, _ = _remote(uri)
    _guard(uri, lambda: fs.pipe_file(path, data))


@contextlib.contextmanager
def staged(uri: str) -> Iterator[Path]:
    """Write a file of any size in bounded memory, as atomically as ``write_atomic``.

    Yields the path of an empty local file to write to; when the block ends without an error, it becomes the file.
    Before an upload that is in the folder for temporary files (``$TMPDIR``), which must have room for it.

    Raises:
        StorageError: cannot be written; no partial or temporary file stays behind. So are the block's OSErrors.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    try:
        if is_local(uri):
            with _staged_local(_local_path(uri)) as path:
                yield path
            return
        fs, name, _ = _remote(uri)
        with tempfile.TemporaryDirectory(prefix="dmt-ray-") as folder:
            path = Path(folder) / "upload"
            path.touch()
            yield path
            _guard(uri, lambda: fs.put_file(str(path), name))
    except OSError as error:
        raise StorageError(uri, _reason(error)) from error


def fetch(uri: str, path: Path) -> None:
    """Copy a file of any size from a store into a local file, in bounded memory.

    Raises:
        StorageError: missing or unreadable, or ``path`` cannot be written.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        _guard(uri, lambda: shutil.copyfile(_local_path(uri), path))
        return
    fs, name, _ = _remote(uri)
    _guard(uri, lambda: fs.get_file(name, str(path)))


def list_names(folder_uri: str) -> set[str]:
    """Return the names of the files and folders directly inside a folder; empty when it is missing.

    Raises:
        StorageError: the folder exists but cannot be listed, or is a file.
    """
    if is_local(folder_uri):
        try:
            names = _guard(folder_uri, lambda: [path.name for path in _local_path(folder_uri).iterdir()])
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return set()
            raise
    else:
        fs, path, _ = _remote(folder_uri)
        try:
            entries = _guard(folder_uri, lambda: fs.ls(path, detail=False))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return set()
            raise
        same = [entry.rstrip("/") for entry in entries] == [path.rstrip("/")]
        if same and _guard(folder_uri, lambda: _kind(fs, path)) == "file":
            raise StorageError(folder_uri, "is a file, not a folder")
        names = [entry.rstrip("/").rpartition("/")[2] for entry in entries if entry.rstrip("/") != path.rstrip("/")]
    return {name for name in names if name and not name.startswith(".")}


def exists(uri: str) -> bool:
    """Tell whether a file or folder exists.

    Raises:
        StorageError: the store does not say.
    """
    if is_local(uri):
        return _guard(uri, _local_path(uri).exists)
    fs, path, _ = _remote(uri)
    return _guard(uri, lambda: _kind(fs, path)) is not None


def join(uri: str, *parts: str) -> str:
    """Append path parts to a folder's URI or path."""
    joined = uri if uri.endswith("://") else uri.rstrip("/") or "/"
    for part in parts:
        if stripped := part.strip("/"):
            joined = joined + stripped if joined.endswith("/") else f"{joined}/{stripped}"
    return joined


def resolve(uri: str, folder_uri: str) -> str:
    """Return the full URI of what a file in ``folder_uri`` refers to; full URIs and absolute paths stay."""
    if _SCHEME.match(uri) or uri.startswith(("/", "~")):
        return uri
    match = _SCHEME.match(folder_uri)
    scheme = match[0] if match else ""
    path = posixpath.normpath(posixpath.join(folder_uri[len(scheme) :], uri))
    return scheme + path


def delete(uri: str, *, recursive: bool = False) -> None:
    """Delete a file, or with ``recursive`` a folder and all that is in it; a missing one is fine.

    Raises:
        StorageError: it exists but cannot be deleted.
    """
    fs, path = (
        (fsspec.filesystem("file"), str(_local_path(uri))) if is_local(uri) else _remote(uri)[:2]
    )  # fsspec's local file system refuses to follow a link out of the folder

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True) if recursive else fs.rm_file(path)

    try:
        _guard(uri, remove)
    except StorageError:
        if exists(uri):
            raise


def check_writable(folder_uri: str) -> None:
    """Write and delete a small hidden file in a folder to see that a run can write there.

    Leaves nothing behind, not even the folder.

    Raises:
        SettingsError: it cannot be written; says why.
    """
    missing: list[Path] = []
    if is_local(folder_uri):
        folder = _local_path(folder_uri)
        with contextlib.suppress(OSError):  # a folder that may not be looked at fails the write below
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = join(folder_uri, f".dmt-ray-probe-{secrets.token_hex(8)}")
    try:
        write_atomic(probe, b"probe")
        delete(probe)
    except StorageError as error:
        raise SettingsError(f"Cannot write to {masked(folder_uri)}: {error.reason}.") from error
    finally:
        for path in missing:  # the innermost first
            with contextlib.suppress(OSError):
                path.rmdir()


def _local_path(uri: str) -> Path:
    """Return the absolute path of a local place; links are kept as they are."""
    match = _SCHEME.match(uri)
    path = uri[match.end() :] if match else uri
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 (Path.absolute keeps "..")


def _remote(uri: str) -> tuple[Any, str, str]:
    """Return fsspec's file system, the path in it, and the prefix that turns such a path into a URI again."""
    scheme = cast(re.Match[str], _SCHEME.match(uri))[1].lower()
    if "::" in uri:
        raise SettingsError(f"{masked(uri)} is a chained URI (::), which is not supported; unpack the archive first.")
    try:
        fs, path = remote.find_file_system(uri)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'dmt-ray[{extra}]'" if extra else masked(str(error))
        raise SettingsError(f"Reading {scheme}:// needs a driver that is not installed: {hint}.") from error
    except ValueError as error:
        raise SettingsError(f"{masked(uri)} cannot be used: {masked(str(error)).rstrip('.')}.") from error
    except Exception as error:
        raise StorageError(uri, _reason(error)) from error
    trimmed = uri.rstrip("/") if not uri.endswith("://") else uri
    path = path.rstrip("/") or path
    prefix = trimmed[: -len(path)] if path and trimmed.endswith(path) else f"{scheme}://"
    return fs, path, prefix


def _find_local(path: Path) -> tuple[str | None, set[str]]:
    if path.is_file():
        return str(path), set()
    if path.is_dir():
        return None, set(_walk(path))
    if not _MAGIC.search(str(path)):
        return None, set()
    root, pattern = _split_glob(path)
    found: set[str] = set()
    for name in glob.iglob(pattern, root_dir=root, recursive=True):  # noqa: PTH207 (Path.glob finds hidden names)
        match = root / name
        if match.is_dir():
            found.update(_walk(match) if "**" not in pattern else ())
        else:
            found.add(str(match))
    return None, found


def _walk(folder: Path) -> Iterator[str]:
    """Yield the files of a folder to any depth, through links but never round in a circle."""

    def fail(error: OSError) -> None:
        raise StorageError(str(error.filename or folder), _reason(error)) from error

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))  # noqa: PTH118


def _split_glob(path: Path) -> tuple[Path, str]:
    """Split a path into the part before any glob character (or that exists as it stands) and the pattern after it."""
    root = Path(path.anchor)
    parts = path.parts[1:]
    for index, part in enumerate(parts):
        if _MAGIC.search(part) and not (root / part).is_dir():
            return root, "/".join(parts[index:])
        root = root / part
    return path.parent, path.name


def _find_remote(uri: str) -> tuple[str | None, set[str]]:
    fs, path, prefix = _remote(uri)

    def find() -> tuple[str | None, set[str] | None]:
        kind = _kind(fs, path)
        if kind == "file":
            return path, None
        if kind is not None:
            return path, set(fs.find(path))
        if not _MAGIC.search(path):
            return None, set()
        found: set[str] = set()
        for match, info in fs.glob(path, detail=True).items():
            if info.get("type") != "directory":
                found.add(match)
            elif "**" not in path:
                found.update(fs.find(match))
        return None, found

    try:
        literal, found = _guard(uri, find)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, set()
        raise
    if found is None:
        return prefix + path, set()
    root = literal or _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
    # A pattern that names a dot itself wants hidden names; everything else skips them.
    skip_hidden = "/." not in path[len(root) :]
    kept = {
        prefix + file for file in found if not file.endswith("/") and not (skip_hidden and "/." in file[len(root) :])
    }
    return None, kept


def _kind(fs: Any, path: str) -> str | None:
    """Return ``file``, ``directory`` or None for what is missing.

    Unlike fsspec's own ``exists``, ``isfile`` and ``isdir``, a store that cannot be asked is an error, not a "no".
    """
    try:
        return str(fs.info(path)["type"])
    except FileNotFoundError as error:
        if retry.may_pass(error):  # a web server's "busy" comes as a missing file
            raise
        return None


def _check_size(uri: str, size: int | None, max_bytes: int) -> None:
    if size is not None and size > max_bytes:
        raise TooLargeError(uri, size, max_bytes)


def _write_local(path: Path, data: bytes) -> None:
    with _staged_local(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def _staged_local(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside a file; what is written there becomes the file, flushed to the disk, at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError("is a folder")
    temporary = path.with_name(f".tmp-{secrets.token_hex(12)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _guard(uri: str, action: Callable[[], T]) -> T:
    """Run an action on a file; afar, what may pass is tried again. What remains becomes a StorageError."""
    try:
        if is_local(uri):
            return action()
        return retry.call(action, lambda error: f"{masked(uri)}: {masked(_reason(error))}")
    except DmtError:
        raise
    except Exception as error:
        raise StorageError(uri, _reason(error)) from error


def _reason(error: BaseException) -> str:
    """Say in a few words what an exception means."""
    known: list[tuple[type[BaseException], str]] = [
        (FileNotFoundError, "does not exist"),
        (IsADirectoryError, "is a folder, not a file"),
        (NotADirectoryError, "a part of the path is a file, not a folder"),
        (FileExistsError, "a part of the path is a file, not a folder"),
    ]
    if isinstance(error, FileNotFoundError) and error.__cause__ and retry.may_pass(error):
        error = error.__cause__  # see _kind
    for kind, words in known:
        if isinstance(error, kind):
            return words
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    detail = " ".join(detail.split()).rstrip(".")[:300]
    if isinstance(error, PermissionError):
        return f"permission denied ({detail})" if detail.lower() != "permission denied" else "permission denied"
    return detail or type(error).__name__
