"""One actor per run that permits shards to begin, counts their tries, and knows how far the run's start is.

It needs neither torch nor Arrow.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

#: Who learns the exemplars, among those that note their place.
EXEMPLARS = "exemplars"


@dataclass(frozen=True)
class Place:
    """Where a process runs."""

    node: str
    """Ray's id of its node."""
    ip: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.ip}"


class Attempts:
    """Permits shards to begin until the run stops, and counts the tries of each, those of dead processes included."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, int]] = Counter()
        self._stopped = False
        self._began: float | None = None
        self._exemplars = 0
        self._actors: Counter[str] = Counter()
        self._places: dict[str, Place] = {}

    def begin(self, stage: str, shard: int) -> int:
        """Count a try of a stage; return the tries so far, this one included, or 0 when it must not begin."""
        if self._stopped:
            return 0
        if self._began is None:
            self._began = time.monotonic()
        self._begun[stage, shard] += 1
        return self._begun[stage, shard]

    def stop(self) -> None:
        """Permit no further shard to begin."""
        self._stopped = True

    def count(self, shard: int) -> int:
        """Return the tries of the shard's most often begun stage."""
        return max((tries for (_, number), tries in self._begun.items() if number == shard), default=0)

    def seconds(self) -> float | None:
        """Return the time since the first shard began; None when none has."""
        return None if self._began is None else time.monotonic() - self._began

    def note_exemplars(self, read: int) -> None:
        """Note how many exemplars were read so far."""
        self._exemplars = read

    def note_actor(self, kind: str) -> None:
        """Note that one more actor of a kind has loaded its model."""
        self._actors[kind] += 1

    def note_place(self, who: str, place: Place) -> None:
        """Note where an actor, told by its id, or the learning of the exemplars now runs."""
        self._places[who] = place

    def places(self) -> dict[str, Place]:
        """Return where everybody runs or has run."""
        return self._places

    def start(self) -> tuple[int, dict[str, int]]:
        """Return how many exemplars were read, and how many actors of each kind have been ready."""
        return self._exemplars, dict(self._actors)
