"""A shard's images that have error rows are done again; all its other rows stay as they were written."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.output.commit import shard_uri
from dmt_ray.output.plan import Shard
from dmt_ray.output.shard_file import DamagedShardError, reading_shard
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)


def failed_items(output: str, shard: Shard) -> Sequence[InputItem]:
    """Return the images whose rows in the shard's file are errors; all of them when it turns out to be damaged.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with reading_shard(shard_uri(output, shard.number)) as file:
            rows = file.read(columns=["id", "status"])
    except DamagedShardError as error:
        logger.warning("Shard %d is damaged, and is done again as a whole: %s.", shard.number, error)
        return shard.items
    sound = set(rows.filter(pc.equal(rows["status"], "ok"))["id"].to_pylist())
    return [item for item in shard.items if item.id not in sound]


def with_kept_rows(output: str, shard: Shard, redone: pa.Table) -> pa.Table:
    """Return all rows of a shard in the plan's order: those done again, and the others from its file.

    Parameters:
        output: the run's output.
        shard: with all its images.
        redone: rows of some of them, with the columns that the file has.

    Raises:
        DamagedShardError: the file has been damaged since ``failed_items``.
        StorageError: it cannot be read.
    """
    order = pa.array([item.id for item in shard.items], pa.string())
    again = pc.unique(redone["id"].combine_chunks())
    if len(again) == len(order):
        return redone
    with reading_shard(shard_uri(output, shard.number)) as file:
        kept = file.read()
    kept = kept.replace_schema_metadata(None).filter(pc.invert(pc.is_in(kept["id"], value_set=again)))
    rows = pa.concat_tables([kept, redone.cast(kept.schema)])
    places = pa.table({"place": pc.index_in(rows["id"], order), "step": rows["step"]})
    return rows.take(pc.sort_indices(places, [("place", "ascending"), ("step", "ascending")]))
