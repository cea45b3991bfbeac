"""Reading for several threads at once: items' bytes, and the columns of the records that they belong to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from dmt_ray.storage.inputs.registry import ItemReader, RecordReader


class SharedReader:
    """An ``ItemReader`` and a ``RecordReader`` for several threads: plain files side by side, tables one by one.

    Parameters:
        max_bytes: a larger image is refused; see ``ItemReader``.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._reader = ItemReader(max_bytes)
        self._records = RecordReader()
        self._lock = threading.Lock()

    def read(self, uri: str) -> bytes:
        """Return the encoded bytes at ``uri``; raises as ``ItemReader.read``."""
        if "#row=" in uri:
            with self._lock:
                return self._reader.read(uri)
        return self._reader.read(uri)

    def read_record(self, record: str | None, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of some columns; raises as ``RecordReader.read_record``."""
        with self._lock:
            return self._records.read_record(record, columns)
