"""Tools for tests that interrupt a process while it starts."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds to wait for what takes a few on an idle machine.
PATIENCE = 120


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


def handles(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has set a handler of a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def processes_of(hooks: Path) -> dict[int, str]:
    """The processes whose environment has a folder of hooks, with their command lines."""
    mark = f"DMT_RAY_TEST_HOOKS={hooks}\0".encode()
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if mark in (process / "environ").read_bytes() + b"\0":
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, ValueError):
            continue
    return {pid: words for pid, words in found.items() if words}  # without zombies
