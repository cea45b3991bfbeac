"""Files are read whole, in ranges, or as a stream; a known identity makes sure that it is still the same file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from dmt_ray.storage.disk_space import FULL_DISK
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import local, remote
from dmt_ray.storage.files.guarding import check_identity, check_size, guard
from dmt_ray.storage.files.policy import ListPolicy
from dmt_ray.storage.files.uris import is_local, local_path
from dmt_ray.words import agreed, counted


def read_bytes(
    uri: str, *, max_bytes: int | None = None, identity: str | None = None, policy: ListPolicy | None = None
) -> bytes:
    """Read a whole file.

    Parameters:
        uri: the file.
        max_bytes: a larger file is refused, before it is read where its size is known, and otherwise once so many
            bytes have come: no more are held, whatever a server says of the size.
        identity: what ``identity`` or a listing gave for the file; another file under its name is refused. None reads
            whatever is there. On a store, the limit and the identity cost one request together.
        policy: of the list or table that names the file; None where the user does.

    Raises:
        RefusedError: the policy does not allow it.
        TooLargeError: more than ``max_bytes``.
        ChangedFileError: the file is not the one of that identity.
        StorageError: missing, no regular file, or unreadable, also after the tries that ``retry`` allows.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        if policy is not None:
            policy.check(uri)
        return guard(uri, lambda: _read_local(uri, max_bytes, identity))
    fs, name, _ = remote.locate(uri, policy)
    if max_bytes is not None or identity is not None:
        known = guard(uri, lambda: fs.info(name))
        check_identity(uri, remote.identity_of(known), identity)
        check_size(uri, known.get("size"), max_bytes)  # None: the server does not say
        if max_bytes is not None:
            data = guard(uri, lambda: remote.read_at_most(fs, name, max_bytes + 1, known.get("size")))
            check_size(uri, len(data), max_bytes)
            return data
    return guard(uri, lambda: cast(bytes, fs.cat_file(name)))


def read_range(uri: str, start: int, size: int, *, identity: str | None = None) -> bytes:
    """Read ``size`` bytes of a file from offset ``start`` on; ``identity`` as for ``read_bytes``.

    Raises:
        ChangedFileError: the file is not the one of that identity.
        StorageError: missing, unreadable, or shorter than that.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    with open_file(uri, identity=identity) as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise StorageError(uri, f"ends before byte {start + size}")
    return data


@contextlib.contextmanager
def open_file(uri: str, *, identity: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file for seeking and reading parts of it, such as Parquet row groups.

    On a store each read is one request of exactly that range. ``identity`` is as for ``read_bytes``; it is compared
    once and costs no request.

    Raises:
        ChangedFileError: the file is not the one of that identity.
        StorageError: missing or unreadable, also while reading.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        file: IO[bytes] = guard(uri, lambda: local.open_file(local_path(uri)))
        if identity is not None:
            try:
                check_identity(uri, local.identity_of(os.fstat(file.fileno())), identity)
            except BaseException:
                file.close()
                raise
    else:
        fs, path, _ = remote.locate(uri)
        known = guard(uri, lambda: fs.info(path))
        check_identity(uri, remote.identity_of(known), identity)
        size = known.get("size")
        if size is None:
            raise StorageError(uri, "the server does not tell its size, so it cannot be read in parts")

        def read(start: int, end: int) -> bytes:
            data = guard(uri, lambda: cast(bytes, fs.cat_file(path, start=start, end=end)))
            if len(data) != end - start:
                were = agreed(end - start, "was", "were")
                raise StorageError(uri, f"{counted(end - start, 'byte')} {were} asked for and {len(data)} came")
            return data

        file = cast(IO[bytes], remote.RangeReader(read, int(size)))
    try:
        yield file
    finally:
        file.close()


def fetch(uri: str, path: Path) -> None:
    """Copy a file of any size from a store into a local file, in bounded memory.

    Raises:
        StorageError: missing or unreadable, or ``path`` cannot be written.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        guard(uri, lambda: local.copy_to(local_path(uri), path))
        return
    fs, name, _ = remote.locate(uri)
    try:
        guard(uri, lambda: fs.get_file(name, str(path)))
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL_DISK:
            raise StorageError(str(path.parent), "has no space left") from error
        raise


def _read_local(uri: str, max_bytes: int | None, identity: str | None) -> bytes:
    with local.open_file(local_path(uri)) as file:
        status = os.fstat(file.fileno())
        check_identity(uri, local.identity_of(status), identity)
        check_size(uri, status.st_size, max_bytes)
        data = file.read() if max_bytes is None else file.read(max_bytes + 1)  # it may be growing
        if identity is not None:  # not one that was rewritten while it was read either
            check_identity(uri, local.identity_of(os.fstat(file.fileno())), identity)
    check_size(uri, len(data), max_bytes)
    return data
