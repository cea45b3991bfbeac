"""The rows of a run's output, lazily: those of sound shards, in the plan's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import shard_uri
from dmt_ray.output.plan import load_plan
from dmt_ray.output.shard_file import committed, reading_shard
from dmt_ray.output.versions import recorded_expected
from dmt_ray.storage.files import masked


def read_rows(output: str, columns: Sequence[str] | None = None, batch_size: int = 64) -> Iterator[pa.RecordBatch]:
    """Yield the rows that the run at ``output`` has committed, one shard open at a time.

    A shard that is damaged, or of other settings, is passed over, as by ``verify``.

    Parameters:
        output: the folder or URI of a run.
        columns: names of columns. Default: all, with the pictures.
        batch_size: rows of a batch at most.

    Raises:
        SettingsError: there is no run, or it has no such column.
        StorageError: a file cannot be read.
        DamagedShardError: a shard turns out to be damaged while it is read.
    """
    plan = load_plan(output)
    expected = recorded_expected(output, plan)
    for name in columns or ():
        if name not in expected.schema.names:
            raise SettingsError(
                f"{masked(output)} has no column {name!r}; it has {', '.join(expected.schema.names)}."
            )
    for number in sorted(committed(plan, expected).sound):
        with reading_shard(shard_uri(output, number)) as file:
            yield from file.iter_batches(batch_size=batch_size, columns=None if columns is None else list(columns))
