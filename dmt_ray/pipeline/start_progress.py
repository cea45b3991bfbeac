"""Log lines for the start of a run: exemplars that are read and actors that are loaded, before the first shard."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from dmt_ray.pipeline.actors import ReconstructionActor, TraversalActor
from dmt_ray.pipeline.asking import Question
from dmt_ray.pipeline.resources import PoolPlan

logger = logging.getLogger(__name__)

#: Seconds between two questions to the run's ``Attempts``, and between two lines that say the same.
ASK_S = 2.0
REPEAT_S = 10.0


class StartProgress:
    """Asks the run's ``Attempts`` how far the start is, never waiting for the answer, and logs what it says.

    Parameters:
        attempts: handle of the ``Attempts``.
        exemplars: how many there are.
        shown: False logs nothing.
    """

    def __init__(self, attempts: Any, exemplars: int, *, shown: bool) -> None:
        self._exemplars, self._shown = exemplars, shown
        self._question = Question(lambda: attempts.start.remote(), ASK_S)
        self._pools: list[tuple[str, str, int]] | None = None
        self._line, self._said = "", time.monotonic()

    def wait_for_actors(self, pools: PoolPlan, shards: int) -> None:
        """Tell of actors from now on: all exemplars were learned from.

        Parameters:
            pools: how many there will be.
            shards: how many there are to do; there are no more actors of a kind than that.
        """
        self._say(self._describe(self._exemplars, {}))
        self._pools = [
            ("traversal", TraversalActor.__name__, min(shards, pools.traversal.actors)),
            ("reconstruction", ReconstructionActor.__name__, min(shards, pools.reconstruction.actors)),
        ]

    def end(self) -> None:
        """Ask no more: the first shard is done."""
        self._shown = False

    def look(self) -> None:
        """Ask when it is time, and log the answer once it is there."""
        answer = self._question.answer() if self._shown else None
        if answer is None:
            return
        line, now = self._describe(*answer), time.monotonic()
        # On a terminal the bar shows that the run goes on.
        if line != self._line or (now - self._said >= REPEAT_S and not sys.stderr.isatty()):
            self._said = now
            self._line = ""
            self._say(line)

    def _say(self, line: str) -> None:
        if line and line != self._line and self._shown:
            self._line = line
            logger.info("%s", line)

    def _describe(self, exemplars: int, actors: dict[str, int]) -> str:
        if self._pools is None:
            if not self._exemplars:
                return ""
            then = "; learning from them" if exemplars >= self._exemplars else ""
            return f"Exemplars: {exemplars} of {self._exemplars} read{then}."
        # A process that died and was started again counts twice.
        ready = [f"{name} {min(count, actors.get(kind, 0))} of {count}" for name, kind, count in self._pools]
        all_ready = all(actors.get(kind, 0) >= count for _, kind, count in self._pools)
        return f"Actors that are ready: {', '.join(ready)}{'; the first shards are being done' if all_ready else ''}."
