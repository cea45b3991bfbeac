"""Room for what lives no longer than this process: temporary folders, and arrays that are mapped from files.

A folder's name says which process made it, ``dmt-ray-<purpose>-<process id>-<machine>-<random>``, so that a later
process on the same machine can delete what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.storage.disk_space import is_out_of_space, temporary_folder
from dmt_ray.storage.errors import StorageError

logger = logging.getLogger(__name__)

#: Arrays larger than this are made in a file and mapped, not in memory.
MAPPED_BYTES = 2**28

_PREFIX = "dmt-ray-"
_NAME = re.compile(rf"{_PREFIX}[a-z]+-(?P<process>\d+)-(?P<machine>[0-9a-f]{{8}})-\w+")
#: What a file system says that cannot reserve room.
_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class ScratchFolder:
    """A temporary folder, deleted with this object, or at the end of a ``with`` block, which gets its path.

    When the disk is full inside the block, the block raises a ``StorageError`` that names the folder.
    """

    def __init__(self, purpose: str) -> None:
        place = temporary_folder()
        with _naming_full_disk(place):
            self._folder = tempfile.TemporaryDirectory(
                prefix=f"{_PREFIX}{purpose}-{os.getpid()}-{_machine()}-", dir=place
            )
        self.path = Path(self._folder.name)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        place = str(self.path.parent)
        is_full = isinstance(error, OSError) and is_out_of_space(error, place)
        self._folder.cleanup()
        if is_full:
            raise _full_disk(place) from error


def scratch_folder(purpose: str) -> ScratchFolder:
    """Make a folder in the folder of temporary files (``$TMPDIR``).

    The first one of a process also deletes those that killed processes left, see ``sweep_folders``.

    Parameters:
        purpose: one word of small letters for the folder's name, such as ``plan``.

    Raises:
        StorageError: the disk is full.
        SettingsError: no temporary folder can be written.
    """
    _sweep_once()
    return ScratchFolder(purpose)


def sweep_folders() -> int:
    """Delete the temporary folders that killed processes of this program left behind.

    Deleted are only this user's folders, with names of this module, that a process made on this machine (or in this
    container) that is dead. What cannot be deleted stays, and a warning says so.

    Returns:
        How many folders were deleted.
    """
    swept = 0
    with contextlib.suppress(OSError):
        for path in Path(temporary_folder()).iterdir():
            match = _NAME.fullmatch(path.name)
            if match is None or match["machine"] != _machine() or _is_alive(int(match["process"])):
                continue
            try:
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                    shutil.rmtree(path)
                    swept += 1
            except FileNotFoundError:
                continue  # another process sweeps too
            except OSError as error:
                logger.warning("A temporary folder of a killed process stays behind: %s", error)
    return swept


def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Make an array; one of more than ``MAPPED_BYTES`` in a file without a name, so it need not fit into memory.

    Parameters:
        shape: of the array.
        dtype: of its elements.

    Returns:
        An array of undefined content.

    Raises:
        StorageError: the folder of temporary files has no room for it.
        SettingsError: no temporary folder can be written.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MAPPED_BYTES:
        return np.empty(shape, dtype)
    place = temporary_folder()
    with _naming_full_disk(place), tempfile.TemporaryFile(prefix=_PREFIX, dir=place) as file:
        _reserve(file.fileno(), size)
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size and its room on the disk: a mapped page without room would kill the process later."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise
        os.ftruncate(descriptor, size)


@contextlib.contextmanager
def _naming_full_disk(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_out_of_space(error, folder):
            raise _full_disk(folder) from error
        raise


def _full_disk(folder: str) -> StorageError:
    return StorageError(folder, "has no space left; make room, or let TMPDIR name a folder on another disk")


@functools.cache
def _sweep_once() -> None:
    sweep_folders()


@functools.cache
def _machine() -> str:
    """Return a short hash of the machine, and of the space of process ids (a container's), of this process."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        name += f" {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 (the link itself leads nowhere)
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
