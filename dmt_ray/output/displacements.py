"""Displacements that a run with ``--traversal-only`` saved, read back shard by shard."""

from __future__ import annotations

import pyarrow.compute as pc

from dmt_ray.errors import ImageError
from dmt_ray.output.commit import shard_uri
from dmt_ray.output.shard_file import reading_shard

#: A displacement as it travels, or why there is none.
Saved = bytes | Exception

_COLUMNS = ["id", "step", "error_type", "error", "displacement"]


def saved_displacements(place: str, shard: int) -> dict[str, Saved]:
    """Return what a run of traversals saved of a shard's images, by id.

    Raises:
        DamagedShardError: the shard's file is damaged.
        StorageError: it is missing or cannot be read.
    """
    with reading_shard(shard_uri(place, shard)) as file:
        rows = file.read(columns=_COLUMNS)
    rows = rows.filter(pc.equal(rows["step"], 0)).to_pylist()
    return {row["id"]: row["displacement"] or ImageError(row["error_type"], row["error"]) for row in rows}
