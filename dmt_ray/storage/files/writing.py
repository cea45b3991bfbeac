"""Files appear whole or not at all: written, created once, moved and deleted."""

from __future__ import annotations

import contextlib
import errno
import functools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dmt_ray.errors import SettingsError
from dmt_ray.masking import masked
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files import local, remote
from dmt_ray.storage.files.guarding import guard, reason_of
from dmt_ray.storage.files.listing import exists
from dmt_ray.storage.files.reading import fetch
from dmt_ray.storage.files.uris import is_local, join, local_path
from dmt_ray.storage.scratch import scratch_folder


def write_atomic(uri: str, data: bytes, content_type: str | None = None, *, private: bool = False) -> None:
    """Write a file so that nobody ever sees half of it under its name; replaces what was there.

    A local file is written under a hidden name in its folder (made if missing), flushed to the disk and renamed. An
    object store gets one upload, which it makes visible when complete; one that fails halfway is made again.

    Parameters:
        uri: the file.
        data: its content.
        content_type: what S3 and Google's store tell a browser that it is, such as ``text/html``; None: bytes.
        private: a local file is readable by its owner alone (mode 0600). In a store that is the store's matter.

    Raises:
        StorageError: cannot be written; no partial or temporary file stays behind.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        guard(uri, lambda: local.write(local_path(uri), data, private=private))
        return
    fs, path, _ = remote.locate(uri)
    options = remote.content_type_option(fs, content_type)
    guard(uri, lambda: fs.pipe_file(path, data, **options))


def write_new(uri: str, data: bytes) -> bool:
    """Create a file only if its name is free: of several writers at once, one gets True.

    Locally a complete hidden file gets the name by a hard link; where the file system has none, the empty name is
    claimed first, and a reader may see it empty for a moment. S3, Google's store and ``memory://`` decide by
    themselves (on S3 the request says ``If-None-Match: *``). A store that cannot is asked whether the file exists
    before it is written, so that two writers in the same moment may both get True.

    Two writers in the same moment may both get True on a store also when their data are equal: a client sends a
    request again when its answer is lost, so a file of exactly ``data`` counts as this call's own.

    Returns:
        False when the file exists; it is left as it is.

    Raises:
        StorageError: cannot be written.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri):
        return guard(uri, lambda: local.write_new(local_path(uri), data))
    fs, path, _ = remote.locate(uri)
    if guard(uri, lambda: remote.info(fs, path)) is not None:
        return False

    def create() -> bool:
        # A client sends a request again when its answer is lost: what refuses it then may be this call's own file.
        return remote.create(functools.partial(fs.pipe_file, path, data)) or bytes(fs.cat_file(path)) == data

    return guard(uri, create)


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
            with local.staged(local_path(uri)) as path:
                yield path
            return
        fs, name, _ = remote.locate(uri)
        with scratch_folder("upload") as folder:
            path = folder / "upload"
            path.touch()
            yield path
            guard(uri, lambda: fs.put_file(str(path), name))
    except OSError as error:
        raise StorageError(uri, reason_of(error)) from error


@dataclass
class NewFile:
    """A file that is being made; see ``create_new``."""

    file: IO[bytes]
    """Opened for writing."""
    created: bool = False
    """After the block: it has got its name, which was free."""


@contextlib.contextmanager
def create_new(uri: str) -> Iterator[NewFile]:
    """Write a file of any size in bounded memory, which gets its name only if that is free: see ``write_new``.

    When the block ends without an error, what was written becomes the file, and ``created`` tells whether its name
    was free. Where the answer of a store is lost, ``created`` is False also for this call's own file.

    Raises:
        StorageError: cannot be written; no partial or temporary file stays behind. So are the block's OSErrors.
        SettingsError: the URI's scheme is unknown or its driver is not installed.
    """
    try:
        if is_local(uri):
            with local.hidden_beside(local_path(uri)) as path:
                with path.open("wb") as file:
                    made = NewFile(file)
                    yield made
                made.created = local.publish_new(path, local_path(uri))
            return
        fs, name, _ = remote.locate(uri)
        with scratch_folder("upload") as folder:
            with (folder / "upload").open("wb") as file:
                made = NewFile(file)
                yield made
            if guard(uri, lambda: remote.info(fs, name)) is None:
                put = functools.partial(fs.put_file, str(folder / "upload"), name)
                made.created = guard(uri, lambda: remote.create(put))
    except OSError as error:
        raise StorageError(uri, reason_of(error)) from error


@contextlib.contextmanager
def open_new(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for writing from its beginning; it appears under its name when the block ends. See ``staged``."""
    with staged(uri) as path, path.open("wb") as file:
        yield file


def move(uri: str, new_uri: str) -> None:
    """Move a file to another name, which is replaced where it is taken.

    On one local disk that is a renaming. Elsewhere the file is copied and then deleted; a crash in between leaves
    both.

    Raises:
        StorageError: missing, or it cannot be moved; then it is still under its old name.
        SettingsError: a URI's scheme is unknown or its driver is not installed.
    """
    if is_local(uri) and is_local(new_uri):
        try:
            guard(uri, lambda: local.move(local_path(uri), local_path(new_uri)))
            return
        except StorageError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EXDEV:
                raise
    if not is_local(uri) and not is_local(new_uri):
        fs, path, _ = remote.locate(uri)
        new_fs, new_path, _ = remote.locate(new_uri)
        if fs is new_fs:
            if path == new_path:
                return
            guard(uri, lambda: fs.cp_file(path, new_path))
            delete(uri)
            return
    with staged(new_uri) as copy:
        fetch(uri, copy)
    delete(uri)


def delete(uri: str) -> None:
    """Delete a file; a missing one is fine.

    Raises:
        StorageError: it exists but cannot be deleted.
    """
    try:
        if is_local(uri):
            guard(uri, lambda: local_path(uri).unlink(missing_ok=True))
            return
        fs, path, _ = remote.locate(uri)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                fs.rm_file(path)

        guard(uri, remove)
    except StorageError:
        if exists(uri):
            raise


def sweep_temporary(folder_uri: str, older_than_s: float = 3600.0) -> int:
    """Delete the hidden files that killed writers of this program left in a folder, and nothing else.

    That is ``.tmp-`` with 24 hexadecimal digits, directly in a local folder. A store has none.

    Parameters:
        folder_uri: the folder; a missing one is fine.
        older_than_s: leave files alone that were written to more recently: their writer may be alive.

    Returns:
        How many files were deleted. A file that cannot be deleted stays, and a warning says so.

    Raises:
        StorageError: the folder cannot be read.
    """
    if not is_local(folder_uri):
        return 0
    try:
        return guard(folder_uri, lambda: local.sweep_temporary(local_path(folder_uri), older_than_s))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return 0
        raise


def check_writable(folder_uri: str) -> None:
    """Write and delete a small hidden file in a folder to see that a run can write there.

    Leaves nothing behind, not even the folder.

    Raises:
        SettingsError: it cannot be written; says why.
    """
    missing: list[Path] = []
    if is_local(folder_uri):
        folder = local_path(folder_uri)
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
