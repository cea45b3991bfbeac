"""What a run works on: image files, or the rows of Parquet files, as stable ids with URIs that can be read later.

Listing reads no image: names for files; footers and at most the URI and id columns for Parquet.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError, ImageError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.images import IMAGE_SUFFIXES

#: File name suffixes (lower case) of Parquet files.
PARQUET_SUFFIXES = frozenset({".parquet", ".parq", ".pq"})

_BYTES_NAMES = (
    "image",
    "bytes",
    "image_bytes",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "picture",
    "photo",
    "data",
    "content",
)
_URI_NAMES = (
    *("uri", "url", "path", "image_uri", "image_url", "image_path", "file", "filename", "file_name", "file_path"),
    *("filepath", "image", "img"),
)
_CELL = re.compile(r"^(?P<file>.+)#row=(?P<row>\d+)&column=(?P<column>.+)$", re.DOTALL)
_FOOTERS_AT_ONCE = 16
_WINDOW_BYTES = 64 * 2**20
_READ_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class InputItem:
    """One image to work on."""

    id: str
    """Unique in its listing, the same in every listing of the same place, never an absolute path."""
    uri: str
    """What ``ItemReader.read`` takes: a file's URI, or a Parquet cell ``<file URI>#row=<n>&column=<name>``."""


def list_inputs(
    uri: str,
    *,
    image_column: str | None = None,
    uri_column: str | None = None,
    limit: int | None = None,
) -> list[InputItem]:
    """List the images of one place.

    Parameters:
        uri: an image file, a folder or glob of images, or a Parquet file, folder or glob. Images win where a folder
            holds both, unless a column is named.
        image_column: Parquet: the column of encoded image bytes, or of ``{bytes, path}`` structs.
        uri_column: Parquet: the column of image URIs; relative ones start at the Parquet file's folder.
        limit: keep only the first so many, in listing order.

    Returns:
        At least one item, ordered by file name and row. A file's id is its path relative to the place. A row's id is
        the table's ``id`` column where it is a unique string or integer everywhere, else ``<relative path>#<row>``.

    Raises:
        SettingsError: nothing is there, no column fits, or a Parquet file cannot be read.
    """
    try:
        found = files.list_files(uri)
        root = files.listing_root(uri) if found else ""
    except StorageError as error:
        raise SettingsError(f"Cannot list {masked(uri)}: {error.reason}.") from error
    if not found:
        raise SettingsError(f"No image found in {masked(uri)}: {_why_nothing(uri)}.")
    parquet = [file for file in found if _suffix(file) in PARQUET_SUFFIXES]
    if len(found) == 1 and _is_named_outright(found[0], uri):
        images = [] if parquet else found  # content decides what a single file is, not its suffix
    else:
        images = [file for file in found if _suffix(file) in IMAGE_SUFFIXES]
    named = image_column is not None or uri_column is not None
    if images and not (named and parquet):
        if named:
            raise SettingsError(
                f"{masked(uri)} holds images, not Parquet: leave out --image-column and --uri-column."
            )
        return [InputItem(_relative(file, root), file) for file in images[:limit]]
    if not parquet:
        raise SettingsError(
            f"No image found in {masked(uri)}: none of its {len(found)} files has the suffix of an image or Parquet."
        )
    return _list_parquet(uri, parquet, root, image_column, uri_column, limit)


class ItemReader:
    """Reads the bytes of items.

    Of a Parquet file it keeps the last row group's column, or as much of it as fits in a fixed amount of memory: rows
    in order cost one pass over the file, and a file that is one huge row group does not fill the memory.

    Not for use by several threads at once. ``close`` it, or use it as a context manager.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._file_uri: str | None = None
        self._file: pq.ParquetFile | None = None
        self._starts: list[int] = []
        self._stream: tuple[str, int, Iterator[pa.RecordBatch]] | None = None
        self._window_start = 0
        self._window: pa.Array | None = None

    def read(self, uri: str) -> bytes:
        """Return the encoded image.

        Parameters:
            uri: the ``uri`` of an ``InputItem``.

        Raises:
            ImageError: kind ``empty`` when a Parquet cell is null.
            StorageError: the file, row or column cannot be read.
            SettingsError: the URI's scheme is unknown or its driver is not installed.
        """
        cell = _CELL.match(uri)
        if cell is None or _suffix(cell["file"]) not in PARQUET_SUFFIXES:
            return files.read_bytes(uri)
        try:
            value = self._read_cell(cell["file"], int(cell["row"]), cell["column"])
        except DmtError:
            self.close()
            raise
        except Exception as error:  # pyarrow and the stores' drivers raise many types
            self.close()
            raise StorageError(uri, f"the Parquet file cannot be read: {_one_line(error)}") from error
        if isinstance(value, dict):  # a Hugging Face image: bytes, or else a path
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None or value == "":
            raise ImageError("empty", f"The cell in row {cell['row']}, column {cell['column']} is null or empty.")
        if isinstance(value, str):
            return files.read_bytes(files.resolve(value, _folder(cell["file"])))
        if not isinstance(value, bytes):
            raise StorageError(uri, f"the cell holds {type(value).__name__}, not bytes or a URI")
        return value

    def close(self) -> None:
        """Close the Parquet file that is open, if any; reading again is allowed."""
        self._stream = self._window = self._file = self._file_uri = None
        self._stack.close()

    def __enter__(self) -> ItemReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_cell(self, file_uri: str, row: int, column: str) -> Any:
        if self._file is None or file_uri != self._file_uri:
            self.close()
            source = self._stack.enter_context(files.open_file(file_uri))
            self._file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES)
            self._file_uri = file_uri
            self._starts = [0]
            for index in range(self._file.metadata.num_row_groups):
                self._starts.append(self._starts[-1] + self._file.metadata.row_group(index).num_rows)
        if row >= self._starts[-1]:
            raise StorageError(file_uri, f"has {self._starts[-1]} rows, so no row {row}")
        if column not in self._file.schema_arrow.names:
            raise StorageError(file_uri, f"has no column {column}")
        group = bisect_right(self._starts, row) - 1
        if self._stream is None or self._stream[:2] != (column, group) or row < self._window_start:
            self._window, self._window_start = None, self._starts[group]
            self._stream = (column, group, self._batches(column, group))
        while self._window is None or row >= self._window_start + len(self._window):
            self._window_start += 0 if self._window is None else len(self._window)
            self._window = None  # freed before the next one is read
            self._window = next(self._stream[2]).column(0)
        return self._window[row - self._window_start].as_py()

    def _batches(self, column: str, group: int) -> Iterator[pa.RecordBatch]:
        """Stream one row group's column in batches of about ``_WINDOW_BYTES``."""
        assert self._file is not None
        metadata = self._file.metadata.row_group(group)
        chunks = [metadata.column(index) for index in range(metadata.num_columns)]
        row_bytes = (
            sum(
                chunk.total_uncompressed_size
                for chunk in chunks
                if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
            )
            / metadata.num_rows
        )
        rows = max(1, min(metadata.num_rows, int(_WINDOW_BYTES / max(row_bytes, 1.0))))
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_size=rows, row_groups=[group], columns=[column], use_threads=False
        )
        return batches


@dataclass(frozen=True)
class _Table:
    """What listing needs to know of one Parquet file."""

    uri: str
    rows: int
    schema: pa.Schema


def _list_parquet(
    uri: str,
    parquet: Sequence[str],
    root: str,
    image_column: str | None,
    uri_column: str | None,
    limit: int | None,
) -> list[InputItem]:
    items: list[InputItem] = []
    own_ids: list[str] | None = []
    column: tuple[str, bool] | None = None
    for table in _footers(parquet):
        if limit is not None and len(items) >= limit:
            break
        if table.rows == 0:
            continue
        if column is None:
            column = _choose_column(table, image_column, uri_column)
        name, is_uri = column
        _check_column(table, name, is_uri)
        rows = table.rows if limit is None else min(table.rows, limit - len(items))
        relative = _relative(table.uri, root)
        has_ids = own_ids is not None and "id" in table.schema.names and _is_id(table.schema.field("id").type)
        wanted = [name] * is_uri + ["id"] * has_ids
        values = _read_columns(table, wanted, rows) if wanted else {}
        references = values.get(name, [None] * rows) if is_uri else [None] * rows
        for row, reference in enumerate(references):
            place = f"{table.uri}#row={row}&column={name}"  # a null reference stays a cell: reading it says so
            items.append(
                InputItem(f"{relative}#{row}", files.resolve(reference, _folder(table.uri)) if reference else place)
            )
        if own_ids is not None and has_ids:
            own_ids.extend("" if value is None else str(value) for value in values["id"])
        else:
            own_ids = None
    if not items:
        raise SettingsError(f"No image found in {masked(uri)}: its {len(parquet)} Parquet file(s) have no rows.")
    if own_ids is not None and all(own_ids) and len(set(own_ids)) == len(own_ids):
        return [InputItem(own, item.uri) for own, item in zip(own_ids, items, strict=True)]
    return items


def _footers(parquet: Sequence[str]) -> Iterator[_Table]:
    """Read footers, a few at a time side by side, in order."""
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        for start in range(0, len(parquet), _FOOTERS_AT_ONCE):
            yield from pool.map(_footer, parquet[start : start + _FOOTERS_AT_ONCE])


def _footer(uri: str) -> _Table:
    try:
        with files.open_file(uri) as source:
            file = pq.ParquetFile(source)
            return _Table(uri, file.metadata.num_rows, file.schema_arrow)
    except StorageError as error:
        raise SettingsError(f"Cannot read {masked(uri)}: {error.reason}.") from error
    except DmtError:
        raise
    except Exception as error:  # pyarrow and the stores' drivers raise many types
        raise SettingsError(f"{masked(uri)} cannot be read as Parquet: {_one_line(error)}.") from error


def _read_columns(table: _Table, names: list[str], rows: int) -> dict[str, list[Any]]:
    """Return the first rows of some columns as Python values."""
    values: dict[str, list[Any]] = {name: [] for name in names}
    try:
        with files.open_file(table.uri) as source:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=min(rows, 65_536), columns=names):
                for name in names:
                    values[name].extend(batch.column(name).to_pylist())
                if len(values[names[0]]) >= rows:
                    break
    except DmtError:
        raise
    except Exception as error:
        raise SettingsError(f"{masked(table.uri)} cannot be read as Parquet: {_one_line(error)}.") from error
    return {name: column[:rows] for name, column in values.items()}


def _choose_column(table: _Table, image_column: str | None, uri_column: str | None) -> tuple[str, bool]:
    """Return the name of the column to read and whether it holds URIs."""
    if image_column is not None:
        return image_column, False
    if uri_column is not None:
        return uri_column, True
    binary = {field.name.lower(): field.name for field in table.schema if _is_bytes(field.type)}
    text = {field.name.lower(): field.name for field in table.schema if _is_text(field.type)}
    for name in _BYTES_NAMES:
        if name in binary:
            return binary[name], False
    pictures = [field.name for field in table.schema if pa.types.is_struct(field.type) and _is_bytes(field.type)]
    if len(pictures) == 1:
        return pictures[0], False
    for name in _URI_NAMES:
        if name in text:
            return text[name], True
    if len(binary) == 1:
        return next(iter(binary.values())), False
    raise SettingsError(
        f"Cannot tell which column of {masked(table.uri)} holds the images: name it with --image-column (encoded "
        f"bytes) or --uri-column (URIs). Columns: {_columns(table)}."
    )


def _check_column(table: _Table, name: str, is_uri: bool) -> None:
    option, need = ("--uri-column", "strings") if is_uri else ("--image-column", "encoded image bytes")
    if name not in table.schema.names:
        raise SettingsError(f"{masked(table.uri)} has no column {name!r} ({option}). Columns: {_columns(table)}.")
    kind = table.schema.field(name).type
    if not (_is_text(kind) if is_uri else _is_bytes(kind)):
        raise SettingsError(f"Column {name!r} of {masked(table.uri)} holds {kind}; {option} needs {need}.")


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _columns(table: _Table) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in table.schema)


def _why_nothing(uri: str) -> str:
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return "the pattern matches no file"
    return "the folder is empty" if files.exists(uri) else "it does not exist"


def _is_named_outright(found: str, uri: str) -> bool:
    return posixpath.basename(found) == posixpath.basename(uri)


def _suffix(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0]


def _relative(file: str, root: str) -> str:
    start = root.rstrip("/") + "/"
    return file[len(start) :] if file.startswith(start) else posixpath.basename(file)


def _one_line(error: BaseException) -> str:
    return masked(" ".join(str(error).split()).rstrip(".")[:200]) or type(error).__name__
