"""Images named in a text file: one path or URI per line."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.masking import without_secrets
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.files.uris import escaped
from dmt_ray.storage.inputs.formats import InputFormat, Place
from dmt_ray.storage.inputs.listing import (
    BATCH_ROWS,
    Listing,
    folder_of,
    identities_of,
    listing_batch,
    naming,
    relative,
)

#: File name suffixes (lower case) of list files.
LIST_SUFFIXES = frozenset({".txt", ".lst"})


def list_named(place: Place) -> Listing:
    """List what the lines of list files name. Blank lines, and lines that begin with ``#``, mean nothing.

    An id depends on its own line alone, so that other lines may come and go: the path relative to the list file's
    folder, or the full path without scheme, query and leading slash for what lies elsewhere. Where two of those are
    the same, all ids are ``<list file>#<line number>``.

    Raises:
        SettingsError: no line, the same file twice (with the numbers of both lines), or a file that is no text.
    """
    found, limit = list(place.files), place.limit
    hashes = np.fromiter((hash(entry) for _, _, entry in _entries(found, limit)), np.int64)
    if not len(hashes):
        raise SettingsError(f"No image found in {masked(place.uri)}: no line of it names a file.")
    if _repeated(hashes):
        _refuse_duplicates(found, limit)
    ids = (_path_id(entry, folder_of(file)) for file, _, entry in _entries(found, limit))
    by_path = not _repeated(np.fromiter(map(hash, ids), np.int64))
    return Listing(functools.partial(_batches, found, place.root, limit, by_path), pa.schema([]))


def _batches(found: list[str], root: str, limit: int | None, by_path: bool) -> Iterator[pa.RecordBatch]:
    ids: list[str] = []
    uris: list[str] = []
    last = found[0]
    for file, number, entry in _entries(found, limit):
        if ids and (file != last or len(ids) == BATCH_ROWS):
            yield listing_batch(ids, uris, identities=identities_of(uris, last), origins=naming(last))
            ids, uris = [], []
        last = file
        ids.append(_path_id(entry, folder_of(file)) if by_path else f"{relative(file, root)}#{number}")
        uris.append(entry)
    if ids:
        yield listing_batch(ids, uris, identities=identities_of(uris, last), origins=naming(last))


def _entries(found: list[str], limit: int | None) -> Iterator[tuple[str, int, str]]:
    """Yield the list file, the line's number from 1, and the full URI that it names."""
    count = 0
    for file in found:
        folder = folder_of(file)
        try:
            with files.open_file(file) as source, io.TextIOWrapper(source, "utf-8-sig", "surrogateescape") as lines:
                for number, line in enumerate(lines, 1):
                    if count == limit:
                        return
                    name = line.strip()
                    if name and not name.startswith("#"):
                        count += 1
                        yield file, number, _full_uri(name, folder, file, number)
        except StorageError as error:
            raise SettingsError(f"Cannot read {masked(file)}: {error.reason}.") from error


def _full_uri(name: str, folder: str, file: str, number: int) -> str:
    """Return the full URI that a line names; bytes that are not UTF-8 are escaped where there is such a file.

    Raises:
        SettingsError: there is none.
    """
    known = escaped(name)
    uri = files.resolve(known, folder)
    if known != name and not (files.is_local(file) and files.is_local(uri) and files.exists(uri)):
        raise SettingsError(
            f"{masked(file)} is not a list of paths: its line {number} is no UTF-8 text, and names no file that is "
            "there."
        )
    return uri


def _path_id(entry: str, folder: str) -> str:
    if entry.startswith(folder.rstrip("/") + "/"):
        return relative(entry, folder)
    if "://" in entry:
        return without_secrets(entry).partition("://")[2].lstrip("/")
    return entry.lstrip("/~")


def _repeated(hashes: npt.NDArray[np.int64]) -> bool:
    return len(np.unique(hashes)) < len(hashes)


def _refuse_duplicates(found: list[str], limit: int | None) -> None:
    first: dict[str, tuple[str, int]] = {}
    for file, number, entry in _entries(found, limit):
        if entry in first:
            before, line = first[entry]
            where = f"line {line}" if before == file else f"line {line} of {masked(before)}"
            raise SettingsError(
                f"{masked(file)}: line {number} names {masked(entry)} again, after {where}; every file may be listed "
                "once."
            )
        first[entry] = (file, number)


LISTS = InputFormat("list", LIST_SUFFIXES, list_named, only_named=True)
