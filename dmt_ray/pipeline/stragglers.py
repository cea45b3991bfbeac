"""The end of a run: actors with nothing to do take over the last shards of others.

A shard that waits behind another one moves. A shard that takes unusually long begins a second time; the first to
finish wins, and as both write the same rows under the same name, the output holds them once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from dmt_ray.pipeline.pools import Pool, Turn, Worker

#: A shard begins a second time once it has taken so many times longer than a typical one, and at least so long.
TIMES_TYPICAL = 2.0
LEAST_S = 15.0


def take_over(pool: Pool) -> Iterator[tuple[Worker, Turn, Worker, bool]]:
    """Yield who takes over what: the actor that has a turn, the turn, an idle actor, and whether it has begun.

    Those with the most waiting turns, and those that have taken longest, come first. No shard is done by more than
    two.

    Parameters:
        pool: no shard waits for one of its actors.
    """
    idle = pool.idle
    if not idle:
        return
    waiting = [(worker, turn) for worker in pool.workers for turn in list(worker.turns)[1:]]
    now, copies = time.monotonic(), Counter(turn.shard for _, turn in pool.turns())
    late = max(LEAST_S, TIMES_TYPICAL * pool.typical)
    slow = [worker for worker in pool.workers if worker.turns and now - worker.since > late]
    slow.sort(key=lambda worker: worker.since)
    begun = [(worker, worker.turns[0]) for worker in slow if copies[worker.turns[0].shard] == 1]
    for helper in idle:
        if waiting:
            yield *waiting.pop(), helper, False
        elif begun:
            yield *begun.pop(0), helper, True
        else:
            return
