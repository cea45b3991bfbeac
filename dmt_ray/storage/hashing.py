"""The SHA-256 of files: of one that is being written, and of one that is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from dmt_ray.storage import files

#: Bytes read at a time.
_BLOCK = 2**24


class HashingFile:
    """A file to write to that knows the SHA-256 and the number of the bytes written.

    Parameters:
        write: takes the bytes on.
    """

    closed = False

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        """Write bytes; returns how many."""
        self._sha256.update(data)
        self._size += len(data)
        return self._write(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size

    def flush(self) -> None:
        """Do nothing: the file below is flushed when it is closed."""

    def close(self) -> None:
        """Do nothing: whoever opened the file below closes it."""

    def writable(self) -> bool:
        """Tell that this can be written."""
        return True

    def hexdigest(self) -> str:
        """Return the SHA-256 of the bytes written so far, in hexadecimal."""
        return self._sha256.hexdigest()


def file_sha256(uri: str) -> str:
    """Return the SHA-256 of a whole file in hexadecimal, in bounded memory.

    Raises:
        StorageError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with files.open_file(uri) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
