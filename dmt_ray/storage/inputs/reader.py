"""Reads what a listing names: an item's bytes, and the other columns of the row or sample that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dmt_ray.errors import ImageError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, TooLargeError
from dmt_ray.storage.inputs import archives
from dmt_ray.storage.inputs.listing import folder_of, suffix
from dmt_ray.storage.inputs.table_rows import TableRows
from dmt_ray.storage.inputs.tables import CSV_DELIMITERS, PARQUET_SUFFIXES

_CELL = re.compile(r"^(?P<file>.+)#row=(?P<row>\d+)&column=(?P<column>.+)$", re.DOTALL)
_ROW = re.compile(r"^(?P<file>.+)#row=(?P<row>\d+)$", re.DOTALL)


class ItemReader:
    """Reads the bytes of items.

    Of a Parquet file it keeps the last row group's column, or as much of it as fits in a fixed amount of memory: rows
    in order cost one pass over the file, and a file that is one huge row group does not fill the memory.

    Not for use by several threads at once. ``close`` it, or use it as a context manager.

    Parameters:
        max_bytes: a larger image is refused, before it is read where its size is known. None: any size.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self._rows = TableRows()

    def read(self, uri: str) -> bytes:
        """Return the encoded image.

        Parameters:
            uri: the ``uri`` of an ``InputItem``.

        Raises:
            ImageError: kind ``empty`` when a table's cell is null, ``too-large`` for more than ``max_bytes``.
            StorageError: the file, row or column cannot be read.
            SettingsError: the URI's scheme is unknown or its driver is not installed.
        """
        cell = _CELL.match(uri)
        if cell is not None and suffix(cell["file"]) in PARQUET_SUFFIXES | set(CSV_DELIMITERS):
            return self._read_cell(uri, cell["file"], int(cell["row"]), cell["column"])
        if archives.is_member(uri):
            self._check_size(archives.member_size(uri))
            return archives.read_member(uri)
        return self._read_file(uri)

    def close(self) -> None:
        """Close the file that is open, if any; reading again is allowed."""
        self._rows.close()

    def __enter__(self) -> ItemReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_cell(self, uri: str, file: str, row: int, column: str) -> bytes:
        value = self._rows.read(file, row, (column,)).column(0)[0].as_py()
        if isinstance(value, dict):  # a Hugging Face image: bytes, or else a path
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None or value == "":
            raise ImageError("empty", f"The cell in row {row}, column {column} is null or empty.")
        if isinstance(value, str):
            return self._read_file(files.resolve(value, folder_of(file)))
        if not isinstance(value, bytes):
            raise StorageError(uri, f"the cell holds {type(value).__name__}, not bytes or a URI")
        self._check_size(len(value))
        return value

    def _read_file(self, uri: str) -> bytes:
        try:
            return files.read_bytes(uri, max_bytes=self.max_bytes)
        except TooLargeError as error:
            self._check_size(error.size)
            raise

    def _check_size(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise ImageError(
                "too-large",
                f"The file has {size} bytes; the limit is {self.max_bytes} (raise it with --max-bytes).",
            )


class RecordReader:
    """Reads columns of the rows and samples that items belong to; rows in order cost one pass over their file.

    Not for use by several threads at once. ``close`` it, or use it as a context manager.
    """

    def __init__(self) -> None:
        self._rows = TableRows()

    def read_record(self, record: str | None, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of some columns, by name.

        Parameters:
            record: the ``record`` of an ``InputItem``.
            columns: of a table, its columns (those of CSV are text); of an archive's sample, its members, as text for
                json, txt and cls, as bytes for others, None for what the sample lacks.

        Raises:
            StorageError: the item has no record, or the record or a column cannot be read.
        """
        if record is not None and archives.is_sample(record):
            return archives.read_sample(record, columns)
        row = _ROW.match(record or "")
        if row is None:
            raise StorageError(
                record or "the input", f"belongs to no table or archive, so it has no column {', '.join(columns)}"
            )
        values = self._rows.read(row["file"], int(row["row"]), tuple(columns)).to_pylist()
        result: dict[str, Any] = values[0]
        return result

    def read_arrow(self, record: str | None, schema: pa.Schema) -> pa.Table:
        """Return one row with the columns of ``schema``; null where the record's file has no such column.

        Raises:
            StorageError: the item has no record, or the record cannot be read, or its values do not fit.
        """
        row = _ROW.match(record or "")
        if row is None:
            return pa.Table.from_pylist([self.read_record(record, schema.names)], schema)
        present = set(self._rows.columns(row["file"]))
        names = tuple(name for name in schema.names if name in present)
        values = self._rows.read(row["file"], int(row["row"]), names) if names else None
        columns = []
        for field in schema:
            if values is None or field.name not in names:
                columns.append(pa.nulls(1, field.type))
                continue
            try:
                columns.append(_as_type(values.column(field.name), field.type))
            except pa.ArrowException as error:
                raise StorageError(record or "", f"column {field.name} is not {field.type} ({error})") from error
        return pa.table(columns, schema=schema)

    def close(self) -> None:
        """Close the file that is open, if any; reading again is allowed."""
        self._rows.close()

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as the plain type that ``columns.plain_columns`` made of its own."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if column.type.equals(kind) else column.cast(kind)
