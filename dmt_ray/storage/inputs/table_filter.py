"""Rows of tables that fulfil a SQL condition.

It runs in a DuckDB of its own that holds nothing but the tables' columns and reaches no file and no network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import described, is_bytes
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.inputs.tables import open_tables, read_typed

_ROW = "__dmt_ray_row"
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}


def load_columns(uri: str, listing: Listing, count: int) -> pa.Table:
    """Load the columns of a listing's tables, without bytes.

    Parameters:
        uri: the place, for messages.
        listing: of tables.
        count: its rows.

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
    if table.num_rows != count:
        raise SettingsError(f"{masked(uri)} changed while it was read.")
    return table


def matching_rows(uri: str, table: pa.Table, where: str) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows for which a SQL expression is true, rising; at least one.

    Raises:
        SettingsError: it is no sound expression over the table's columns, or true for no row.
    """
    _refuse_unclear(uri, table.schema.names, where)
    numbered = table.append_column(_ROW, pa.array(np.arange(table.num_rows)))
    with duckdb.connect(":memory:", config=_CLOSED) as connection:
        connection.execute("SET lock_configuration = true")
        try:
            # ``filter`` takes one expression and nothing else: no second statement, no clause after it.
            found = connection.from_arrow(numbered).filter(where).project(f'"{_ROW}"').fetchnumpy()[_ROW]
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n\n")[0].split()).rstrip(".")
            raise SettingsError(
                f"The filter {where!r} cannot be used on {masked(uri)}: {reason}. It must be one SQL expression, "
                f'such as "Smiling < 0 AND Male > 0". Columns: {described(table.schema)}.'
            ) from error
    if not len(found):
        raise SettingsError(f"The filter {where!r} leaves none of the {table.num_rows} rows of {masked(uri)}.")
    return np.sort(np.asarray(found, np.int64))


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
