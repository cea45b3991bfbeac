"""The input's own columns in the output: every row keeps what its table or sample says about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import DmtError
from dmt_ray.output.commit import ROW_SCHEMA
from dmt_ray.storage.inputs.registry import InputItem, RecordReader

logger = logging.getLogger(__name__)

#: Put before a column's name that the output has already.
PREFIX = "input_"


def output_fields(columns: pa.Schema) -> pa.Schema:
    """Return the fields of the output for an input's columns: their own types, and their own names where free.

    Parameters:
        columns: by the input's names.

    Returns:
        Fields whose metadata says under ``column`` what the input calls them.
    """
    taken = {name.lower() for name in ROW_SCHEMA.names}  # SQL does not tell "ID" from "id"
    fields = []
    for field in columns:
        name = field.name
        while name.lower() in taken:
            name = PREFIX + name
        taken.add(name.lower())
        fields.append(pa.field(name, field.type, metadata={"column": field.name}))
    return pa.schema(fields)


class InputColumns:
    """Adds the input's columns to tables of results.

    Parameters:
        schema: what ``output_fields`` made, as the plan has it.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = [field.metadata[b"column"].decode() for field in schema]
        self._reader = RecordReader()

    def add(self, table: pa.Table, items: Sequence[InputItem]) -> pa.Table:
        """Return the rows with the columns of the items' records.

        An image whose record cannot be read gets error rows: nothing would tell its empty columns from true ones.

        Parameters:
            table: rows of ``ROW_SCHEMA``.
            items: the images that the rows are of.
        """
        if not len(self._schema):
            return table
        kinds = pa.schema([(name, field.type) for name, field in zip(self._columns, self._schema, strict=True)])
        failed: dict[str, str] = {}
        read = []
        for item in items:
            try:
                read.append(self._reader.read_arrow(item.record, kinds))
            except DmtError as error:
                logger.warning("%s: its other columns cannot be read: %s", item.id, error)
                failed[item.id] = f"The input's other columns cannot be read: {error}"
                read.append(kinds.empty_table().take(pa.array([None], pa.int64())))
        columns = pa.concat_tables(read).combine_chunks()
        places = pc.index_in(table["id"], pa.array([item.id for item in items], pa.string()))
        if failed:
            table = _with_errors(table, failed)
        for field, name in zip(self._schema, self._columns, strict=True):
            table = table.append_column(pa.field(field.name, field.type), columns[name].take(places))
        return table


def _with_errors(table: pa.Table, failed: dict[str, str]) -> pa.Table:
    ids = table["id"].to_pylist()
    wrong = pa.array([id_ in failed for id_ in ids])
    reasons = pa.array([failed.get(id_) for id_ in ids], pa.string())
    for name, value in {"status": "error", "error_type": "storage", "error": reasons, "image": None}.items():
        field = table.schema.field(name)
        new = value if isinstance(value, pa.Array) else pa.scalar(value, field.type)
        table = table.set_column(table.schema.get_field_index(name), field, pc.if_else(wrong, new, table[name]))
    return table
