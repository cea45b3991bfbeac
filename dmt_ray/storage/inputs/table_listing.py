"""Images in tables: one item per row of Parquet files (bytes or URIs) or of CSV files (URIs)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import (
    check_column,
    choose_column,
    is_bytes,
    is_id,
    plain_columns,
    unify,
    usual_images,
)
from dmt_ray.storage.inputs.formats import Place
from dmt_ray.storage.inputs.listing import (
    BATCH_ROWS,
    INSIDE,
    Listing,
    folder_of,
    identities_of,
    listing_batch,
    naming,
    numbered,
    relative,
)
from dmt_ray.storage.inputs.tables import TableFile, open_table, open_tables
from dmt_ray.words import agreed, counted

_FULL_URI = r"^([A-Za-z][A-Za-z0-9+.\-]*://|/|~)"


@dataclass(frozen=True)
class _Rows:
    """The rows that are listed of one file, and how."""

    table: TableFile
    count: int
    column: str
    is_uri: bool


def list_tables(place: Place) -> Listing:
    """List the rows of table files.

    What proves a row later is part of its record: its own id (``&by=id``) or its URI (``&by=uri``). A table of
    encoded images without ids has neither.

    Raises:
        SettingsError: no row, no fitting column, or a file cannot be read.
    """
    found = list(place.files)
    rows = _open(place)
    if not rows:
        have = agreed(len(found), "has", "have")
        raise SettingsError(
            f"No image found in {masked(place.uri)}: its {counted(len(found), 'table file')} {have} no rows."
        )
    ids = _own_ids(rows)
    without = {rows[0].column} | ({"id"} if ids is not None else set())
    input_columns = unify([(each.table.uri, plain_columns(each.table.schema, without)) for each in rows])
    tables = tuple(each.table.uri for each in rows)
    return Listing(
        functools.partial(_batches, rows, place.root, ids),
        input_columns,
        containers=place.containers(tables),
        proves_rows=ids is not None or rows[0].is_uri,
        tables=tables,
    )


def count_embedded(place: Place) -> int:
    """Return about how many encoded images Parquet files hold: as many rows, each, as the first has.

    0 where the first has no column of them, or cannot be read.
    """
    if place.uri_column is not None:
        return 0
    found = list(place.files)
    try:
        table = open_table(found[0])
    except SettingsError:
        return 0
    name = place.image_column or usual_images(table.schema)
    embedded = name in table.schema.names and is_bytes(table.schema.field(name).type)
    return (table.rows or 0) * len(found) if embedded else 0


def _open(place: Place) -> list[_Rows]:
    """Read as many schemas and counts of rows as the limit asks for, and choose the column by the first file."""
    rows: list[_Rows] = []
    column: tuple[str, bool] | None = None
    left = place.limit
    for table in open_tables(list(place.files)):
        if left == 0:
            break
        count = _count(table, left) if table.rows is None else table.rows
        if count == 0:
            continue
        if column is None:
            column = choose_column(place, table.uri, table.schema)
        check_column(place, table.uri, table.schema, *column)
        count = count if left is None else min(count, left)
        left = None if left is None else left - count
        rows.append(_Rows(table, count, *column))
    return rows


def _count(table: TableFile, most: int | None) -> int:
    """Count the rows of a CSV file, as far as they matter."""
    count = 0
    for batch in table.batches(table.schema.names[:1], raw=True):  # only counted, so any encoding will do
        count += batch.num_rows
        if most is not None and count >= most:
            break
    return count


def _own_ids(rows: list[_Rows]) -> pa.ChunkedArray | None:
    """Return the tables' own ids, where every row has one and all differ."""
    if not all("id" in each.table.schema.names and is_id(each.table.schema.field("id").type) for each in rows):
        return None
    chunks: list[pa.Array] = []
    for each in rows:
        for values in _texts(each, "id"):
            if values.null_count or pc.any(pc.equal(values, "")).as_py():
                return None
            chunks.append(values)
    ids = pa.chunked_array(chunks, pa.string())
    return ids if pc.count_distinct(ids).as_py() == len(ids) else None


def _texts(rows: _Rows, name: str) -> Iterator[pa.Array]:
    """Yield a column of ids or URIs as strings, a batch at a time.

    Raises:
        SettingsError: a value is not UTF-8 text.
    """
    for batch in _first_rows(rows, [name]):
        column = batch.column(0)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        values = pc.cast(column, pa.string())
        try:
            values.validate(full=True)  # pyarrow reads strings from Parquet as they are
        except pa.ArrowException as error:
            raise SettingsError(
                f"Column {name!r} of {masked(rows.table.uri)} holds a value that is not UTF-8 text, so it names no "
                "image; correct it."
            ) from error
        yield values


def _first_rows(rows: _Rows, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches of the rows that are listed."""
    left = rows.count
    for batch in rows.table.batches(columns):
        yield batch.slice(0, left)
        left -= batch.num_rows
        if left <= 0:
            return
    if left > 0:
        raise SettingsError(f"{masked(rows.table.uri)} lost rows while it was listed.")


def _batches(rows: list[_Rows], root: str, ids: pa.ChunkedArray | None) -> Iterator[pa.RecordBatch]:
    done = 0
    for listed in rows:
        file, path = listed.table.uri, relative(listed.table.uri, root)
        by_id = "" if ids is None else "&by=id"
        by = by_id or (f"&by=uri&column={listed.column}" if listed.is_uri else "")
        start = 0
        for references in _references(listed):
            count = len(references)
            numbers = pa.array(np.arange(start, start + count))
            # A null reference stays a cell: reading it says that it is null.
            by_null = "&by=uri" if listed.is_uri else ""
            cells = numbered(f"{file}#row=", numbers, f"{by_id or by_null}&column={listed.column}")
            own = numbered(f"{path}#", numbers) if ids is None else ids.slice(done, count).combine_chunks()
            identities = identities_of(references, file) if listed.is_uri else None
            records = numbered(f"{file}#row=", numbers, by)
            origins = pc.if_else(pc.is_valid(references), naming(file), INSIDE)
            yield listing_batch(own, pc.coalesce(references, cells), records, identities, origins)
            start += count
            done += count


def _references(rows: _Rows) -> Iterator[pa.Array]:
    """Yield full URIs, a batch at a time; null where the row has none."""
    if not rows.is_uri:
        for start in range(0, rows.count, BATCH_ROWS):
            yield pa.nulls(min(BATCH_ROWS, rows.count - start), pa.string())
        return
    folder = folder_of(rows.table.uri)
    for texts in _texts(rows, rows.column):
        values = pc.if_else(pc.equal(texts, ""), None, texts)
        if pc.all(pc.match_substring_regex(values, _FULL_URI), min_count=0).as_py():
            yield values
        else:
            yield pa.array(
                [files.resolve(each, folder) if each else None for each in values.to_pylist()], pa.string()
            )
