"""A run in which nothing happens any more: what is stuck where, and the end of the processes that are."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmt_ray.pipeline.attempts import EXEMPLARS, Place
from dmt_ray.pipeline.pools import Pool, Worker
from dmt_ray.storage.processes import process_state

logger = logging.getLogger(__name__)

#: A stage that lasts this many times longer than any before is stuck, also while others go on.
TIMES_LONGEST = 5.0
#: A process that starts, a model that loads and exemplars that are read get at least so many seconds.
STARTING_S = 120.0
#: Seconds that nodes are given to say what their processes do and to end them.
PATIENCE_S = 60.0
#: Seconds that a stack may take.
_STACK_S = 20.0
#: Seconds between two questions to the run's ``Attempts`` about the exemplars.
_ASK_S = 5.0
#: Lines of a stack that are told.
_STACK_LINES = 60


class NoProgressError(Exception):
    """Nothing happens any more, and there is no process whose end would help."""


class ProgressWatch:
    """Knows when something happened last. Who hands out shards notes it; the main thread has the last word.

    Parameters:
        timeout: seconds without progress that a run is allowed.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.starting = max(timeout, STARTING_S)
        """Seconds that what has no shard yet is allowed."""
        self._last = time.monotonic()

    def note(self) -> None:
        """Something happened."""
        self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since something happened."""
        return time.monotonic() - self._last

    @property
    def is_over(self) -> bool:
        """Nothing happened for too long."""
        return self.idle > self.timeout

    def check(self) -> None:
        """Stop a run whose stuck processes were not found, or not ended, by who should have.

        Raises:
            NoProgressError: nothing happened for the timeout, and then some.
        """
        if self.idle > self.starting + 2 * PATIENCE_S:
            raise NoProgressError(f"Nothing has happened for {self.idle:.0f} s, and no process is known to be stuck.")


class LearningWatch:
    """Watches the task that learns from the exemplars, before there are shards.

    Parameters:
        watch: of the run.
        attempts_actor: handle of the run's ``Attempts``.
    """

    def __init__(self, watch: ProgressWatch, attempts_actor: Any) -> None:
        self._watch, self._attempts = watch, attempts_actor
        self._asked: Any = None
        self._next, self._seen = time.monotonic(), -1

    def look(self) -> None:
        """Ask how many exemplars were read, never waiting for the answer.

        Raises:
            NoProgressError: none was for too long; the process that reads them was ended.
        """
        if self._asked is None and time.monotonic() >= self._next:
            self._asked = self._attempts.start.remote()
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with suppress(RayError):
                read, _ = ray.get(self._asked)
                if read != self._seen:
                    self._seen = read
                    self._watch.note()
            self._asked, self._next = None, time.monotonic() + _ASK_S
        if self._watch.idle <= self._watch.starting:
            return
        place = places_of(self._attempts).get(EXEMPLARS)
        where = "no node has room for who reads them" if place is None else f"{place}. {end_processes([place])[0]}"
        raise NoProgressError(
            f"The exemplars have made no progress for {self._watch.idle:.0f} s (--no-progress-timeout): {where}"
        )


def places_of(attempts_actor: Any) -> Mapping[str, Place]:
    """Return where everybody runs; nothing where that cannot be known now."""
    try:
        places: Mapping[str, Place] = ray.get(attempts_actor.places.remote(), timeout=PATIENCE_S)
    except RayError as error:
        logger.debug("No places: %s", error)
        return {}
    return places


def stuck_workers(pool: Pool, watch: ProgressWatch) -> list[Worker]:
    """Return the actors with room that have been at one thing for too long.

    That is: for longer than the timeout, and either nothing else happens, or no stage before took nearly as long.
    """
    now = time.monotonic()
    limit = watch.timeout if watch.is_over else max(watch.timeout, TIMES_LONGEST * (pool.longest or math.inf))
    busy = [worker for worker in pool.workers if worker.turns and now - worker.since > limit]
    loading = [worker for worker in pool.workers if worker.loading is not None and worker.place is not None]
    return busy + [worker for worker in loading if now - worker.since > watch.starting]


def end_processes(places: Sequence[Place]) -> list[str]:
    """Kill processes on their nodes; return for each what it was doing, in words, with its stacks below.

    A process that a signal has stopped does not hear Ray, so its node sends the kernel's SIGKILL.
    """
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_tell_and_kill)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False)).remote(place.pid)
        for place in places
    ]
    deadline = time.monotonic() + PATIENCE_S
    return [_answer(each, max(1.0, deadline - time.monotonic())) for each in asked]


def _answer(asked: Any, timeout: float) -> str:
    try:
        answer: str = ray.get(asked, timeout=timeout)
    except GetTimeoutError:
        return "Its node does not answer."
    except RayError as error:
        return f"Its node does not answer ({type(error).__name__})."
    return answer


def _tell_and_kill(pid: int) -> str:
    state = process_state(pid)
    if state is None:
        return "The process is gone."
    stack = _stack(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f"It was {state}, and is ended. {stack}"


def _stack(pid: int) -> str:
    """Return the stacks of a process's threads as py-spy, which comes with Ray, sees them from outside."""
    tool = os.path.join(os.path.dirname(sys.executable), "py-spy")  # noqa: PTH118, PTH120
    command = [tool, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STACK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Its stack cannot be read: {error}"
    if done.returncode:
        said = " ".join(done.stderr.split())
        return f"Its stack cannot be read ({said}); in a container py-spy needs the capability SYS_PTRACE."
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Thread", " "))]
    return "Its stack:\n" + "\n".join(lines[:_STACK_LINES])


def tell_of(worker: Worker, pool: Pool, found: str) -> None:
    """Log what an actor was stuck with."""
    what = f"shard {worker.turns[0].shard}" if worker.turns else "loading its model"
    logger.error(
        "No progress for %.0f s (--no-progress-timeout): the %s of %s, %s. %s",
        *(time.monotonic() - worker.since, pool.name, what, worker.place, found),
    )
