"""How a worker process died: what it leaves behind when it crashes or hangs, and who reads that afterwards.

A crash in native code and a hang run no Python any more, so both are left to ``faulthandler``, which needs none.
"""

from __future__ import annotations

import faulthandler
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Seconds that a node is given to say how a process on it died.
PATIENCE_S = 60.0

_FATAL = "Fatal Python error: "
_HUNG = "Timeout ("
#: Open for as long as the process lives: faulthandler writes there when it dies.
_file: IO[str] | None = None


@dataclass(frozen=True)
class CrashTrace:
    """Where a process writes its crash trace, and what its machine was like before."""

    node: str
    path: str
    oom_kills: int
    """Processes that the kernel has killed for lack of memory."""


@contextmanager
def kill_after(timeout: float | None) -> Iterator[None]:
    """End this process when the block takes longer than ``timeout`` seconds, wherever it hangs; None never does.

    The stacks of all threads go into its crash trace, or to its log. Ray then starts another process.
    """
    if timeout is None:
        yield
        return
    faulthandler.dump_traceback_later(timeout, exit=True, file=_file or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def start_crash_trace() -> CrashTrace:
    """Let this process say in a file how it dies, where that can be said."""
    global _file
    folder = Path(tempfile.gettempdir())
    path = folder / f"dmt-ray-crash-{secrets.token_hex(8)}"
    _file = path.open("w")
    faulthandler.enable(_file)
    return CrashTrace(ray.get_runtime_context().get_node_id(), str(path), _oom_kills())


def cause_of_death(error: RayError, trace: CrashTrace) -> str:
    """Return how a process died, as far as can be known.

    Parameters:
        error: what Ray says of it.
        trace: what its process left.
    """
    if isinstance(error, OutOfMemoryError):
        return "Ray killed it because its machine ran out of memory"
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_trace)
    place = NodeAffinitySchedulingStrategy(trace.node, soft=False)
    try:
        cause: str = ray.get(task.options(scheduling_strategy=place).remote(trace), timeout=PATIENCE_S)
    except RayError:
        return "its machine went away"
    return cause


def discard_trace(trace: CrashTrace) -> None:
    """Delete what a process left that lives and is needed no more."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_trace)
    task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(trace.node, soft=False)).remote(trace)


def _read_trace(trace: CrashTrace) -> str:
    path = Path(trace.path)
    try:
        cause = path.read_text(errors="replace")
    except OSError:
        cause = ""
    with suppress(OSError):
        path.unlink()
    for line in cause.splitlines():
        if line.startswith(_FATAL):
            return f"it crashed in native code ({line.removeprefix(_FATAL)})"
        if line.startswith(_HUNG):
            return "it took longer than --shard-timeout and was ended"
    if _oom_kills() > trace.oom_kills:
        return "it was killed, most likely by the kernel for lack of memory"
    return "it was killed by a signal (SIGKILL), or ended itself"


def _oom_kills() -> int:
    """Return how many processes of this machine the kernel has killed for lack of memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
