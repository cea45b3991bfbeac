"""What all actors of a run share, put into Ray's object store: weights, exemplars, and who counts attempts."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.exemplars import LearnReport
from dmt_ray.jobs.job import Arrays
from dmt_ray.output.plan import plan_bytes
from dmt_ray.pipeline.actors import Shared, make_exemplars
from dmt_ray.pipeline.attempts import Attempts
from dmt_ray.pipeline.metrics import start_metrics
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.resources import PoolPlan, plan_pools

logger = logging.getLogger(__name__)

#: How often the exemplars are learned again when their process dies, or every node that has them is lost.
LEARN_RETRIES = 10


def start_attempts() -> Any:
    """Return a handle of the run's ``Attempts``, which lives on the driver's node: others may be lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: Any = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    attempts_actor: Any = ray.remote(**options)(Attempts)
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
    options: Any = {"num_cpus": 0 if gpus else 1, "num_gpus": gpus, "num_returns": 2, "max_retries": LEARN_RETRIES}
    task: Any = ray.remote(**options)(make_exemplars)
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


def _megabytes(arrays: Arrays) -> str:
    return f"{sum(array.nbytes for array in arrays.values()) / 1e6:.0f} MB"
