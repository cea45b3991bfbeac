"""The one actor of a run that lets shards begin and counts how often they were; it needs neither torch nor Arrow."""

from __future__ import annotations

from collections import Counter


class Attempts:
    """Lets shards begin, or no longer, and counts how often each was begun, also by a process that died over it."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, int]] = Counter()
        self._stopped = False

    def begin(self, stage: str, shard: int) -> int:
        """Count one more try of a stage; return the tries so far, this one included, or 0: it must not begin."""
        if self._stopped:
            return 0
        self._begun[stage, shard] += 1
        return self._begun[stage, shard]

    def stop(self) -> None:
        """Let no shard begin any more."""
        self._stopped = True

    def count(self, shard: int) -> int:
        """Return the tries of the shard's most often begun stage."""
        return max((tries for (_, number), tries in self._begun.items() if number == shard), default=0)
