"""Find a temporary folder, and recognize that a local disk is full, which libraries report in several ways."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from dmt_ray.errors import SettingsError

#: A disk with fewer free bytes counts as full: what a program writes first is larger than that.
FULL_BYTES = 2**20

#: The numbers of its errors: no space, or the user's quota is used up.
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})

_MESSAGE = os.strerror(errno.ENOSPC)


def temporary_folder() -> str:
    """Return the folder of temporary files: the first of TMPDIR, /tmp and others that can be written.

    Raises:
        SettingsError: none can.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SettingsError(
            f"No temporary folder can be written, as if all were full ({error.strerror}). Make room, or let TMPDIR "
            "name a folder on another disk."
        ) from error


def is_out_of_space(error: BaseException, folder: str) -> bool:
    """Tell whether an error says, or comes from, that the disk of a folder is full.

    Parameters:
        error: by its ``errno`` or its message, or by those of what it was raised from.
        folder: whose disk is looked at when the error does not say so; it need not exist.
    """
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in FULL_DISK or _MESSAGE in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return not has_room(folder, FULL_BYTES)


def has_room(folder: str, size: int) -> bool:
    """Tell whether the disk of a folder, which need not exist, has ``size`` free bytes; True if unknown."""
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free >= size
    except OSError:
        return True
