"""Parquet and CSV as input formats: a row is an image, and proves that it is still the row that was planned."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from dmt_ray.errors import ImageError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.inputs.formats import Fields, InputFormat
from dmt_ray.storage.inputs.listing import InputItem, folder_of, one_line, suffix
from dmt_ray.storage.inputs.table_listing import count_embedded, list_tables
from dmt_ray.storage.inputs.table_rows import TableRows
from dmt_ray.storage.inputs.tables import CSV_DELIMITERS, JSON_LINES_SUFFIXES, PARQUET_SUFFIXES

_CELL = re.compile(r"^(?P<file>.+?)#row=(?P<row>\d+)(?:&by=(?P<by>id|uri))?&column=(?P<column>.+)$", re.DOTALL)
_ROW = re.compile(r"^(?P<file>.+?)#row=(?P<row>\d+)(?:&by=(?P<by>id|uri))?(?:&column=(?P<column>.+))?$", re.DOTALL)


class TableReader:
    """Reads cells and rows of tables; rows in order cost one pass over their file."""

    concurrent = False

    def __init__(self) -> None:
        self._cells, self._records = TableRows(), TableRows()

    def read(self, item: InputItem, check_size: Callable[[int], None]) -> bytes | str:
        """Return a cell's encoded image, or the URI that it holds; see ``ContainerReader``."""
        cell = _CELL.match(item.uri)
        if cell is None:
            raise StorageError(item.uri, "is no cell of a table")
        file, row, column = cell["file"], int(cell["row"]), cell["column"]
        was_null = cell["by"] == "uri"
        table = self._row(self._cells, item, file, row, [column], None if was_null else cell["by"], column)
        try:
            value = table[column][0].as_py()
        except UnicodeDecodeError as error:
            raise StorageError(item.uri, f"the cell is not UTF-8 text ({error})") from error
        if was_null and value not in (None, "", b""):
            raise _moved(item, file, row)
        if isinstance(value, bytes) and suffix(file) in CSV_DELIMITERS:
            value = value.decode("utf-8", "replace")
        if isinstance(value, dict):  # a Hugging Face image: bytes, or else a path
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None or value == "":
            raise ImageError("empty", f"The cell in row {row}, column {column} is null or empty.")
        if isinstance(value, str):
            return files.resolve(value, folder_of(file))
        if not isinstance(value, bytes):
            raise StorageError(item.uri, f"the cell holds {type(value).__name__}, not bytes or a URI")
        check_size(len(value))
        return value

    def read_record(self, item: InputItem, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of some columns of a row; see ``ContainerReader``."""
        values, file = self._record(item, columns)
        kinds = dict(zip(values.column_names, values.schema.types, strict=True))
        if suffix(file) in CSV_DELIMITERS:
            kinds = dict.fromkeys(kinds, pa.string())  # CSV is read as bytes, and meant as text
        try:
            return {name: _as_type(values[name], kinds[name])[0].as_py() for name in columns}
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise StorageError(item.record or "", f"a value is not UTF-8 text ({error})") from error

    def read_fields(self, item: InputItem, schema: pa.Schema) -> Fields:
        """Return a row with the columns of ``schema``; see ``ContainerReader``."""
        row = _ROW.match(item.record or "")
        present = set(self._records.columns(row["file"])) if row is not None else set[str]()
        values, _ = self._record(item, [name for name in schema.names if name in present])
        columns, faults = [], {}
        for column in schema:
            made = pa.nulls(1, column.type)
            if column.name in values.column_names:
                try:
                    made = _as_type(values[column.name], column.type)
                except pa.ArrowException as error:
                    faults[column.name] = f"its value is not {column.type} ({one_line(error)[:120]})"
            columns.append(made)
        return Fields(pa.table(columns, schema=schema), faults)

    def close(self) -> None:
        """Close the files that are open."""
        self._cells.close()
        self._records.close()

    def _record(self, item: InputItem, columns: Sequence[str]) -> tuple[pa.Table, str]:
        row = _ROW.match(item.record or "")
        if row is None:
            raise StorageError(item.record or "the input", "is no row of a table")
        file, column = row["file"], row["column"]
        return self._row(self._records, item, file, int(row["row"]), columns, row["by"], column), file

    def _row(
        self,
        rows: TableRows,
        item: InputItem,
        file: str,
        number: int,
        columns: Sequence[str],
        by: str | None,
        uri_column: str | None,
    ) -> pa.Table:
        """Return some columns of a row that has proved to be the item's."""
        proof = {"id": "id", "uri": uri_column}.get(by or "")
        wanted = tuple(dict.fromkeys([*columns, *([proof] if proof else [])]))
        if not wanted:
            return pa.table({})
        if proof is not None and proof not in rows.columns(file):
            raise ImageError("changed", f"{masked(file)} has lost its column {proof!r}, which told {item.id!r}.")
        table = pa.Table.from_batches([rows.read(file, number, wanted)])
        if proof is not None:
            try:
                found = _as_type(table[proof], pa.string())[0].as_py()
            except pa.ArrowException as error:
                raise _moved(item, file, number) from error
            _prove(item, file, number, found, by == "uri")
        return table


def _prove(item: InputItem, file: str, row: int, found: str | None, is_uri: bool) -> None:
    """Raise ImageError unless a row's id, or its URI, is the item's."""
    if is_uri:
        same = item.uri == files.resolve(found, folder_of(file)) if found else item.uri.startswith(f"{file}#row=")
    else:
        same = found == item.id
    if not same:
        raise _moved(item, file, row)


def _moved(item: InputItem, file: str, row: int) -> ImageError:
    return ImageError(
        "changed", f"Row {row} of {masked(file)} is not {item.id!r} any more: the table has changed since the plan."
    )


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Return a column as the plain type that ``columns.plain_columns`` made of its own.

    Raises:
        pyarrow.ArrowException: its value does not fit, or is not UTF-8.
    """
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not values.type.equals(kind):
        values = values.cast(kind)
    values.validate(full=True)  # pyarrow reads strings from Parquet as they are
    return values


PARQUET = InputFormat("parquet", PARQUET_SUFFIXES, list_tables, count_embedded, True, True, reader=TableReader)
CSV = InputFormat("csv", frozenset(CSV_DELIMITERS), list_tables, uri_columns=True, reader=TableReader)
#: Rows of such files are read, but no images are listed by them: metadata.jsonl beside images.
JSON_LINES = InputFormat("jsonl", JSON_LINES_SUFFIXES, list_tables, reader=TableReader)
