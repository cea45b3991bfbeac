"""``--format huggingface``: Parquet files and a card, as the library ``datasets`` writes them itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.output.dataset_card import CARD_FILE, card_bytes
from dmt_ray.output.dataset_features import IMAGE_TYPE, features_metadata, features_of
from dmt_ray.output.export.manifest import Entry
from dmt_ray.output.export.names import Names
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.output.export.pictures import Picture
from dmt_ray.output.export.run import ExportedRun
from dmt_ray.output.export.units import Unit, Written, announce, cut_by_bytes, without_pictures
from dmt_ray.output.export.writing import Destination
from dmt_ray.output.input_columns import PREFIX
from dmt_ray.output.schema import column_name
from dmt_ray.storage.hashing import HashingFile
from dmt_ray.words import counted

#: Bytes of a row group, about.
_GROUP_BYTES = 100_000_000
#: Files are cut where the content says so: after a change, most of an upload's chunks are the same. Since pyarrow 21.
_CHUNKS: dict[str, Any] = {}
if int(pa.__version__.partition(".")[0]) >= 21:
    _CHUNKS["use_content_defined_chunking"] = {
        "min_chunk_size": 256 * 1024,
        "max_chunk_size": 1024 * 1024,
        "norm_level": 0,
    }


class HuggingFaceWriter:
    """Writes Parquet files; see ``FilesWriter`` for the parameters."""

    most_threads = 2  # each holds a row group, twice while it is written
    whole = True

    def __init__(
        self, run: ExportedRun, options: ExportOptions, destination: Destination, check: Callable[[], None]
    ) -> None:
        self._run, self._options, self._destination, self._check = run, options, destination, check
        self._names = Names(run.source.ids)
        self._units = cut_by_bytes(run, options.file_size)
        self._images = ("image", "animation") if run.source.animated else ("image",)
        schema = self._columns(run.expected.schema.empty_table(), [])
        features = features_of(schema.schema, self._images)
        kept = [_decoded(field) for field in schema.schema if field.name in features]
        self._schema = pa.schema(kept, metadata=features_metadata(features))

    def units(self) -> list[Unit]:
        """Return a unit for each file."""
        return self._units

    def write(self, unit: Unit, earlier: dict[str, str]) -> Written:
        """Write a unit's file; see ``Writer``."""
        path = f"data/train-{unit.number:05d}-of-{len(self._units):05d}.parquet"
        entries: list[Entry] = []
        with self._destination.create(path) as file:
            with _Groups(file, self._schema, self._images) as groups:
                for shard in unit.shards:
                    for batch in self._run.batches(shard):
                        self._check()
                        entries += [picture.entry(path) for picture in batch.pictures]
                        rows = self._columns(batch.rows, [self._name(picture) for picture in batch.pictures])
                        groups.add(rows.select(self._schema.names).cast(self._schema))
            whole = Entry(path, file.hexdigest(), file.tell())
            announce(self._destination, unit, [whole, *entries])
        return Written([whole, *entries], len(entries))

    def finish(self, destination: Destination) -> None:
        """Write the card."""
        job = self._run.source.job
        pictures = sum(map(self._run.pictures, self._run.facts))
        text = (
            f"{counted(pictures, 'photo')} edited by deep manifold traversal"
            f"{'' if job is None else f' (`dmt-ray {job}`)'}. `id` is the photo, `strength` how far it was moved."
        )
        card = card_bytes("Photos edited by dmt_ray", text, "data/train-*.parquet", self._schema, self._images)
        destination.put(CARD_FILE, card, {})

    def _columns(self, rows: pa.Table, names: list[str]) -> pa.Table:
        """Return rows as they are exported: pictures with their names, and no displacement."""
        narrow = without_pictures(self._run, rows)
        own = [name for name in self._run.expected.own_schema.names if name in narrow.column_names]
        inputs = [name for name in narrow.column_names if name not in own]
        columns = {name: narrow[name] for name in own}
        for name in self._images:
            data = rows[column_name(name, self._run.expected.version)]
            columns[name] = _images(data, names if name == "image" else [None] * len(rows))
        for name in inputs:
            free = name
            while free in columns:  # an earlier version had no such column of its own
                free = PREFIX + free
            columns[free] = narrow[name]
        return pa.table(columns)

    def _name(self, picture: Picture) -> str:
        name = self._names.of(picture.id).rpartition("/")[2]
        return name + ("" if picture.label is None else f"_{picture.label}") + picture.suffix


def _images(data: pa.ChunkedArray, names: list[Any]) -> pa.Array:
    """Return bytes as images; null where there are none."""
    values = data.combine_chunks().cast(pa.binary())
    return pa.StructArray.from_arrays(
        [values, pa.array(names, pa.string())], fields=list(IMAGE_TYPE), mask=values.is_null()
    )


def _decoded(field: pa.Field) -> pa.Field:
    """Return a field with the values themselves where it is one of numbers into a dictionary."""
    kind = field.type
    return pa.field(field.name, kind.value_type if pa.types.is_dictionary(kind) else kind)


class _Groups:
    """Writes tables as row groups of about ``_GROUP_BYTES``; use it as a context manager."""

    def __init__(self, file: HashingFile, schema: pa.Schema, images: tuple[str, ...]) -> None:
        # Encoded images do not shrink; everything else does.
        compression = {name: "none" if name.split(".")[0] in images else "snappy" for name in _leaves(schema)}
        dictionaries = [name for name in _leaves(schema) if name.split(".")[0] not in images]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(file, "w"),
            schema,
            compression=compression,
            use_dictionary=dictionaries,
            write_page_index=True,
            write_page_checksum=True,
            **_CHUNKS,
        )
        self._waiting: list[pa.Table] = []
        self._size = 0

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """Write rows, or keep them until a row group is full."""
        self._waiting.append(rows)
        self._size += rows.nbytes
        if self._size >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._waiting, self._size = [], 0


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the paths of a schema's columns in a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [columns.column(index).path for index in range(len(columns))]
