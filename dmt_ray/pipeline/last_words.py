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
class Witness:
    """Where a process writes its last words, and what its machine was like before."""

    node: str
    path: str
    oom_kills: int
    """Processes that the kernel has killed for lack of memory."""


@contextmanager
def watched(timeout: float | None) -> Iterator[None]:
    """End this process when the block takes longer than ``timeout`` seconds, wherever it hangs; None never does.

    The stacks of all threads go into its last words, or to its log. Ray starts another process for what it was doing.
    """
    if timeout is None:
        yield
        return
    faulthandler.dump_traceback_later(timeout, exit=True, file=_file or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def leave_last_words() -> Witness:
    """Let this process say in a file how it dies, where that can be said."""
    global _file
    folder = Path(tempfile.gettempdir())
    path = folder / f"dmt-ray-last-words-{secrets.token_hex(8)}"
    _file = path.open("w")
    faulthandler.enable(_file)
    return Witness(ray.get_runtime_context().get_node_id(), str(path), _oom_kills())


def manner_of_death(error: RayError, witness: Witness) -> str:
    """Say how the process of a witness died, as far as can be known.

    Parameters:
        error: what Ray says of it.
        witness: what its process left.
    """
    if isinstance(error, OutOfMemoryError):
        return "Ray killed it because its machine ran out of memory"
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_last_words)
    place = NodeAffinitySchedulingStrategy(witness.node, soft=False)
    try:
        words: str = ray.get(task.options(scheduling_strategy=place).remote(witness), timeout=PATIENCE_S)
    except RayError:
        return "its machine went away"
    return words


def forget(witness: Witness) -> None:
    """Delete what a process left that lives and is needed no more."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_last_words)
    task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(witness.node, soft=False)).remote(witness)


def _read_last_words(witness: Witness) -> str:
    path = Path(witness.path)
    try:
        words = path.read_text(errors="replace")
    except OSError:
        words = ""
    with suppress(OSError):
        path.unlink()
    for line in words.splitlines():
        if line.startswith(_FATAL):
            return f"it crashed in native code ({line.removeprefix(_FATAL)})"
        if line.startswith(_HUNG):
            return "it took longer than --shard-timeout and was ended"
    if _oom_kills() > witness.oom_kills:
        return "it was killed, most likely by the kernel for lack of memory"
    return "it was killed by a signal (SIGKILL), or ended itself"


def _oom_kills() -> int:
    """Return how many processes of this machine the kernel has killed for lack of memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
