"""Wait until a cluster has the nodes that a run needs, and ask its autoscaler for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from dmt_ray.config import ComputeConfig, is_elastic, pool_range
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline.resources import plan_pools
from dmt_ray.words import counted

logger = logging.getLogger(__name__)

#: Seconds to wait where nodes are expected to come and the options do not say how long.
DEFAULT_WAIT_S = 1800.0
#: Seconds between two looks at the nodes.
LOOK_S = 1.0


class WorkersMissingError(Exception):
    """The nodes that the run needs have not come in time."""


def wait_for_workers(compute: ComputeConfig) -> None:
    """Wait until the cluster has what the options need; where nothing is to be waited for, return at once.

    The cluster's autoscaler is asked for what is missing, until ``asking_for_workers`` ends.

    Raises:
        WorkersMissingError: it has not come within ``--wait-for-workers``.
    """
    seconds = wait_seconds(compute)
    if seconds <= 0 and compute.wait_for_gpus is None:
        return
    deadline = time.monotonic() + seconds
    missing = missing_in(_nodes(), compute)
    if missing is None:
        return
    bundles = bundles_for(compute)
    request_resources(bundles=bundles)
    logger.info("%s The run waits up to %g s for more nodes, and asks an autoscaler for them.", missing, seconds)
    while (missing := missing_in(_nodes(), compute)) is not None:
        if time.monotonic() > deadline:
            raise WorkersMissingError(f"{missing} No more nodes have come within {seconds:g} s.")
        time.sleep(LOOK_S)
    logger.info("The nodes that the run needs have come.")


@contextmanager
def asking_for_workers(compute: ComputeConfig) -> Iterator[None]:
    """At the end, ask the autoscaler for nothing any more; until then, lost nodes are replaced."""
    try:
        yield
    finally:
        if ray.is_initialized() and wait_seconds(compute) > 0:
            try:
                request_resources(bundles=[])
            except Exception as error:  # the cluster may be lost
                logger.debug("The request for nodes cannot be withdrawn: %s", error)


def wait_seconds(compute: ComputeConfig) -> float:
    """Return how long to wait for nodes."""
    if compute.wait_for_workers is not None:
        return compute.wait_for_workers
    elastic = is_elastic(compute.reconstruction_actors) or is_elastic(compute.traversal_actors)
    return DEFAULT_WAIT_S if elastic or compute.wait_for_gpus is not None else 0.0


def missing_in(nodes: Sequence[Mapping[str, float]], compute: ComputeConfig) -> str | None:
    """Say what the nodes lack; None when the run can begin."""
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if compute.wait_for_gpus is not None and gpus < compute.wait_for_gpus:
        return f"The cluster has {gpus:g} of the {counted(compute.wait_for_gpus, 'GPU')} of --wait-for-gpus."
    try:
        plan_pools(nodes, compute)
    except SettingsError as error:
        return str(error).partition(". ")[0].rstrip(".") + "."
    return None


def bundles_for(compute: ComputeConfig) -> list[dict[str, float]]:
    """Return what an autoscaler is asked for: a bundle has room on one node."""
    size = compute.reconstruction_actors
    least = pool_range(size)[0] if size is not None and is_elastic(size) else 1
    if compute.wait_for_gpus is None:
        return [{"CPU": float(compute.threads_per_actor or 1)}] * least
    share = max(1.0, compute.gpus_per_actor)
    return [{"GPU": share}] * max(1, round(compute.wait_for_gpus / share))


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
