"""The input's own columns in the output: every row keeps what its table or sample says about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import DmtError, ImageError
from dmt_ray.output.schema import RESULT_COLUMNS, ROW_SCHEMA
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader

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
        containers: identities of the tables and archives as they were planned, by URI.
    """

    def __init__(self, schema: pa.Schema, containers: Mapping[str, str] | None = None) -> None:
        self._schema = schema
        self._columns = [field.metadata[b"column"].decode() for field in schema]
        self._kinds = pa.schema([(name, field.type) for name, field in zip(self._columns, schema, strict=True)])
        self._reader = InputReader(containers=containers)

    def add(self, table: pa.Table, items: Sequence[InputItem]) -> pa.Table:
        """Return the rows with the columns of the items' records.

        A value that cannot be stored is null, and the row's ``warning`` tells why. An image whose record cannot be
        read, or is not its own any more, gets error rows: nothing would tell its empty columns from true ones.

        Parameters:
            table: rows of ``ROW_SCHEMA``.
            items: the images that the rows are of.
        """
        if not len(self._schema):
            return table
        failed: dict[str, tuple[str, str]] = {}
        warnings: dict[str, str] = {}
        read = []
        for item in items:
            values = self._kinds.empty_table().take(pa.array([None], pa.int64()))
            if item.record is None:  # an image without a row in the metadata of its folder
                read.append(values)
                continue
            try:
                fields = self._reader.read_fields(item, self._kinds)
                values = fields.values
                if fields.faults:
                    warnings[item.id] = " ".join(self._warning(*fault) for fault in fields.faults.items())
                    logger.warning("%s: %s", item.id, warnings[item.id])
            except DmtError as error:
                logger.warning("%s: its other columns cannot be read: %s", item.id, error)
                kind = error.kind if isinstance(error, ImageError) else "storage"
                failed[item.id] = kind, f"The input's other columns cannot be read: {error}"
            read.append(values)
        columns = pa.concat_tables(read).combine_chunks()
        places = pc.index_in(table["id"], pa.array([item.id for item in items], pa.string()))
        if failed:
            table = _with_errors(table, failed)
        if warnings:
            table = _with_warnings(table, warnings)
        for field, name in zip(self._schema, self._columns, strict=True):
            table = table.append_column(pa.field(field.name, field.type), columns[name].take(places))
        return table

    def _warning(self, column: str, reason: str) -> str:
        return f"Column {column} is null: {reason}."


def _with_errors(table: pa.Table, failed: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Make error rows of the rows of some images, which must not have a result then; earlier errors stay."""
    ids = table["id"].to_pylist()
    known = table["status"].to_pylist()
    wrong = pa.array([id_ in failed and status != "error" for id_, status in zip(ids, known, strict=True)])
    kinds, reasons = (pa.array([failed[id_][part] if id_ in failed else None for id_ in ids]) for part in (0, 1))
    status = pa.array(["error"] * len(ids))
    new = {"status": status, "error_type": kinds, "error": reasons, **dict.fromkeys(RESULT_COLUMNS)}
    for name, values in new.items():
        field = table.schema.field(name)
        made = pa.nulls(len(ids), field.type) if values is None else values.cast(field.type)
        table = table.set_column(table.schema.get_field_index(name), field, pc.if_else(wrong, made, table[name]))
    return table


def _with_warnings(table: pa.Table, warnings: Mapping[str, str]) -> pa.Table:
    """Add warnings to the rows of some images, behind those that are there."""
    before, ids = table["warning"].to_pylist(), table["id"].to_pylist()
    texts = [
        " ".join(filter(None, [known, warnings.get(id_)])) or None for known, id_ in zip(before, ids, strict=True)
    ]
    index = table.schema.get_field_index("warning")
    return table.set_column(index, table.schema.field(index), pa.array(texts, pa.string()))
