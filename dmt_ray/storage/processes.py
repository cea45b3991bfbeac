"""What the kernel says of a process of this machine."""

from __future__ import annotations

from pathlib import Path

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk or the network",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "dead",
}


def process_state(pid: int) -> str | None:
    """Return what state a process is in, in words; None where there is no such process, or nothing tells."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    letter = status.rpartition(") ")[2][:1]
    return _STATES.get(letter, f"in state {letter}")
