"""Which shards kill their actors: deaths are counted, and those of actors whose node was lost are not the shard's."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum

#: Tries that a stage of a shard gets after its actor died over it; afterwards its images run one by one.
SHARD_RETRIES = 2
#: Seconds until the loss of a node is surely known: Ray's control service waits for five answers, three seconds each.
VERDICT_S = 45.0
#: Seconds until it is known where Ray says that the actor's process died: a raylet that ends kills its actors first.
ENDING_S = 5.0


class Verdict(Enum):
    """What becomes of a shard whose actor died."""

    AGAIN = "it is done again"
    WAIT = "whether its node was lost is not known yet"
    LOST = "it has had its tries"


@dataclass
class _Death:
    node: str | None
    known: float
    """From when on the node would be known to be lost."""


@dataclass
class Blame:
    """Counts the deaths of actors over each stage of each shard, or of each image of a shard.

    Parameters:
        retries: tries that a stage gets after its actor died over it.
    """

    retries: int = SHARD_RETRIES
    _deaths: dict[tuple[str, int], list[_Death]] = field(default_factory=dict)
    _lost_nodes: set[str] = field(default_factory=set)

    def died(self, stage: str, shard: int, node: str | None, *, surely: bool) -> None:
        """Count a death.

        Parameters:
            stage: what the actor was doing.
            shard: and for which shard, or which image of one.
            node: where it was.
            surely: Ray says that the process died by itself, and not that it cannot be reached.
        """
        known = time.monotonic() + (ENDING_S if surely else VERDICT_S)
        self._deaths.setdefault((stage, shard), []).append(_Death(node, known))

    def lost_nodes(self, nodes: set[str]) -> None:
        """Note all nodes that are lost."""
        self._lost_nodes = nodes

    def verdict(self, stage: str, shard: int) -> Verdict:
        """Return what becomes of a shard."""
        deaths = [each for each in self._deaths.get((stage, shard), ()) if each.node not in self._lost_nodes]
        if len(deaths) <= self.retries:
            return Verdict.AGAIN
        return Verdict.LOST if all(each.known <= time.monotonic() for each in deaths) else Verdict.WAIT
