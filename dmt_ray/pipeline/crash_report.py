"""How a worker process died: what it writes when it crashes or hangs, and how the driver reads that afterwards.

Python code no longer runs after a crash in native code or in a hang, so ``faulthandler`` writes, which needs none.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmt_ray.storage.crash_files import oom_kills, open_crash_file, take_crash_file

#: Seconds that a node is given to say how a process on it died.
PATIENCE_S = 60.0
#: Seconds that nodes are given to delete traces that nobody reads.
DISCARD_S = 10.0

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
    """Let ``faulthandler`` write to a file of this process how it dies, where that can be known."""
    global _file
    _file = open_crash_file()
    faulthandler.enable(_file)
    return CrashTrace(ray.get_runtime_context().get_node_id(), _file.name, oom_kills())


def cause_of_death(error: RayError, trace: CrashTrace) -> str:
    """Return how a process died, as far as can be known.

    Parameters:
        error: what Ray says of it.
        trace: of that process; its file is deleted.
    """
    if isinstance(error, OutOfMemoryError):
        discard_traces([trace])
        return "Ray killed it because its machine ran out of memory"
    try:
        cause: str = ray.get(_on_its_node(trace), timeout=PATIENCE_S)
    except RayError:
        return "its machine went away"
    return cause


def discard_traces(traces: Sequence[CrashTrace]) -> None:
    """Delete the traces of processes that are needed no more, those of lost nodes excepted."""
    tasks = [_on_its_node(trace) for trace in traces]
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=DISCARD_S)


def _on_its_node(trace: CrashTrace) -> Any:
    """Start a task that reads and deletes a trace on the node where it lies; return a reference to its result."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_trace)
    return task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(trace.node, soft=False)).remote(trace)


def _read_trace(trace: CrashTrace) -> str:
    for line in take_crash_file(trace.path).splitlines():
        if line.startswith(_FATAL):
            return f"it crashed in native code ({line.removeprefix(_FATAL)})"
        if line.startswith(_HUNG):
            return "it took longer than --shard-timeout and was ended"
    if oom_kills() > trace.oom_kills:
        return "it was killed, most likely by the kernel for lack of memory"
    return "it was killed by a signal (SIGKILL), or ended itself"
