"""The Ray Data graph: shards -> traversal pool -> reconstruction pool -> summaries.

What a run promises does not rest on this graph but on the shards' files: whatever it loses is found missing later.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError, RayTaskError

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.exemplars import LearnReport
from dmt_ray.jobs.job import Arrays
from dmt_ray.output.plan import Plan, plan_bytes
from dmt_ray.pipeline.actors import ReconstructionActor, Shared, TraversalActor, make_exemplars
from dmt_ray.pipeline.attempts import Attempts
from dmt_ray.pipeline.devices import NoDeviceError, complaint_in
from dmt_ray.pipeline.metrics import start_metrics
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan, plan_pools
from dmt_ray.pipeline.summary import ShardSummary, from_table

logger = logging.getLogger(__name__)

#: Tries that Ray gives a shard after its actor died over it; afterwards its images run one by one.
SHARD_RETRIES = 2
#: The stream gives up when more than this share of the shards (and at least MIN_LOST) crash: then it is not an image.
LOST_SHARE = 0.1
MIN_LOST = 16


def start_attempts() -> Any:
    """Return a handle of the run's ``Attempts``."""
    attempts_actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts)
    return attempts_actor.remote()


def share_exemplars(run: PreparedRun, attempts_actor: Any) -> tuple[Shared, PoolPlan, LearnReport]:
    """Put weights and exemplars into the object store, once for all actors, and size the pools.

    Returns what the actors share, the pools, and what there is to tell of the exemplars and the judge.

    Raises:
        SettingsError: none of a set of exemplars can be used, or the options ask for what the cluster does not have.
    """
    config = run.config
    pools = plan_pools([node["Resources"] for node in ray.nodes() if node["Alive"]], config.compute, len(run.todo))
    logger.info("Weights: %s go to the nodes.", _megabytes(run.weights.arrays))
    arrays = ray.put(run.weights.arrays)
    judge = ray.put(run.judge)
    gpus = pools.reconstruction.num_gpus
    task: Any = ray.remote(num_cpus=0 if gpus else 1, num_gpus=gpus, num_returns=2, max_retries=2)(make_exemplars)
    threads = pools.reconstruction.threads
    exemplars, report = task.remote(arrays, run.exemplars, config, threads, judge, attempts_actor)
    try:
        learned: LearnReport = ray.get(report)
    except RayTaskError as error:
        with contextlib.suppress(RayTaskError):
            ray.get(exemplars)  # the same error: Ray prints one that nobody has got
        if isinstance(error.cause, DmtError):
            raise SettingsError(str(error.cause)) from error
        raise
    lpips = ray.put(None if run.lpips is None else run.lpips.arrays)
    shared = Shared(
        arrays,
        exemplars,
        lpips,
        judge,
        ray.put(plan_bytes(run.shards) if run.masked_plan else None),
        config,
        run.weights_label,
        run.fingerprint,
        frozenset(run.retry),
        attempts_actor,
        start_metrics(config, run.fingerprint, len(run.todo)),
    )
    return shared, pools, learned


def stream_shards(shards: Plan, shared: Shared, pools: PoolPlan) -> Iterator[ShardSummary]:
    """Run the shards through both pools; yield a summary of each committed shard, in any order.

    A shard whose actor dies ``1 + SHARD_RETRIES`` times has no summary, nor has one that was not begun any more when
    the run was told to stop.

    Raises:
        NoDeviceError: CUDA does not answer where an actor was given a GPU.
        ray.exceptions.RayError: too many shards were lost, or an actor cannot start.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a lost shard is said below, without its traceback
    # Only the numbers: the actors read their shards from the plan, which may have a million images.
    rows = [{"shard": number} for number in shards.numbers]
    # One block per shard from the start: no read or repartition task has to find a free CPU beside the pools.
    dataset: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = max(MIN_LOST, int(LOST_SHARE * len(shards)))
    context.execution_options.preserve_order = False
    with warnings.catch_warnings():
        # The bounds on retries are only accepted as plain remote arguments until Ray 2.64, where this package stops.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = dataset.map_batches(TraversalActor, **_pool(pools.traversal, shared, len(shards)))
        dataset = dataset.map_batches(ReconstructionActor, **_pool(pools.reconstruction, shared, len(shards)))
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from from_table(batch)
    except RayError as error:
        complaint = complaint_in(error)
        if complaint is None:
            raise
        raise NoDeviceError(complaint) from error


def _pool(plan: ActorPlan, shared: Shared, shards: int) -> dict[str, Any]:
    """Return the arguments of ``map_batches`` for one pool."""
    size = min(plan.actors, shards)
    return {
        "batch_size": 1,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        # The pool starts whole, works with as few actors as the cluster can place, and gives up idle ones.
        "compute": ActorPoolStrategy(min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=2),
        "fn_constructor_args": (shared, plan.threads),
        "num_cpus": plan.num_cpus,
        "num_gpus": plan.num_gpus,
        # Ray's defaults would run a shard that always crashes for ever.
        "max_restarts": -1,
        "max_task_retries": SHARD_RETRIES,
    }


def _megabytes(arrays: Arrays) -> str:
    return f"{sum(array.nbytes for array in arrays.values()) / 1e6:.0f} MB"
