"""What a metadata table says of the images beside it, as Hugging Face's ImageFolder has it.

``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet``, whose column ``file_name`` starts at the table's folder.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import is_text, plain_columns, unify
from dmt_ray.storage.inputs.formats import Place
from dmt_ray.storage.inputs.listing import folder_of, numbered
from dmt_ray.storage.inputs.tables import TableFile, open_tables

_NAMES = frozenset({"metadata.jsonl", "metadata.csv", "metadata.parquet"})
_COLUMN = "file_name"


@dataclass(frozen=True)
class ImageMetadata:
    """The rows that belong to images."""

    columns: pa.Schema
    """The tables' other columns, with plain types."""
    tables: Sequence[str]
    """The tables' URIs."""
    remarks: tuple[str, ...]
    """Sentences on images without a row, and on rows without an image."""
    first_rows: npt.NDArray[np.int64]
    """The number of each table's first row, where the rows of all are numbered on."""
    row_of: npt.NDArray[np.int64]
    """The number of each image's row; -1 where it has none."""

    def records(self, start: int, count: int) -> pa.Array:
        """Return the records of some images (see ``InputItem``); null where one has no row."""
        numbers = self.row_of[start : start + count]
        table = np.searchsorted(self.first_rows, numbers, side="right") - 1
        records = pa.nulls(len(numbers), pa.string())
        for index, uri in enumerate(self.tables):
            mine = pa.array((table == index) & (numbers >= 0))
            rows = pa.array(numbers - self.first_rows[index])
            records = pc.if_else(mine, numbered(f"{uri}#row=", rows, f"&by=uri&column={_COLUMN}"), records)
        return records


def read_metadata(place: Place, images: Sequence[str]) -> ImageMetadata | None:
    """Read the names in the metadata tables of a place, and find the row of each image.

    The table nearest to an image counts first, and in a table the first row with its name.

    Parameters:
        place: the images, and what lies beside them.
        images: those that are listed, in order.

    Returns:
        None where there is no such table.

    Raises:
        SettingsError: one cannot be read, or the tables' columns do not agree.
    """
    found = [file for file in place.others if posixpath.basename(file) in _NAMES]
    found.sort(key=lambda file: (-file.count("/"), file))
    try:
        tables = [table for table in open_tables(found) if _names_images(table)]
        named = [_uris(table) for table in tables]
    except SettingsError as error:
        raise SettingsError(
            f"{error} It is taken for the metadata of the images beside it; correct it, or give it another name."
        ) from error
    if not tables:
        return None
    uris = pa.chunked_array(named, pa.string())
    rows = pc.index_in(pa.array(images, pa.string()), value_set=uris).fill_null(-1).to_numpy()
    without = int((rows < 0).sum())
    unused = len(uris) - len(np.unique(rows[rows >= 0]))
    names = ", ".join(masked(table.uri) for table in tables[:3]) + (", ..." if len(tables) > 3 else "")
    remarks = []
    if without:
        remarks.append(f"Images without a row in {names}: {without}; its columns are null for them.")
    if unused and place.limit is None:
        remarks.append(f"Rows of {names} that name no listed image, or one that has a row already: {unused}.")
    return ImageMetadata(
        unify([(table.uri, plain_columns(table.schema, {_COLUMN})) for table in tables]),
        [table.uri for table in tables],
        tuple(remarks),
        np.cumsum([0, *(len(each) for each in named[:-1])]),
        rows.astype(np.int64),
    )


def _names_images(table: TableFile) -> bool:
    return _COLUMN in table.schema.names and is_text(table.schema.field(_COLUMN).type)


def _uris(table: TableFile) -> pa.Array:
    """Return the URIs that a table's rows name, null where a row names none."""
    folder = folder_of(table.uri)
    uris: list[str | None] = []
    for batch in table.batches([_COLUMN]):
        names = pc.cast(batch.column(0), pa.string()).to_pylist()
        uris += [files.resolve(name, folder) if name else None for name in names]
    return pa.array(uris, pa.string())
