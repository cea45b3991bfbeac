"""fsspec file systems as this package uses them: found by URI, with bounded retries inside, and read in parts."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

T = TypeVar("T")

#: One request may be tried so often by the S3 client itself. Its retries multiply with those of ``retry``, so they
#: are few; but a big upload of many parts must not start anew for one of them.
_REQUEST_TRIES = 2
_S3_CLIENT = {
    "retries": {"mode": "standard", "total_max_attempts": _REQUEST_TRIES},
    "connect_timeout": 10,
    "read_timeout": 60,
}


def find_file_system(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URI and the path in it; listings are not cached.

    Raises:
        Exception: whatever fsspec and its drivers raise.
    """
    scheme = uri.partition("://")[0].lower()
    if scheme not in ("s3", "s3a"):
        fs, path = fsspec.core.url_to_fs(uri)
    else:
        configured = {**fsspec.config.conf.get("s3", {}), **fsspec.config.conf.get(scheme, {})}
        client = _S3_CLIENT | dict(configured.get("config_kwargs") or {})
        fs, path = fsspec.core.url_to_fs(uri, config_kwargs=client)
        fs.retries = 1  # s3fs tries again by itself as well
    fs.invalidate_cache()  # other processes write what we list
    return fs, path


class RangeReader(io.RawIOBase):
    """A file in a store as a seekable binary file that reads just the bytes that are asked for.

    Parameters:
        read_range: returns bytes ``start`` up to ``end``; may be slow, must be right or raise.
        size: of the file, in bytes.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that this can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, all that is left for -1; empty at the end."""
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        data = self._read_range(self._position, end)
        self._position = end
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
