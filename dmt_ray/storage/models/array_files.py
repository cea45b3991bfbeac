"""Arrays as files: one safetensors file each, written and read in bounded memory, known by size and SHA-256."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.models.cache import cache_folder
from dmt_ray.words import counted

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

RECORD_NAME = "manifold.json"
REMEDY = "make the manifold again, or copy it again from where it is whole"
_TENSOR = "array"
_ALIGNMENT = 64
#: Arrays are written in pieces of about so many bytes.
_PIECE = 32 * 2**20
#: The header of a file of one array is far shorter.
_LONGEST_HEADER = 2**20
#: What every version of NumPy can have.
_MOST_AXES = 32
_DTYPES = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "|b1"},
    **{f"I{8 * size}": f"{'<' if size > 1 else '|'}i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"{'<' if size > 1 else '|'}u{size}" for size in (1, 2, 4, 8)},
}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_ARRAY_FILE = re.compile(r"\w+-[0-9a-f]+\.safetensors", re.ASCII)


@dataclass(frozen=True)
class ArrayFile:
    """What the record of a manifold says of one array's file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    sha256: str


def is_array_file(name: str) -> bool:
    """Tell whether a file's name is one that arrays have."""
    return _ARRAY_FILE.fullmatch(name) is not None


def check_array(name: str, dtype: np.dtype[Any]) -> None:
    """Raise ValueError when an array of this name and dtype cannot be saved."""
    if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
        raise ValueError(f"{name!r} cannot be the name of an array")
    if np.dtype(dtype).newbyteorder("<") not in _CODES:
        raise ValueError(f"array {name} of {np.dtype(dtype)} cannot be saved")


def file_name(name: str, token: str) -> str:
    """Return the name of an array's file."""
    return f"{name}-{token}.safetensors"


def local_array(uri: str, entry: ArrayFile) -> Array:
    """Return a read-only array mapped from its file in a folder or, from a store, from a local copy of that.

    Raises:
        StorageError: missing, truncated or changed.
    """
    place = files.join(uri, entry.file)
    if files.is_local(uri):
        path = Path(files.absolute(place))
        _check(path, place, entry)
    else:
        path = _cached(place, entry)
    return _map(path, place, entry)


def read_entry(uri: str, file: str) -> ArrayFile:
    """Return what a record has to say of a file that ``write_array`` wrote; it is read whole.

    Raises:
        StorageError: it cannot be read, or is no such file.
    """
    place = files.join(uri, file)
    digest, size = hashlib.sha256(), 0
    with files.open_file(place) as source:
        head = source.read(8)
        length = int.from_bytes(head, "little")
        try:
            if not 0 < length <= _LONGEST_HEADER:
                raise ValueError("the length of the header")
            text = source.read(length)
            tensor = json.loads(text)[_TENSOR]
            dtype, shape = str(tensor["dtype"]), tuple(map(int, tensor["shape"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(place, f"is not a safetensors file of one array; {REMEDY}") from error
        for piece in (head, text, *iter(lambda: source.read(_PIECE), b"")):
            digest.update(piece)
            size += len(piece)
    entry = {"file": file, "dtype": dtype, "shape": list(shape), "size": size, "sha256": digest.hexdigest()}
    try:
        return parse_entry(file, entry)
    except ValueError as error:
        raise StorageError(place, f"is not a safetensors file of one array ({error}); {REMEDY}") from error


def save_array(uri: str, file: str, array: Array) -> ArrayFile:
    """Write one safetensors file into a folder, whole or not at all, and return its entry.

    Raises:
        StorageError: it cannot be written.
    """
    with files.staged(files.join(uri, file)) as path:
        return _write_array(path, file, array)


def _write_array(path: Path, file: str, array: Array) -> ArrayFile:
    dtype = np.dtype(array.dtype).newbyteorder("<")
    shape = tuple(int(n) for n in array.shape)
    size = math.prod(shape) * dtype.itemsize
    header = {_TENSOR: {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        head = len(text).to_bytes(8, "little") + text
        digest.update(head)
        out.write(head)
        for block in _pieces(array):
            data = np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8).data
            digest.update(data)
            out.write(data)
    return ArrayFile(file, _CODES[dtype], shape, 8 + len(text) + size, digest.hexdigest())


def _pieces(array: Array) -> Iterator[Array]:
    """Yield an array in pieces of rows that are small enough to be copied, such as those of a mapped array."""
    if array.ndim == 0:
        yield array
        return
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    yield from (array[begin : begin + step] for begin in range(0, len(array), step))


def parse_entry(name: str, entry: Mapping[str, Any]) -> ArrayFile:
    """Return what a record says of an array, whatever its JSON holds.

    Raises:
        ValueError: it says what ``save_arrays`` never writes.
        KeyError: it leaves something out.
        TypeError: it is no JSON object.
    """
    file, dtype, shape = entry["file"], entry["dtype"], entry["shape"]
    size, sha256 = entry["size"], entry["sha256"]
    if not isinstance(file, str) or not _ARRAY_FILE.fullmatch(file):
        raise ValueError(f"{name}: it names files that no manifold has")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name}: dtype {reprlib.repr(dtype)}")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{name}: sha256 {reprlib.repr(sha256)}")
    if type(size) is not int or not 0 <= size <= sys.maxsize:
        raise ValueError(f"{name}: size {reprlib.repr(size)}")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{name}: shape {reprlib.repr(shape)}")
    itemsize = np.dtype(_DTYPES[dtype]).itemsize
    # An empty array may have other axes too long for NumPy.
    if math.prod(shape) * itemsize > size or math.prod(max(1, n) for n in shape) * itemsize > sys.maxsize:
        raise ValueError(f"{name}: shape {reprlib.repr(shape)} for a file of {counted(size, 'byte')}")
    return ArrayFile(file, dtype, tuple(shape), size, sha256)


def _check(path: Path, place: str, entry: ArrayFile) -> None:
    """Compare a local copy of ``place`` with what the record says of it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise StorageError(place, f"does not exist, and {RECORD_NAME} beside it names it; {REMEDY}") from None
    except OSError as error:
        raise StorageError(place, error.strerror or "cannot be read") from error
    if size != entry.size:
        has = counted(size, "byte")
        raise StorageError(place, f"has {has} instead of {entry.size}: it is truncated or changed; {REMEDY}")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(place, error.strerror or "cannot be read") from error
    if found != entry.sha256:
        reason = f"has SHA-256 {found[:16]} instead of {entry.sha256[:16]}: it was changed or damaged"
        raise StorageError(place, f"{reason}; {REMEDY}")


def _cached(place: str, entry: ArrayFile) -> Path:
    """Return the local copy of a file in a store, downloaded when there is none that is sound."""
    path = cache_folder() / "manifolds" / f"{entry.sha256}.safetensors"
    if path.exists():
        try:
            _check(path, str(path), entry)
            return path
        except StorageError as error:
            logger.warning("Downloading again what is damaged in the cache: %s", error)
    try:
        with files.staged(str(path)) as temporary:
            files.fetch(place, temporary)
            _check(temporary, place, entry)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError) and error.uri == files.masked(place):
            raise StorageError(place, f"does not exist, and {RECORD_NAME} beside it names it; {REMEDY}") from error
        raise
    return path


def _map(path: Path, place: str, entry: ArrayFile) -> Array:
    """Map the array of a checked safetensors file into memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 0 < length <= _LONGEST_HEADER:
                raise ValueError("the length of the header")
            tensor = json.loads(file.read(length))[_TENSOR]
            found = (tensor["dtype"], tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][1])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise StorageError(place, f"is not a safetensors file of one array; {REMEDY}") from error
    dtype = np.dtype(_DTYPES[entry.dtype])
    expected = math.prod(entry.shape) * dtype.itemsize
    if found != (entry.dtype, entry.shape, entry.size) or entry.size != 8 + length + expected:
        raise StorageError(place, f"holds {found[0]} {found[1]}, not {entry.dtype} {entry.shape}; {REMEDY}")
    if expected == 0:
        return np.empty(entry.shape, dtype)
    return np.memmap(path, dtype, "r", 8 + length, entry.shape)
