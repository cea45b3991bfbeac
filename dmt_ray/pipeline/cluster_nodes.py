"""Which nodes of the cluster live, and which are about to go."""

from __future__ import annotations

import logging

import ray
from ray.exceptions import RayError

logger = logging.getLogger(__name__)


def dead_nodes() -> set[str]:
    """Return the ids of the nodes that Ray has lost."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def leaving_nodes() -> set[str]:
    """Return the ids of the nodes that Ray drains: a spot node was given notice, or an autoscaler takes one away.

    Ray has no public name for this; its own Train and Serve ask in the same way.
    """
    try:
        return set(ray._private.state.state.get_draining_nodes())
    except Exception as error:  # a client connection has no such state, and other versions of Ray none by this name
        logger.debug("Draining nodes cannot be known: %s", error)
        return set()


def names_lost_node(error: RayError) -> bool:
    """Tell whether Ray says that an actor died because its node was lost; it says so in words alone.

    An actor that was still starting had no place of which one could know it.
    """
    return "its node has died" in str(error)


def is_lost_with_node(error: RayError) -> bool:
    """Tell whether Ray says that an actor died because its node was lost, or had been given notice."""
    return names_lost_node(error) or bool(getattr(error, "preempted", False))
