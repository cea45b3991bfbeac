"""An ``ItemReader`` that several threads may use."""

from __future__ import annotations

import threading

from dmt_ray.storage.inputs import ItemReader


class SharedReader:
    """An ``ItemReader`` for several threads: plain files side by side, Parquet cells one by one."""

    def __init__(self) -> None:
        self._reader = ItemReader()
        self._lock = threading.Lock()

    def read(self, uri: str) -> bytes:
        """Return the encoded bytes at ``uri``; raises ``StorageError``."""
        if "#row=" in uri:
            with self._lock:
                return self._reader.read(uri)
        return self._reader.read(uri)
