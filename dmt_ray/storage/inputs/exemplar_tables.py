"""Exemplars chosen from a table by a SQL filter, with the attributes and groups that the table gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import described
from dmt_ray.storage.inputs.formats import OptionNames
from dmt_ray.storage.inputs.listing import LISTING_SCHEMA, InputItem, items_of
from dmt_ray.storage.inputs.registry import open_listing
from dmt_ray.storage.inputs.table_filter import load_columns, rows_where

_OPTIONS = OptionNames("--exemplar-image-column", "--exemplar-uri-column")


@dataclass(frozen=True)
class Exemplars:
    """The images of one set, and what a table says of each."""

    items: list[InputItem]
    attributes: npt.NDArray[np.float64] | None = None
    """images x columns, finite; None when no column was asked for."""
    groups: list[str | None] | None = None
    """One per image, None where the table has none; None altogether when no column was asked for."""
    containers: Mapping[str, str] = field(default_factory=dict)
    """Identities of the tables and archives that the images lie in, by URI."""
    passed_over: tuple[str, ...] = ()
    """Sentences on what the place holds besides."""


def list_exemplars(
    uri: str,
    *,
    where: str | None = None,
    attribute_columns: Sequence[str] = (),
    group_column: str | None = None,
    image_column: str | None = None,
    uri_column: str | None = None,
) -> Exemplars:
    """List the exemplars of one place.

    Parameters:
        uri: whatever ``open_listing`` takes; Parquet, CSV, or images beside a metadata table for
            any of the next three.
        where: a SQL expression over the table's columns, such as ``Smiling < 0 AND Male > 0``; keeps the rows for
            which it is true. Columns of bytes are not loaded, and so cannot be named. CSV columns get the types that
            their values look like.
        attribute_columns: columns of numbers or booleans to return.
        group_column: a column of names to return, such as the person shown.
        image_column, uri_column: as for ``open_listing``.

    Returns:
        At least one exemplar, in the order of the listing.

    Raises:
        SettingsError: nothing is there or left, the place is no table, a column is missing or of another type, or the
            filter is not one sound expression.
    """
    listing = open_listing(uri, image_column=image_column, uri_column=uri_column, options=_OPTIONS)
    said = tuple(listing.passed_over.sentences(listing.kind))
    if where is None and not attribute_columns and group_column is None:
        return Exemplars(list(listing), containers=listing.containers, passed_over=said)
    if not listing.tables:
        raise SettingsError(
            f"{masked(uri)} is no table (Parquet or CSV) and has no metadata table beside its images, so it has no "
            "columns to choose by."
        )
    rows = pa.Table.from_batches(listing.batches(), LISTING_SCHEMA)
    table = load_columns(uri, listing, rows.num_rows)
    kept = np.arange(rows.num_rows) if where is None else rows_where(uri, table, where)
    rows, table = rows.take(kept), table.take(kept)
    items = items_of(rows)
    return Exemplars(
        items,
        _attributes(uri, table, attribute_columns, items) if attribute_columns else None,
        _groups(uri, table, group_column) if group_column is not None else None,
        listing.containers,
        said,
    )


def _attributes(
    uri: str, table: pa.Table, names: Sequence[str], items: Sequence[InputItem]
) -> npt.NDArray[np.float64]:
    matrix = np.empty((table.num_rows, len(names)), np.float64)
    for place, name in enumerate(names):
        column = _column(uri, table, name)
        kind = column.type
        tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
        if not any(test(kind) for test in tests):
            raise SettingsError(f"Column {name!r} of {masked(uri)} holds {kind}; an attribute must be a number.")
        numbers = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
        matrix[:, place] = numbers.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        wrong = np.flatnonzero(~np.isfinite(matrix[:, place]))
        if len(wrong):
            raise SettingsError(
                f"Column {name!r} of {masked(uri)} has no number for {items[int(wrong[0])].id} (and {len(wrong) - 1} "
                f'more); leave such rows out with the filter "{name}" IS NOT NULL.'
            )
    return matrix


def _groups(uri: str, table: pa.Table, name: str) -> list[str | None]:
    values: list[Any] = _column(uri, table, name).to_pylist()
    return [None if value is None or value == "" else str(value) for value in values]


def _column(uri: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.schema.names:
        raise SettingsError(f"{masked(uri)} has no column {name!r} to choose by. Columns: {described(table.schema)}.")
    column = table[name]
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
