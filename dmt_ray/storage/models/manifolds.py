"""Saved manifolds: a JSON record and one safetensors file per array, at any URI, written and read in bounded memory.

    PLACE/manifold.json                 format, version, the caller's record, and of each array its file, dtype,
                                        shape, size and SHA-256; written last, with a checksum of itself
    PLACE/<array>-<token>.safetensors   the array, under the name ``array``; any safetensors reader opens it

The token is new with each saving: whoever reads while a manifold is saved anew sees all of the old one or of the new.
Long arrays may come in chunks of rows, which are written before (``chunks.py``) and opened when they are needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from dmt_ray.errors import DmtError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.storage.models.array_files import (
    RECORD_NAME,
    REMEDY,
    Array,
    ArrayFile,
    check_array,
    file_name,
    is_array_file,
    local_array,
    parse_entry,
    save_array,
)
from dmt_ray.storage.models.chunks import ChunkedRows, chunk_of

logger = logging.getLogger(__name__)

VERSION = 1
_FORMAT = "dmt_ray manifold"


def save_arrays(
    uri: str,
    record: Mapping[str, Any],
    arrays: Mapping[str, Array],
    chunks: Mapping[str, ArrayFile] | None = None,
    token: str | None = None,
) -> None:
    """Save arrays and a record, replacing what was saved there; nobody ever sees a part of them.

    Memory stays at a few pieces of an array, which may be mapped from a file. For a store, one array at a time lies
    in ``$TMPDIR`` until it is uploaded.

    Parameters:
        uri: a folder: a local path or any URI that fsspec knows.
        record: anything that JSON can hold, such as the config, the layers, and the rows' ids and labels.
        arrays: names (letters, digits, ``_``) to arrays of integers, booleans or floats of 16 to 64 bits.
        chunks: of arrays that ``ChunkWriter`` has written there already, by their names.
        token: of hexadecimal digits, for the files' names; by default it is drawn.

    Raises:
        StorageError: cannot be written; what was saved there before is untouched.
        ValueError: the record, a name or a dtype cannot be saved.
    """
    for name, array in arrays.items():
        check_array(name, array.dtype)
    json.dumps(record, allow_nan=False)  # fail before gigabytes are written
    place = files.join(uri, RECORD_NAME)
    before: set[str] = set()
    with contextlib.suppress(DmtError):
        before = {entry.file for entry in _read_record(uri)[1].values()}
    token = token or secrets.token_hex(6)
    entries: dict[str, ArrayFile] = {}
    try:
        for name, array in arrays.items():
            entries[name] = save_array(uri, file_name(name, token), array)
        files.write_atomic(place, _encode(record, {**entries, **(chunks or {})}))
    except BaseException:
        _delete(uri, {entry.file for entry in entries.values()} - before)
        raise
    _delete(uri, before - {entry.file for entry in (*entries.values(), *(chunks or {}).values())})


def open_arrays(uri: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Open what ``save_arrays`` saved, but for chunks; every array is read once to check its SHA-256.

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
    arrays = {name: local_array(uri, entry) for name, entry in entries.items() if chunk_of(name) is None}
    return record, arrays


def open_chunks(uri: str, name: str) -> ChunkedRows:
    """Return an array that was saved in chunks; none of them is read yet.

    Raises:
        StorageError: as for ``open_arrays``, or there is no such array.
    """
    entries = _read_record(uri)[1]
    chunks = [entry for key, entry in sorted(entries.items()) if (chunk_of(key) or ("", 0))[0] == name]
    if not chunks:
        raise StorageError(files.join(uri, RECORD_NAME), f"names no {name}; {REMEDY}")
    return ChunkedRows(uri, chunks)


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
        if is_array_file(name):
            files.delete(files.join(uri, name))


# Writing.


def _encode(record: Mapping[str, Any], entries: Mapping[str, ArrayFile]) -> bytes:
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


def _read_record(uri: str) -> tuple[dict[str, Any], dict[str, ArrayFile]]:
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
        raise StorageError(place, f"is no manifold's record, or a damaged one; {REMEDY}") from error
    if kind != _FORMAT:
        raise StorageError(place, f"is a record of {kind[:80]!r}, not of a manifold")
    if version != VERSION:
        reason = f"has format version {version}, and this dmt_ray reads version {VERSION}"
        raise StorageError(place, f"{reason}: install the dmt_ray that saved it, or make the manifold again")
    if sha256 != digest:
        raise StorageError(place, f"does not match its own checksum: it was changed or damaged; {REMEDY}")
    try:
        record, arrays = content["record"], content["arrays"]
        if not isinstance(record, dict) or not isinstance(arrays, dict):
            raise ValueError("record or arrays")
        return record, {name: parse_entry(name, entry) for name, entry in arrays.items()}
    except (ValueError, KeyError, TypeError) as error:
        reason = f"without {error}" if isinstance(error, KeyError) else f"{error}"
        raise StorageError(place, f"is not a manifold's record ({reason}); {REMEDY}") from error
