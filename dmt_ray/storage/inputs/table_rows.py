"""Single rows of table files: rows in order cost one pass over the file, and memory stays bounded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.inputs.listing import one_line, suffix
from dmt_ray.storage.inputs.tables import TEXT_SUFFIXES, TableFile, open_table
from dmt_ray.words import counted

_WINDOW_BYTES = 64 * 2**20
_READ_BYTES = 4 * 2**20


class TableRows:
    """Reads rows of one file at a time.

    It keeps the batch that the last row was in: a Parquet row group's columns, or as much of them as fits in a fixed
    amount of memory, or a block of text. Going back in a text file by more than a block
    starts over.

    Not for use by several threads at once. ``close`` it.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._file_uri: str | None = None
        self._parquet: pq.ParquetFile | None = None
        self._text: TableFile | None = None
        self._starts: list[int] = []
        self._stream: tuple[tuple[str, ...], int, Iterator[pa.RecordBatch]] | None = None
        self._window_start = 0
        self._window: pa.RecordBatch | None = None

    def read(self, file_uri: str, row: int, columns: tuple[str, ...]) -> pa.RecordBatch:
        """Return one row with some columns.

        Raises:
            StorageError: the file, row or column cannot be read.
        """
        try:
            return self._read(file_uri, row, columns)
        except DmtError:
            self.close()
            raise
        except Exception as error:  # pyarrow and the stores' drivers raise many types
            self.close()
            raise StorageError(f"{file_uri}#row={row}", f"the table cannot be read: {one_line(error)}") from error

    def columns(self, file_uri: str) -> list[str]:
        """Return the names of a file's columns."""
        try:
            self._open(file_uri)
        except DmtError:
            raise
        except Exception as error:
            self.close()
            raise StorageError(file_uri, f"the table cannot be read: {one_line(error)}") from error
        schema: pa.Schema = self._text.schema if self._text is not None else self._parquet.schema_arrow  # type: ignore[union-attr]
        return list(schema.names)

    def close(self) -> None:
        """Close the file that is open, if any; reading again is allowed."""
        if self._stream is not None and hasattr(self._stream[2], "close"):
            self._stream[2].close()  # a generator over an open file
        self._stream = self._window = self._parquet = self._text = self._file_uri = None
        self._stack.close()

    def _open(self, file_uri: str) -> None:
        if file_uri == self._file_uri:
            return
        self.close()
        if suffix(file_uri) in TEXT_SUFFIXES:
            self._text = open_table(file_uri)
        else:
            source = self._stack.enter_context(files.open_file(file_uri))
            self._parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES)
            self._starts = [0]
            for index in range(self._parquet.metadata.num_row_groups):
                self._starts.append(self._starts[-1] + self._parquet.metadata.row_group(index).num_rows)
        self._file_uri = file_uri

    def _read(self, file_uri: str, row: int, columns: tuple[str, ...]) -> pa.RecordBatch:
        names = self.columns(file_uri)
        for column in columns:
            if column not in names:
                raise StorageError(file_uri, f"has no column {column}")
        group = 0
        if self._parquet is not None:
            if row >= self._starts[-1]:
                raise StorageError(file_uri, f"has {counted(self._starts[-1], 'row')}, so no row {row}")
            group = bisect_right(self._starts, row) - 1
        if self._stream is None or self._stream[:2] != (columns, group) or row < self._window_start:
            start = self._starts[group] if self._parquet is not None else 0
            self._window, self._window_start = None, start
            self._stream = (columns, group, self._batches(columns, group))
        while self._window is None or row >= self._window_start + self._window.num_rows:
            self._window_start += 0 if self._window is None else self._window.num_rows
            self._window = None  # freed before the next one is read
            self._window = next(self._stream[2], None)
            if self._window is None:
                raise StorageError(file_uri, f"has {counted(self._window_start, 'row')}, so no row {row}")
        return self._window.slice(row - self._window_start, 1)

    def _batches(self, columns: tuple[str, ...], group: int) -> Iterator[pa.RecordBatch]:
        """Stream columns of a row group in batches of about ``_WINDOW_BYTES``, or of a text file."""
        if self._text is not None:
            return self._text.batches(columns, raw=True)
        assert self._parquet is not None
        metadata = self._parquet.metadata.row_group(group)
        chunks = [metadata.column(index) for index in range(metadata.num_columns)]
        row_bytes = (
            sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                for column in columns
                if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
            )
            / metadata.num_rows
        )
        rows = max(1, min(metadata.num_rows, int(_WINDOW_BYTES / max(row_bytes, 1.0))))
        batches: Iterator[pa.RecordBatch] = self._parquet.iter_batches(
            batch_size=rows, row_groups=[group], columns=list(columns), use_threads=False
        )
        return batches
