"""Tables in files, of all formats alike: a schema, and batches of some of the columns in the order of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.inputs import json_lines
from dmt_ray.storage.inputs.listing import BATCH_ROWS, one_line, suffix
from dmt_ray.storage.threads import reading_threads

#: File name suffixes (lower case) of Parquet files.
PARQUET_SUFFIXES = frozenset({".parquet", ".parq", ".pq"})
#: File name suffixes (lower case) of CSV files, and what stands between their values.
CSV_DELIMITERS = {".csv": ",", ".tsv": "\t"}

#: File name suffixes (lower case) of JSON Lines.
JSON_LINES_SUFFIXES = frozenset({".jsonl"})
#: Those of files that are read from their first line on.
TEXT_SUFFIXES = JSON_LINES_SUFFIXES | CSV_DELIMITERS.keys()

_AT_ONCE = 16
_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class TableFile:
    """A table file whose columns are known. CSV has no types: its columns are text, as they are written."""

    uri: str
    schema: pa.Schema
    rows: int | None
    """None for CSV and JSON Lines: only reading them tells."""

    @property
    def is_csv(self) -> bool:
        """Tell CSV from Parquet."""
        return suffix(self.uri) in CSV_DELIMITERS

    def batches(self, columns: Sequence[str], *, raw: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield some columns, at least one, a batch of rows at a time.

        Parameters:
            columns: their names.
            raw: columns of CSV come as bytes, whatever their encoding.

        Raises:
            SettingsError: the file cannot be read, or changed since its schema was read.
        """
        try:
            with files.open_file(self.uri) as source:
                if self.is_csv:
                    yield from _open_csv(
                        source, self.uri, self.schema, list(columns), pa.binary() if raw else pa.string()
                    )
                elif suffix(self.uri) in JSON_LINES_SUFFIXES:
                    yield from json_lines.read_batches(source, self.schema, columns)
                else:
                    yield from pq.ParquetFile(source).iter_batches(batch_size=BATCH_ROWS, columns=list(columns))
        except DmtError:
            raise
        except Exception as error:  # pyarrow and the stores' drivers raise many types
            raise _unreadable(self.uri, error) from error


def open_tables(uris: Sequence[str]) -> Iterator[TableFile]:
    """Read the schemas of table files, a few at a time side by side, and yield the files in order.

    Raises:
        SettingsError: a file cannot be read.
    """
    with reading_threads(_AT_ONCE) as pool:
        for start in range(0, len(uris), _AT_ONCE):
            yield from pool.map(open_table, uris[start : start + _AT_ONCE])


def open_table(uri: str) -> TableFile:
    """Read the schema of one table file.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        with files.open_file(uri) as source:
            if suffix(uri) in CSV_DELIMITERS:
                return TableFile(uri, _csv_schema(source, uri), None)
            if suffix(uri) in JSON_LINES_SUFFIXES:
                return TableFile(uri, json_lines.read_schema(source), None)
            file = pq.ParquetFile(source)
            _check_names(uri, file.schema_arrow.names, "rename one of them")
            return TableFile(uri, file.schema_arrow, file.metadata.num_rows)
    except StorageError as error:
        raise SettingsError(f"Cannot read {masked(uri)}: {error.reason}.") from error
    except DmtError:
        raise
    except Exception as error:
        raise _unreadable(uri, error) from error


def read_typed(table: TableFile, columns: Sequence[str]) -> pa.Table:
    """Read whole columns into memory. Columns of CSV get the type that all their values look like.

    Raises:
        SettingsError: the file cannot be read.
    """
    if not table.is_csv:
        schema = pa.schema([table.schema.field(name) for name in columns])
        return pa.Table.from_batches(table.batches(columns), schema)
    try:
        with files.open_file(table.uri) as source:
            return pa.csv.read_csv(
                source,
                read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=_csv_layout(table.uri),
                convert_options=pa.csv.ConvertOptions(include_columns=list(columns), strings_can_be_null=True),
            )
    except DmtError:
        raise
    except Exception as error:
        raise _unreadable(table.uri, error) from error


def _check_names(uri: str, names: Sequence[str], remedy: str) -> None:
    """Raise SettingsError when two columns have the same name: nothing would tell which is meant."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise SettingsError(f"{masked(uri)} has more than one column {repeated[0]!r}; {remedy}.")


def _csv_schema(source: object, uri: str) -> pa.Schema:
    reader = pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=_csv_layout(uri),
    )
    names = reader.schema.names
    _check_names(uri, names, "its first line must name each")
    return pa.schema([(name, pa.string()) for name in names])


def _open_csv(
    source: object, uri: str, schema: pa.Schema, columns: list[str], kind: pa.DataType
) -> pa.csv.CSVStreamingReader:
    return pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=_csv_layout(uri),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(schema.names, kind),
            include_columns=columns,
            strings_can_be_null=False,
        ),
    )


def _csv_layout(uri: str) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter=CSV_DELIMITERS[suffix(uri)], newlines_in_values=True)


def _unreadable(uri: str, error: Exception) -> SettingsError:
    kind = "CSV" if suffix(uri) in CSV_DELIMITERS else "Parquet"
    kind = "JSON Lines" if suffix(uri) in JSON_LINES_SUFFIXES else kind
    return SettingsError(f"{masked(uri)} cannot be read as {kind}: {one_line(error)}.")
