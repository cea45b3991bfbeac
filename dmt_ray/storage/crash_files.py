"""Files in the temporary folder in which a process that crashes leaves its last message."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

#: A file of a dead process is deleted when it is older: until then somebody may still want to read it.
KEEP_S = 600.0

_PREFIX = "dmt-ray-crash-"
_NAME = re.compile(rf"{_PREFIX}(\d+)-[0-9a-f]+")


def open_crash_file() -> IO[str]:
    """Open a new file for this process, whose name holds its process id; it is deleted when this process exits.

    First delete the files that dead processes of this user left there.

    Raises:
        OSError: it cannot be created.
    """
    delete_abandoned()
    path = Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    file = path.open("x")
    atexit.register(take_crash_file, str(path))
    return file


def take_crash_file(path: str) -> str:
    """Return the text of a crash file and delete the file; an empty text when there is none."""
    try:
        text = Path(path).read_text(errors="replace")
    except OSError:
        text = ""
    with suppress(OSError):
        Path(path).unlink()
    return text


def delete_abandoned() -> None:
    """Delete this user's crash files whose processes are dead, once they are ``KEEP_S`` seconds old."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        match = _NAME.fullmatch(path.name)
        with suppress(OSError):
            status = path.lstat()
            if match is None or status.st_uid != os.getuid() or time.time() - status.st_mtime < KEEP_S:
                continue
            if not _is_alive(int(match[1])):
                path.unlink()


def oom_kills() -> int:
    """Return how many processes of this machine the kernel has killed for lack of memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
