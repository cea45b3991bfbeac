"""Saved manifolds: a JSON record and one safetensors file per array, at any URI, written and read in bounded memory.

    PLACE/manifold.json                 format, version, the caller's record, and of each array its file, dtype,
                                        shape, size and SHA-256; written last, with a checksum of itself
    PLACE/<array>-<token>.safetensors   the array, under the name ``array``; any safetensors reader opens it

The token is new with each saving: whoever reads while a manifold is saved anew sees all of the old one or of the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import re
import reprlib
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.errors import DmtError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.models.cache import cache_folder

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

RECORD_NAME = "manifold.json"
VERSION = 1
_FORMAT = "dmt_ray manifold"
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
_REMEDY = "make the manifold again, or copy it again from where it is whole"


@dataclass(frozen=True)
class _Entry:
    """What the record says of one array's file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    sha256: str


def save_arrays(uri: str, record: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Save arrays and a record, replacing what was saved there; nobody ever sees a part of them.

    Memory stays at a few pieces of an array, which may be mapped from a file. For a store, one array at a time lies
    in ``$TMPDIR`` until it is uploaded.

    Parameters:
        uri: a folder: a local path or any URI that fsspec knows.
        record: anything that JSON can hold, such as the config, the layers, and the rows' ids and labels.
        arrays: names (letters, digits, ``_``) to arrays of integers, booleans or floats of 16 to 64 bits.

    Raises:
        StorageError: cannot be written; what was saved there before is untouched.
        ValueError: the record, a name or a dtype cannot be saved.
    """
    for name, array in arrays.items():
        if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
            raise ValueError(f"{name!r} cannot be the name of an array")
        if np.dtype(array.dtype).newbyteorder("<") not in _CODES:
            raise ValueError(f"array {name} of {np.dtype(array.dtype)} cannot be saved")
    json.dumps(record, allow_nan=False)  # fail before gigabytes are written
    place = files.join(uri, RECORD_NAME)
    before: set[str] = set()
    with contextlib.suppress(DmtError):
        before = {entry.file for entry in _read_record(uri)[1].values()}
    token = secrets.token_hex(6)
    entries: dict[str, _Entry] = {}
    try:
        for name, array in arrays.items():
            file = f"{name}-{token}.safetensors"
            with files.staged(files.join(uri, file)) as path:
                entries[name] = _write(path, file, array)
        files.write_atomic(place, _encode(record, entries))
    except BaseException:
        _delete(uri, {entry.file for entry in entries.values()})
        raise
    _delete(uri, before)


def open_arrays(uri: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Open what ``save_arrays`` saved; every array is read once to check its SHA-256.

    From a store, each array is first downloaded into ``manifolds`` of the cache folder (``$DMT_RAY_CACHE``), under
    its checksum, and kept there: the next opening downloads nothing. Nothing deletes them.

    Parameters:
        uri: the folder.

    Returns:
        The record, and read-only arrays mapped into memory: pages are read when they are touched.

    Raises:
        StorageError: missing, truncated, changed, or of another version; names the file and says what to do.
    """
    record, entries = _read_record(uri)
    arrays = {}
    for name, entry in entries.items():
        place = files.join(uri, entry.file)
        if files.is_local(uri):
            path = Path(files.absolute(place))
            _check(path, place, entry)
        else:
            path = _cached(place, entry)
        arrays[name] = _map(path, place, entry)
    return record, arrays


def open_record(uri: str) -> dict[str, Any]:
    """Return the record alone, without a look at the arrays.

    Raises:
        StorageError: as for ``open_arrays``.
    """
    return _read_record(uri)[0]


def delete_arrays(uri: str) -> None:
    """Delete what ``save_arrays`` saved there, whole or damaged, the record first; nothing else.

    Raises:
        StorageError: the folder cannot be listed, or a file cannot be deleted.
    """
    names = files.list_names(uri)
    if RECORD_NAME in names:
        files.delete(files.join(uri, RECORD_NAME))
    for name in sorted(names):
        if _ARRAY_FILE.fullmatch(name):
            files.delete(files.join(uri, name))


# Writing.


def _write(path: Path, file: str, array: Array) -> _Entry:
    """Write one safetensors file and return its entry."""
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
    return _Entry(file, _CODES[dtype], shape, 8 + len(text) + size, digest.hexdigest())


def _pieces(array: Array) -> Iterator[Array]:
    """Yield an array in pieces of rows that are small enough to be copied, such as those of a mapped array."""
    if array.ndim == 0:
        yield array
        return
    step = max(1, _PIECE // max(1, array[:1].nbytes))
    yield from (array[begin : begin + step] for begin in range(0, len(array), step))


def _encode(record: Mapping[str, Any], entries: Mapping[str, _Entry]) -> bytes:
    content = {
        "format": _FORMAT,
        "version": VERSION,
        "record": dict(record),
        "arrays": {name: vars(entry) for name, entry in entries.items()},
    }
    return json.dumps(content | {"sha256": _digest(content)}, indent=1, allow_nan=False).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _delete(uri: str, names: Iterable[str]) -> None:
    for name in names:
        try:
            files.delete(files.join(uri, name))
        except DmtError as error:
            logger.warning("An array that nothing refers to stays behind: %s", error)


# Reading.


def _read_record(uri: str) -> tuple[dict[str, Any], dict[str, _Entry]]:
    place = files.join(uri, RECORD_NAME)
    try:
        data = files.read_bytes(place)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            reason = "does not exist: no manifold is saved there, or saving it was interrupted; make it again"
            raise StorageError(place, reason) from error
        raise
    try:
        content = json.loads(data)
        kind, version = content["format"], content["version"]
        if type(kind) is not str or type(version) is not int:
            raise TypeError("format or version")
        if kind == _FORMAT and version == VERSION:
            sha256, digest = content.pop("sha256", None), _digest(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(place, f"is no manifold's record, or a damaged one; {_REMEDY}") from error
    if kind != _FORMAT:
        raise StorageError(place, f"is a record of {kind[:80]!r}, not of a manifold")
    if version != VERSION:
        reason = f"has format version {version}, and this dmt_ray reads version {VERSION}"
        raise StorageError(place, f"{reason}: install the dmt_ray that saved it, or make the manifold again")
    if sha256 != digest:
        raise StorageError(place, f"does not match its own checksum: it was changed or damaged; {_REMEDY}")
    try:
        record, arrays = content["record"], content["arrays"]
        if not isinstance(record, dict) or not isinstance(arrays, dict):
            raise ValueError("record or arrays")
        return record, {name: _parse_entry(name, entry) for name, entry in arrays.items()}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"without {error}" if isinstance(error, KeyError) else f"{error}"
        raise StorageError(place, f"is not a manifold's record ({reason}); {_REMEDY}") from error


def _parse_entry(name: str, entry: Mapping[str, Any]) -> _Entry:
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
        raise ValueError(f"{name}: shape {reprlib.repr(shape)} for a file of {size} bytes")
    return _Entry(file, dtype, tuple(shape), size, sha256)


def _check(path: Path, place: str, entry: _Entry) -> None:
    """Compare a local copy of ``place`` with what the record says of it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise StorageError(place, f"does not exist, and {RECORD_NAME} beside it names it; {_REMEDY}") from None
    except OSError as error:
        raise StorageError(place, error.strerror or "cannot be read") from error
    if size != entry.size:
        raise StorageError(place, f"has {size} bytes instead of {entry.size}: it is truncated or changed; {_REMEDY}")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(place, error.strerror or "cannot be read") from error
    if found != entry.sha256:
        reason = f"has SHA-256 {found[:16]} instead of {entry.sha256[:16]}: it was changed or damaged"
        raise StorageError(place, f"{reason}; {_REMEDY}")


def _cached(place: str, entry: _Entry) -> Path:
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
            raise StorageError(place, f"does not exist, and {RECORD_NAME} beside it names it; {_REMEDY}") from error
        raise
    return path


def _map(path: Path, place: str, entry: _Entry) -> Array:
    """Map the array of a checked safetensors file into memory."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 0 < length <= _LONGEST_HEADER:
                raise ValueError("the length of the header")
            tensor = json.loads(file.read(length))[_TENSOR]
            found = (tensor["dtype"], tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][1])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise StorageError(place, f"is not a safetensors file of one array; {_REMEDY}") from error
    dtype = np.dtype(_DTYPES[entry.dtype])
    expected = math.prod(entry.shape) * dtype.itemsize
    if found != (entry.dtype, entry.shape, entry.size) or entry.size != 8 + length + expected:
        raise StorageError(place, f"holds {found[0]} {found[1]}, not {entry.dtype} {entry.shape}; {_REMEDY}")
    if expected == 0:
        return np.empty(entry.shape, dtype)
    return np.memmap(path, dtype, "r", 8 + length, entry.shape)
