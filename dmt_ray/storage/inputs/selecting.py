"""Some of the images of a listing: those that fulfil a condition, a random sample, the first so many."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.inputs.table_filter import load_columns, rows_where


def select(
    uri: str, listing: Listing, *, where: str | None, sample: int | None, seed: int, limit: int | None
) -> Listing:
    """Return a listing of some of the images, in their order. The same arguments choose the same images.

    Parameters:
        uri: the place, for messages.
        listing: all of its images.
        where: a SQL expression over the columns of the listing's tables; keeps the rows for which it is true.
        sample: draw so many of those, each set of this size being as likely; None, or more than there are: all.
        seed: of the draw.
        limit: keep the first so many of those.

    Raises:
        SettingsError: there is a condition and no table that says something of the images, or it is not sound, or
            leaves none.
    """
    count = sum(batch.num_rows for batch in listing.batches())
    kept = np.arange(count)
    if where is not None:
        if not listing.tables:
            raise SettingsError(
                f"{masked(uri)} is no table (Parquet or CSV) and has no metadata table beside its images, so it has "
                f"no columns for the condition {where!r}."
            )
        kept = rows_where(uri, load_columns(uri, listing, count), where)
    if sample is not None and sample < len(kept):
        kept = kept[sorted(random.Random(seed).sample(range(len(kept)), sample))]
    return replace(listing, batches=lambda: _only(listing, kept[:limit]), tables=(), row_of=None)


def _only(listing: Listing, kept: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Yield the rows with some numbers, which rise."""
    start = 0
    for batch in listing.batches():
        first, end = np.searchsorted(kept, [start, start + batch.num_rows])
        if end > first:
            yield batch.take(pa.array(kept[first:end] - start))
        start += batch.num_rows
