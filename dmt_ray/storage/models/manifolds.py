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
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.errors import DmtError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.models.weights import cache_folder

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

RECORD_NAME = "manifold.json"
VERSION = 1
_FORMAT = "dmt_ray manifold"
_TENSOR = "array"
_ALIGNMENT = 64
#: Arrays and blocks are written in pieces of about so many bytes.
_PIECE = 32 * 2**20
_DTYPES = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "|b1"},
    **{f"I{8 * size}": f"{'<' if size > 1 else '|'}i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"{'<' if size > 1 else '|'}u{size}" for size in (1, 2, 4, 8)},
}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_REMEDY = "make the manifold again, or copy it again from where it is whole"


@dataclass(frozen=True)
class RowBlocks:
    """An array that is made a block of rows at a time and never lies in memory whole.

    Attributes:
        shape: of the whole array, at least one axis.
        dtype: of every block.
        blocks: arrays (n, *shape[1:]) whose n add up to shape[0]; gone through once.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    blocks: Iterable[Array]


@dataclass(frozen=True)
class _Entry:
    """What the record says of one array's file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    sha256: str


def save_arrays(uri: str, record: Mapping[str, Any], arrays: Mapping[str, Array | RowBlocks]) -> None:
    """Save arrays and a record, replacing what was saved there; nobody ever sees a part of them.

    Memory stays at a few blocks, whatever the size. For a store, one array at a time lies in ``$TMPDIR`` until it is
    uploaded.

    Parameters:
        uri: a folder: a local path or any URI that fsspec knows.
        record: anything that JSON can hold, such as the config, the layers, and the rows' ids and labels.
        arrays: names (letters, digits, ``_``) to arrays of integers, booleans or floats of 16 to 64 bits.

    Raises:
        StorageError: cannot be written; what was saved there before is untouched.
        ValueError: blocks are not what was declared, or the record or a name cannot be saved.
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


def open_arrays(uri: str, *, verify: bool = True) -> tuple[dict[str, Any], dict[str, Array]]:
    """Open what ``save_arrays`` saved.

    From a store, each array is first downloaded into ``manifolds`` of the cache folder (``$DMT_RAY_CACHE``), under
    its checksum, and kept there: the next opening downloads nothing. Nothing deletes them.

    Parameters:
        uri: the folder.
        verify: read every array once to check its SHA-256 (downloads are checked in any case). Without, sizes, dtypes
            and shapes alone are checked: for a process that knows that another has verified.

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
            _check(path, place, entry, verify=verify)
        else:
            path = _cached(place, entry, verify=verify)
        arrays[name] = _map(path, place, entry)
    return record, arrays


def open_record(uri: str) -> dict[str, Any]:
    """Return the record alone, without a look at the arrays.

    Raises:
        StorageError: as for ``open_arrays``.
    """
    return _read_record(uri)[0]


def delete_arrays(uri: str) -> None:
    """Delete what ``save_arrays`` saved there, the record first; nothing else, and nothing where there is nothing.

    Raises:
        StorageError: the record cannot be read or deleted.
    """
    if not files.exists(files.join(uri, RECORD_NAME)):
        return
    names = [entry.file for entry in _read_record(uri)[1].values()]
    files.delete(files.join(uri, RECORD_NAME))
    _delete(uri, names)


# Writing.


def _write(path: Path, file: str, array: Array | RowBlocks) -> _Entry:
    """Write one safetensors file and return its entry."""
    dtype = np.dtype(array.dtype).newbyteorder("<")
    shape = tuple(int(n) for n in array.shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    header = {_TENSOR: {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        head = len(text).to_bytes(8, "little") + text
        digest.update(head)
        out.write(head)
        for block in _rows(array):
            data = np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8).data
            digest.update(data)
            out.write(data)
    return _Entry(file, _CODES[dtype], shape, 8 + len(text) + size, digest.hexdigest())


def _rows(array: Array | RowBlocks) -> Iterator[Array]:
    """Yield an array in pieces of rows, checked against what was declared."""
    if isinstance(array, RowBlocks):
        rows, dtype = 0, np.dtype(array.dtype)
        for block in array.blocks:
            if block.shape[1:] != tuple(array.shape[1:]) or block.dtype != dtype:
                raise ValueError(f"a block of {block.dtype} {block.shape} in an array of {dtype} {array.shape}")
            rows += len(block)
            yield from _pieces(block)
        if rows != array.shape[0]:
            raise ValueError(f"blocks of {rows} rows in all in an array of {array.shape}")
    else:
        yield from _pieces(array)


def _pieces(array: Array) -> Iterator[Array]:
    """Yield pieces that may be copied without a thought for memory, such as those of a mapped or strided array."""
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
        known = content["format"] == _FORMAT
        version = content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(place, f"is no manifold's record, or a damaged one; {_REMEDY}") from error
    if not known:
        raise StorageError(place, f"is a record of {content['format']!r}, not of a manifold")
    if version != VERSION:
        reason = f"has format version {version}, and this dmt_ray reads version {VERSION}"
        raise StorageError(place, f"{reason}: install the dmt_ray that saved it, or make the manifold again")
    if content.pop("sha256", None) != _digest(content):
        raise StorageError(place, f"does not match its own checksum: it was changed or damaged; {_REMEDY}")
    try:
        entries = {
            str(name): _Entry(**{**entry, "shape": tuple(int(n) for n in entry["shape"])})
            for name, entry in content["arrays"].items()
        }
        sound = all(
            re.fullmatch(r"\w+-[0-9a-f]+\.safetensors", entry.file, re.ASCII)
            and re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
            and entry.dtype in _DTYPES
            for entry in entries.values()
        )
        record = dict(content["record"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(place, f"is not a manifold's record ({type(error).__name__}: {error})") from error
    if not sound:
        raise StorageError(place, "is not a manifold's record: it names files that no manifold has")
    return record, entries


def _check(path: Path, place: str, entry: _Entry, *, verify: bool) -> None:
    """Compare a local copy of ``place`` with what the record says of it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise StorageError(place, f"does not exist, and {RECORD_NAME} beside it names it; {_REMEDY}") from None
    except OSError as error:
        raise StorageError(place, error.strerror or "cannot be read") from error
    if size != entry.size:
        raise StorageError(place, f"has {size} bytes instead of {entry.size}: it is truncated or changed; {_REMEDY}")
    if verify:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StorageError(place, error.strerror or "cannot be read") from error
        if found != entry.sha256:
            raise StorageError(
                place,
                f"has SHA-256 {found[:16]} instead of {entry.sha256[:16]}: it was changed or damaged; {_REMEDY}",
            )


def _cached(place: str, entry: _Entry, *, verify: bool) -> Path:
    """Return the local copy of a file in a store, downloaded when there is none that is sound."""
    path = cache_folder() / "manifolds" / f"{entry.sha256}.safetensors"
    if path.exists():
        try:
            _check(path, str(path), entry, verify=verify)
            return path
        except StorageError as error:
            logger.warning("Downloading again what is damaged in the cache: %s", error)
    try:
        with files.staged(str(path)) as temporary:
            files.fetch(place, temporary)
            _check(temporary, place, entry, verify=True)
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
            if not 0 < length <= entry.size:
                raise ValueError("a header longer than the file")
            tensor = json.loads(file.read(length))[_TENSOR]
            found = (tensor["dtype"], tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][1])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise StorageError(place, f"is not a safetensors file of one array; {_REMEDY}") from error
    dtype = np.dtype(_DTYPES[entry.dtype])
    expected = int(np.prod(entry.shape, dtype=np.int64)) * dtype.itemsize
    if found != (entry.dtype, entry.shape, entry.size) or entry.size != 8 + length + expected:
        raise StorageError(place, f"holds {found[0]} {found[1]}, not {entry.dtype} {entry.shape}; {_REMEDY}")
    if expected == 0:
        return np.empty(entry.shape, dtype)
    return np.memmap(path, dtype, "r", 8 + length, entry.shape)
