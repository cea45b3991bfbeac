"""One actor per run that permits shards to begin and counts their tries; it needs neither torch nor Arrow."""

from __future__ import annotations

from collections import Counter


class Attempts:
    """Permits shards to begin until the run stops, and counts the tries of each, those of dead processes included."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, int]] = Counter()
        self._stopped = False

    def begin(self, stage: str, shard: int) -> int:
        """Count a try of a stage; return the tries so far, this one included, or 0 when it must not begin."""
        if self._stopped:
            return 0
        self._begun[stage, shard] += 1
        return self._begun[stage, shard]

    def stop(self) -> None:
        """Permit no further shard to begin."""
        self._stopped = True

    def count(self, shard: int) -> int:
        """Return the tries of the shard's most often begun stage."""
        return max((tries for (_, number), tries in self._begun.items() if number == shard), default=0)
