"""Displacements that a run with ``--traversal-only`` saved, read back shard by shard."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pyarrow.compute as pc

from dmt_ray.errors import ImageError
from dmt_ray.output.commit import shard_uri
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.shard_file import DamagedShardError, reading_shard

logger = logging.getLogger(__name__)

_COLUMNS = ["id", "step", "error_type", "error", "displacement", "input_sha256"]


@dataclass(frozen=True)
class SavedDisplacement:
    """What a run of traversals saved of one image."""

    data: bytes | None = None
    """A serialised displacement."""
    error: ImageError | None = None
    """Why there is none."""
    input_sha256: str | None = None
    """Of the encoded bytes that were traversed; None where the run did not note it."""


def saved_displacements(place: str, shard: Shard) -> dict[str, SavedDisplacement]:
    """Return what a run of traversals saved of a shard's images, by id; each of them is there.

    An image without a displacement has the error of its row, or ``bad-displacement`` where the file is damaged.

    Parameters:
        place: the output of that run.
        shard: with all its images.

    Raises:
        StorageError: the shard's file is missing or cannot be read.
    """
    saved: dict[str, SavedDisplacement] = {}
    lost = "no displacement was saved for it"
    try:
        with reading_shard(shard_uri(place, shard.number)) as file:
            names = set(file.schema_arrow.names)
            rows = file.read(columns=[name for name in _COLUMNS if name in names])
        for row in rows.filter(pc.equal(rows["step"], 0)).to_pylist():
            if row["displacement"]:
                saved[row["id"]] = SavedDisplacement(row["displacement"], input_sha256=row.get("input_sha256"))
            elif row["error_type"] is not None:
                error = ImageError(row["error_type"], row["error"] or row["error_type"])
                saved[row["id"]] = SavedDisplacement(error=error)
    except DamagedShardError as error:
        logger.error("Shard %d of the displacements is damaged: %s.", shard.number, error)
        lost = f"the file of its displacement is damaged ({error})"
    missing = SavedDisplacement(error=ImageError("bad-displacement", f"{lost}."))
    return {item.id: saved.get(item.id, missing) for item in shard.items}
