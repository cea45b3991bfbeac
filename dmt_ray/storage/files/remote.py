"""Stores behind fsspec: found by URI, with bounded retries inside, searched, and read in parts."""

from __future__ import annotations

import contextlib
import datetime
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import fsspec

from dmt_ray.errors import SettingsError
from dmt_ray.masking import masked
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import retry
from dmt_ray.storage.files.guarding import guard, reason_of
from dmt_ray.storage.files.policy import WEB, ListPolicy
from dmt_ray.storage.files.uris import MAGIC, SCHEME

#: One request may be tried so often by the S3 client itself. Its retries multiply with those of ``retry``, so they
#: are few; but a big upload of many parts must not start anew for one of them.
_REQUEST_TRIES = 2
_S3_CLIENT = {
    "retries": {"mode": "standard", "total_max_attempts": _REQUEST_TRIES},
    "connect_timeout": 10,
    "read_timeout": 60,
}
_IPV6_HOST = re.compile(r"//[^/]*\[[0-9A-Fa-f:.%]+\]")
_PRECONDITION_FAILED = 412
#: A web server's answer is read in parts of this size.
_PART_BYTES = 2**20
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
#: What stores' drivers call the type of a file's content.
_CONTENT_TYPE = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
#: What stores call the time of a file's last change; "memory" knows only when its files were made.
_MODIFIED = (
    *("LastModified", "last_modified", "Last-Modified", "mtime", "modified", "updated", "timeModified"),
    *("created", "timeCreated"),
)


def find_file_system(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URI and the path in it; listings are not cached.

    Raises:
        Exception: whatever fsspec and its drivers raise.
    """
    scheme = uri.partition("://")[0].lower()
    if scheme not in ("s3", "s3a"):
        fs, path = fsspec.core.url_to_fs(uri)
    else:
        configured = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get(scheme, {})}
        client = _S3_CLIENT | dict(configured.get("config_kwargs") or {})
        fs, path = fsspec.core.url_to_fs(uri, config_kwargs=client)
        fs.retries = 1  # s3fs tries again by itself as well
    fs.invalidate_cache()  # other processes write what we list
    return fs, path


def locate(uri: str, policy: ListPolicy | None = None) -> tuple[Any, str, str]:
    """Return fsspec's file system of a URI, the path in it, and the prefix that turns such a path into a URI again.

    Parameters:
        uri: the place.
        policy: of the list or table that names it; None where the user does.

    Raises:
        RefusedError: the policy does not allow it.
        SettingsError: the scheme is unknown, or its driver is not installed.
        StorageError: the driver cannot start.
    """
    scheme = cast(re.Match[str], SCHEME.match(uri))[1].lower()
    if "::" in _IPV6_HOST.sub("//host", uri):
        raise SettingsError(f"{masked(uri)} is a chained URI (::), which is not supported; unpack the archive first.")
    if policy is not None:
        policy.check(uri)
    try:
        fs, path = _guarded(uri, policy) if policy is not None and scheme in WEB else find_file_system(uri)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'dmt-ray[{extra}]'" if extra else masked(str(error))
        raise SettingsError(f"Reading {scheme}:// needs a driver that is not installed: {hint}.") from error
    except ValueError as error:
        raise SettingsError(f"{masked(uri)} cannot be used: {masked(str(error)).rstrip('.')}.") from error
    except Exception as error:
        raise StorageError(uri, reason_of(error)) from error
    trimmed = uri.rstrip("/") if not uri.endswith("://") else uri
    path = path.rstrip("/") or path
    prefix = trimmed[: -len(path)] if path and trimmed.endswith(path) else f"{scheme}://"
    return fs, path, prefix


def _guarded(uri: str, policy: ListPolicy) -> tuple[Any, str]:
    from dmt_ray.storage.files.guarded_http import guarded_http  # aiohttp, which only this needs

    return guarded_http(policy.allowed), uri


def find(uri: str) -> tuple[str | None, dict[str, str | None]]:
    """Return the one file that a URI names, or None; and the identities of all files that it names, by URI."""
    fs, path, prefix = locate(uri)

    def search() -> tuple[str | None, str | None, dict[str, Mapping[str, Any]]]:
        known = info(fs, path)
        if known is not None and known["type"] == "file":
            return path, None, {path: known}
        if known is not None:
            return None, path, fs.find(path, detail=True)
        if not MAGIC.search(path):
            return None, None, {}
        found: dict[str, Mapping[str, Any]] = {}
        for match, entry in fs.glob(path, detail=True).items():
            if entry.get("type") != "directory":
                found[match] = entry
            elif "**" not in path:
                found.update(fs.find(match, detail=True))
        return None, None, found

    try:
        named, folder, found = guard(uri, search)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, {}
        raise
    if named is not None:
        return prefix + named, {prefix + named: identity_of(found[named])}
    root = folder or MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]
    # A pattern that names a dot itself wants hidden names; everything else skips them.
    skip_hidden = "/." not in path[len(root) :]
    return None, {
        prefix + file: identity_of(entry)
        for file, entry in found.items()
        if not file.endswith("/") and not (skip_hidden and "/." in file[len(root) :])
    }


def info(fs: Any, path: str) -> Mapping[str, Any] | None:
    """Return what a store says of a file or folder; None for what is missing.

    Unlike fsspec's own ``exists``, ``isfile`` and ``isdir``, a store that cannot be asked is an error, not a "no".
    """
    try:
        return cast(Mapping[str, Any], fs.info(path))
    except FileNotFoundError as error:
        if retry.may_pass(error):  # a web server's "busy" comes as a missing file
            raise
        return None


def identity_of(entry: Mapping[str, Any]) -> str | None:
    """Return the identity of a file from what its store says of it, in a listing or when it is asked.

    The entity tag, or else the size and the time of the last change; None for a folder, or where the store says
    neither.
    """
    if entry.get("type") == "directory":
        return None
    for key in ("ETag", "etag", "e_tag"):
        if entry.get(key):
            return "etag=" + str(entry[key]).strip().removeprefix("W/").strip('"')
    size = entry.get("size")
    for key in _MODIFIED:
        if entry.get(key) and size is not None:
            return f"size={size} modified={_moment(entry[key])}"
    return None


def read_at_most(fs: Any, path: str, size: int, known: int | None) -> bytes:
    """Return a file's first bytes, and hold no more of them than that.

    A web server may send more than it said, or not say it, or send less that unpacks to more, and may not know how to
    send a part: so its answer is read as it comes. Other stores are asked for a part.

    Parameters:
        fs: the store's file system.
        path: the file in it.
        size: how many bytes at most.
        known: what the store says of the file's size; None where it says nothing.

    Raises:
        Exception: whatever fsspec and its drivers raise.
    """
    if "http" in fs.protocol:
        parts = []
        with fs.open(path, "rb", block_size=0, size=known or 1) as answer:  # 0: a stream
            while size > 0 and (part := answer.read(min(size, _PART_BYTES))):
                parts.append(part)
                size -= len(part)
        return b"".join(parts)
    if known == 0:  # there is no part of nothing
        return cast(bytes, fs.cat_file(path))
    return cast(bytes, fs.cat_file(path, start=0, end=size))


def content_type_option(fs: Any, content_type: str | None) -> dict[str, str]:
    """Return what tells a store's driver the type of a file's content; nothing where it takes none."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    option = next((_CONTENT_TYPE[protocol] for protocol in protocols if protocol in _CONTENT_TYPE), None)
    return {} if option is None or content_type is None else {option: content_type}


def modified_times(fs: Any, path: str) -> dict[str, float]:
    """Return when the files of a store's folder were last changed, in seconds since 1970, by name, where it tells."""
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    times = {}
    for entry in entries:
        moment = next((entry[key] for key in _MODIFIED if entry.get(key)), None)
        if isinstance(moment, str):
            with contextlib.suppress(ValueError):
                moment = datetime.datetime.fromisoformat(moment)
        if isinstance(moment, datetime.datetime):
            moment = moment.timestamp()
        if entry.get("type") == "file" and isinstance(moment, float | int):
            times[str(entry["name"]).rpartition("/")[2]] = float(moment)
    return times


def create(write: Callable[..., None]) -> bool:
    """Create a file in a store only if its name is free; see ``write_new``.

    Parameters:
        write: writes the file; fsspec's ``pipe_file`` or ``put_file`` with all arguments but ``mode``.

    Returns:
        False when the name is taken.

    Raises:
        Exception: whatever fsspec and its drivers raise.
    """
    try:
        write(mode="create")
    except Exception as error:
        answers = [retry.http_answer(cause) for cause in retry.chain(error)]
        if isinstance(error, FileExistsError) or any(status == _PRECONDITION_FAILED for status, _ in answers):
            return False
        unknown = isinstance(error, TypeError | NotImplementedError)  # a driver without this mode
        if not unknown and all(status != retry.NOT_IMPLEMENTED for status, _ in answers):
            raise
        write()
    return True


def _moment(value: object) -> str:
    """Return a time in one form, whether a store gives a date, seconds or text."""
    if isinstance(value, datetime.datetime):
        value = value.timestamp()
    return f"{value:.6f}" if isinstance(value, float) else str(value)


class RangeReader(io.RawIOBase):
    """A file in a store as a seekable binary file that reads just the bytes that are asked for.

    Parameters:
        read_range: returns bytes ``start`` up to ``end``; may be slow, must be right or raise.
        size: of the file, in bytes.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that this can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, all that is left for -1; empty at the end."""
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        data = self._read_range(self._position, end)
        self._position = end
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
