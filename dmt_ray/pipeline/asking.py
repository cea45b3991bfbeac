"""Questions to an actor of Ray that are asked now and then, and whose answers nobody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError


class Question:
    """Asks the same again and again.

    Parameters:
        ask: a remote call, such as ``attempts.start.remote``.
        every: seconds between an answer and the next question.
    """

    def __init__(self, ask: Callable[[], Any], every: float) -> None:
        self._ask, self._every = ask, every
        self._asked: ray.ObjectRef[Any] | None = None
        self._last = time.monotonic()

    def answer(self) -> Any | None:
        """Return an answer that has come since the last call, else None; ask when it is time."""
        if self._asked is None:
            if time.monotonic() - self._last < self._every:
                return None
            self._asked = self._ask()
        if not ray.wait([self._asked], timeout=0)[0]:
            return None
        asked, self._asked, self._last = self._asked, None, time.monotonic()
        try:
            return ray.get(asked)
        except RayError:  # whoever waits for the run's results tells why
            return None
