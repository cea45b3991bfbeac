"""The Ray Data graph: shards -> traversal pool -> reconstruction pool -> summaries.

What a run promises does not rest on this graph but on the shards' files: whatever it loses is found missing later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy

from dmt_ray.pipeline.actors import ReconstructionActor, Shared, TraversalActor
from dmt_ray.pipeline.plan import Shard
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan

logger = logging.getLogger(__name__)

#: Tries that Ray gives a shard after its actor died over it; afterwards its images run one by one.
SHARD_RETRIES = 2
#: The stream gives up when more than this share of the shards (and at least MIN_LOST) crash: then it is not an image.
LOST_SHARE = 0.1
MIN_LOST = 16


def stream_shards(shards: Sequence[Shard], shared: Shared, pools: PoolPlan) -> Iterator[dict[str, Any]]:
    """Run the shards through both pools; yield one row of ``SUMMARY_SCHEMA`` per committed shard, in any order.

    A shard whose actor dies ``1 + SHARD_RETRIES`` times is left out; the caller finds it by its missing file.

    Raises:
        ray.exceptions.RayError: too many shards were lost, or an actor cannot start.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [
        {
            "shard": shard.number,
            "ids": [item.id for item in shard.items],
            "uris": [item.uri for item in shard.items],
        }
        for shard in shards
    ]
    # One block per shard from the start: no read or repartition task has to find a free CPU beside the pools.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = max(MIN_LOST, int(LOST_SHARE * len(shards)))
    context.execution_options.preserve_order = False
    dataset = dataset.map_batches(TraversalActor, **_pool(pools.traversal, shared, len(shards)))
    dataset = dataset.map_batches(ReconstructionActor, **_pool(pools.reconstruction, shared, len(shards)))
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _pool(plan: ActorPlan, shared: Shared, shards: int) -> dict[str, Any]:
    """Return the arguments of ``map_batches`` for one pool."""
    size = min(plan.actors, shards)
    return {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        # The pool starts whole, works with as few actors as the cluster can place, and gives up idle ones.
        "compute": ActorPoolStrategy(
            min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=2
        ),
        "fn_constructor_args": (shared, plan.threads),
        "num_cpus": plan.num_cpus,
        "num_gpus": plan.num_gpus,
        # Ray's defaults would run a shard that always crashes for ever.
        "max_restarts": -1,
        "max_task_retries": SHARD_RETRIES,
    }
