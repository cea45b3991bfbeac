"""JSON Lines as tables: one object a line, its keys the columns, read in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.json

_BLOCK_BYTES = 4 * 2**20
_BOM = b"\xef\xbb\xbf"


def read_schema(source: IO[bytes]) -> pa.Schema:
    """Return the columns of JSON Lines with the types that all their values have.

    Texts that look like dates are text. A column whose objects are all empty is left out: no table could hold it.

    Raises:
        pyarrow.ArrowException: a line is no JSON object, or a column has values of types that do not go together.
    """
    schema: pa.Schema = pa.schema([])
    for block in _blocks(source):
        found = _read(block, None).schema
        found = pa.schema([(field.name, _as_text(field.type)) for field in found])
        if not found.equals(schema):
            schema = pa.unify_schemas([schema, found], promote_options="permissive")
    return pa.schema([field for field in schema if _can_be_stored(field.type)])


def read_batches(source: IO[bytes], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of JSON Lines, null where an object lacks one.

    Parameters:
        source: the file.
        schema: what ``read_schema`` returned.
        columns: their names.

    Raises:
        pyarrow.ArrowException: a line is no JSON object, or a value is not of its column's type.
    """
    wanted = pa.schema([schema.field(name) for name in columns])
    for block in _blocks(source):
        yield from _read(block, wanted).select(list(columns)).combine_chunks().to_batches()


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    """Yield whole lines, a few megabytes at a time."""
    rest = source.read(len(_BOM)).removeprefix(_BOM)
    while data := source.read(_BLOCK_BYTES):
        data = rest + data
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if data[:end].strip():
            yield data[:end]
    if rest.strip():
        yield rest


def _read(block: bytes, schema: pa.Schema | None) -> pa.Table:
    return pa.json.read_json(
        pa.BufferReader(block),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pa.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )


def _as_text(kind: pa.DataType) -> pa.DataType:
    """Return a type with text in place of points in time, which JSON does not know."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_as_text(kind.value_type))
    return kind


def _can_be_stored(kind: pa.DataType) -> bool:
    """Tell whether Parquet can hold a type: a struct must have a field."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_can_be_stored(field.type) for field in kind)
    return not pa.types.is_list(kind) or _can_be_stored(kind.value_type)
