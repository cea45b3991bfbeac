"""Arrays in chunks of rows: written one at a time, gone on with after an end, opened when a row is asked for.

    PLACE/<array>_<chunk>-<token>.safetensors

The token says what the chunks are made of: those that are there with the right token need not be made again. A chunk
is written whole or not at all.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Sequence

import numpy as np

from dmt_ray.storage import files
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.models.array_files import Array, ArrayFile, file_name, local_array, read_entry, save_array
from dmt_ray.words import counted

_NAME = re.compile(r"(?P<name>\w+)_(?P<number>\d{6})", re.ASCII)


def chunk_of(name: str) -> tuple[str, int] | None:
    """Return the array and the number of a chunk by its name; None when it is not a chunk's."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found["name"], int(found["number"]))


class ChunkWriter:
    """Writes an array in chunks of rows.

    Parameters:
        uri: the folder.
        name: of the array.
        token: hexadecimal digits that tell chunks of other content apart.

    Raises:
        StorageError: the folder cannot be listed.
    """

    def __init__(self, uri: str, name: str, token: str) -> None:
        self._uri, self._name, self._token = uri, name, token
        self._there = files.list_names(uri)

    def chunk(self, number: int) -> str:
        """Return the name of a chunk."""
        return f"{self._name}_{number:06d}"

    def has(self, number: int) -> bool:
        """Tell whether a chunk was written before this writer began."""
        return file_name(self.chunk(number), self._token) in self._there

    def write(self, number: int, rows: Array) -> ArrayFile:
        """Write a chunk; return its entry for the record.

        Raises:
            StorageError: it cannot be written.
        """
        return save_array(self._uri, file_name(self.chunk(number), self._token), rows)

    def entry(self, number: int) -> ArrayFile:
        """Return the entry of a chunk that is there.

        Raises:
            StorageError: it cannot be read, or is no such chunk.
        """
        return read_entry(self._uri, file_name(self.chunk(number), self._token))

    def delete_others(self, also: Collection[str] = ()) -> None:
        """Delete chunks of this array with other tokens, such as those of a build that was given up.

        Parameters:
            also: names of arrays in one file, of which others are deleted too.
        """
        for file in sorted(files.list_names(self._uri)):
            chunk, _, rest = file.partition("-")
            known = chunk in also or (chunk_of(chunk) or ("", 0))[0] == self._name
            if known and rest != f"{self._token}.safetensors":
                files.delete(files.join(self._uri, file))


class ChunkedRows:
    """Rows of an array that lies in chunks.

    A chunk is checked against its SHA-256 and mapped, and from a store copied here before, when the first of its rows
    is asked for; from then on the system keeps of it in memory what it has room for.

    Parameters:
        uri: the folder.
        chunks: their entries, in order.
    """

    def __init__(self, uri: str, chunks: Sequence[ArrayFile]) -> None:
        self._uri, self._chunks = uri, list(chunks)
        self._ends = list(itertools.accumulate(chunk.shape[0] for chunk in self._chunks))
        self._open: dict[int, Array] = {}
        self._found: Array = np.empty(0)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks' files."""
        return sum(chunk.size for chunk in self._chunks)

    def rows(self, indices: Sequence[int]) -> Array:
        """Return rows, copied to memory that the next call writes to again.

        With new memory for each call the process would grow: what stays of opened chunks would lie between.

        Raises:
            StorageError: a chunk is missing, truncated or changed.
        """
        places = [bisect.bisect_right(self._ends, index) for index in indices]
        chunks = [self._chunk(place) for place in places]
        if len(self._found) < len(indices):
            self._found = np.empty((len(indices), *chunks[0].shape[1:]), chunks[0].dtype)
        found = self._found[: len(indices)]
        for row, (index, place, chunk) in enumerate(zip(indices, places, chunks, strict=True)):
            found[row] = chunk[index - (self._ends[place - 1] if place else 0)]
        return found

    def _chunk(self, number: int) -> Array:
        if number not in self._open:
            if number >= len(self._chunks):
                raise StorageError(self._uri, f"has {counted(len(self), 'row')}, and a later one was asked for")
            self._open[number] = local_array(self._uri, self._chunks[number])
        return self._open[number]
