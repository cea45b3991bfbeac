"""Rows of a place's tables that fulfil a SQL condition; see ``sql.py`` for what it may be."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import is_bytes
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.inputs.sql import matching_rows
from dmt_ray.storage.inputs.tables import open_tables, read_typed
from dmt_ray.words import agreed


def load_columns(uri: str, listing: Listing, count: int) -> pa.Table:
    """Load what a listing's tables say of each image, without columns of bytes.

    Parameters:
        uri: the place, for messages.
        listing: with tables.
        count: its images.

    Returns:
        A row for each image, of nulls where the tables have none for it.

    Raises:
        SettingsError: a file cannot be read or has changed, or the files do not agree in their columns' types.
    """
    parts = []
    for file in open_tables(listing.tables):
        parts.append(read_typed(file, [field.name for field in file.schema if not _is_binary(field.type)]))
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise SettingsError(f"The files of {masked(uri)} do not agree in their columns' types: {error}.") from error
    rows = listing.row_of
    if table.num_rows != count if rows is None else rows.max(initial=-1) >= table.num_rows:
        raise SettingsError(f"{masked(uri)} changed while it was read.")
    return table if rows is None else table.take(pa.array(rows, mask=rows < 0))


def rows_where(uri: str, table: pa.Table, where: str) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows for which a SQL expression is true, rising; at least one.

    Raises:
        SettingsError: it is no sound expression over the table's columns, or true for no row.
    """
    _refuse_unclear(uri, table.schema.names, where)
    found = matching_rows(table, where, uri)
    if not len(found):
        leaves = agreed(table.num_rows, "leaves out the only row", f"leaves none of the {table.num_rows} rows")
        raise SettingsError(f"The filter {where!r} {leaves} of {masked(uri)}.")
    return found


def _refuse_unclear(uri: str, names: Sequence[str], where: str) -> None:
    """Raise SettingsError when a condition names one of two columns whose names differ in case alone."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name.lower(), name)
        if other != name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", where, re.I):
            raise SettingsError(
                f"{masked(uri)} has the columns {other!r} and {name!r}, which SQL does not tell apart: rename one, "
                f"or leave it out of the condition {where!r}."
            )


def _is_binary(kind: pa.DataType) -> bool:
    return is_bytes(kind) or bool(pa.types.is_fixed_size_binary(kind))
