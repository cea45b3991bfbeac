"""A shard's images that have error rows are done again; all its other rows stay as they were written."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.output.commit import shard_uri
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.rows import judge_rows
from dmt_ray.output.shard_file import DamagedShardError, check_body, check_footer, reading_shard
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)


def failed_items(shard: Shard, expected: Expected) -> Sequence[InputItem]:
    """Return the images that have error rows in the shard's file; all of them when it turns out to be damaged.

    Parameters:
        shard: with all its images.
        expected: what the run's files must be.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        rows = _whole_shard(shard, expected)
    except DamagedShardError as error:
        logger.warning("Shard %d is damaged, and is done again as a whole: %s.", shard.number, error)
        return shard.items
    failed = set(rows.filter(pc.equal(rows["status"], "error"))["id"].to_pylist())
    return [item for item in shard.items if item.id in failed]


def with_kept_rows(shard: Shard, redone: pa.Table, expected: Expected) -> pa.Table:
    """Return all rows of a shard in the plan's order: those done again, and the others unchanged from its file.

    Parameters:
        shard: with all its images.
        redone: all rows of some of the images, with the columns of the run's files.
        expected: what the run's files must be.

    Raises:
        DamagedShardError: the file has been damaged since ``failed_items``; all other images must be done again too.
        StorageError: the file cannot be read.
    """
    order = pa.array([item.id for item in shard.items], pa.string())
    again = pc.unique(redone["id"].combine_chunks())
    if len(again) == len(order):
        return redone
    kept = _whole_shard(shard, expected)
    kept = kept.filter(pc.invert(pc.is_in(kept["id"], value_set=again)))
    rows = pa.concat_tables([kept, redone.cast(kept.schema)])
    places = pa.table({"place": pc.index_in(rows["id"], order), "step": rows["step"]})
    return rows.take(pc.sort_indices(places, [("place", "ascending"), ("step", "ascending")]))


def _whole_shard(shard: Shard, expected: Expected) -> pa.Table:
    """Read all rows of a shard's file.

    Raises:
        DamagedShardError: it is gone, not what the plan wants, or a byte or a row of it is wrong.
        StorageError: it cannot be read.
    """
    uri = shard_uri(expected.output, shard.number)
    try:
        data = files.read_bytes(uri)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DamagedShardError("it is gone") from error
        raise
    with reading_shard(uri, pa.BufferReader(data)) as file:
        check_body(data, check_footer(file, shard, expected))
        rows = file.read().replace_schema_metadata(None)
    judged = judge_rows(rows, shard, expected)
    if judged.missing or judged.extra or judged.contradiction is not None:
        raise DamagedShardError(judged.contradiction or "its rows are not those of the plan")
    return rows
