"""Outputs as earlier versions of this program wrote them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq

from dmt_ray.output.schema import LAST_UNNUMBERED_VERSION, ROW_SCHEMA, ROW_SCHEMAS, column_name


def make_older(out: str, version: int, *, statistics: bool = True) -> None:
    """Rewrite all files as the given earlier version of this program wrote them."""
    record = json.loads(Path(out, "run.json").read_text()) | {"schema_version": version}
    told = version > LAST_UNNUMBERED_VERSION
    if not told:
        del record["schema_version"]
    Path(out, "run.json").write_text(json.dumps(record))
    for path in Path(out, "shards").iterdir():
        stamp = pq.ParquetFile(path).metadata.metadata[b"dmt_ray.stamp"].decode()
        rows = pq.read_table(path)
        errors = rows["status"].to_pylist().count("error")
        own = rows.select(ROW_SCHEMA.names)
        own = own.rename_columns([column_name(name, version) for name in own.column_names])
        inputs = rows.drop_columns(ROW_SCHEMA.names)
        rows = own.select(ROW_SCHEMAS[version].names).replace_schema_metadata(None)
        for name in inputs.column_names:
            rows = rows.append_column(inputs.schema.field(name).remove_metadata(), inputs[name])
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, rows.schema, write_page_checksum=True, write_statistics=statistics) as writer:
            writer.write_table(rows)
            body = hashlib.sha256(sink.getbuffer()).hexdigest()
            keys = {"dmt_ray.stamp": stamp, "dmt_ray.body_sha256": body}
            if told:
                keys |= {"dmt_ray.schema_version": str(version), "dmt_ray.errors": str(errors)}
            writer.add_key_value_metadata(keys)
        path.write_bytes(sink.getvalue())
