"""``dmt-ray fit``: in this process, or with the references of a bank described by a cluster's actors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from dmt_ray.errors import SettingsError
from dmt_ray.jobs import fit as here
from dmt_ray.jobs.fit import NO_RAY, FitConfig

if TYPE_CHECKING:
    from dmt_ray.jobs.bank_chunks import BankPlan, Chunk, ChunkMaker, MadeChunk, MakeChunks
    from dmt_ray.pipeline.ray_address import RayAddress

logger = logging.getLogger(__name__)

#: With so many references left to describe, --ray-address auto takes a cluster: joining it and starting its actors
#: takes about as long as one process needs for some hundred references.
MANY = 2000


def fit(config: FitConfig, emit: Callable[[str], None] = logger.info) -> None:
    """Learn from exemplars and save it. The references of a bank are described on Ray where --ray-address says so.

    Parameters:
        config: all options.
        emit: gets what was done, a line at a time.

    Raises:
        SettingsError: a set of exemplars, the weights or the cluster cannot be used.
        StorageError: a place cannot be reached.
    """
    here.fit(config, emit, None if config.ray_address == NO_RAY else chunks_on(config.ray_address))


def chunks_on(address: str) -> MakeChunks:
    """Return what makes the chunks of a bank on the Ray of an address; without one, ``auto`` makes them here."""

    def make(plan: BankPlan, chunks: Sequence[Chunk], maker: ChunkMaker) -> Generator[MadeChunk, None, None]:
        from dmt_ray.jobs.bank_chunks import make_here

        where = _chosen(address, sum(len(chunk.items) for chunk in chunks))
        if where is None:
            yield from make_here(plan, chunks, maker)
            return
        from ray.exceptions import RayError

        from dmt_ray.pipeline.bank_actors import ChunkActors
        from dmt_ray.pipeline.cluster import Cluster, ClusterLostError

        try:
            with Cluster(where) as cluster, ChunkActors(plan, chunks, cluster.check) as actors:
                yield from actors.made()
        except (RayError, ClusterLostError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SettingsError(f"{reason}. What is written stays: run the same command again.") from error

    return make


def _chosen(address: str, references: int) -> str | RayAddress | None:
    """Return which Ray describes so many references; None: this process does."""
    if not references:
        return None
    if address != "auto":
        return address
    if references < MANY:
        return None
    import ray

    from dmt_ray.pipeline.ray_address import choose_ray

    if ray.is_initialized():
        return address
    try:
        return choose_ray(address, otherwise="This process describes the references.")
    except SettingsError as error:
        logger.warning("No cluster describes the references, this process does: %s", error)
        return None
