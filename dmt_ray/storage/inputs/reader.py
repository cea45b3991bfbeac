"""Reads what a listing names, from several threads at once: images, and the records that they belong to.

An item is read only if it is still what was planned: photos, tables and archives are told by their identity, rows and
members by what proves them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dmt_ray.errors import ImageError
from dmt_ray.storage import files
from dmt_ray.storage.files import ChangedFileError, ListPolicy, RefusedError, StorageError, TooLargeError, masked
from dmt_ray.storage.inputs.formats import ContainerReader, Fields, container_of
from dmt_ray.storage.inputs.listing import INSIDE, NAMED_AFAR, NAMED_HERE, InputItem
from dmt_ray.storage.inputs.registry import format_of
from dmt_ray.words import counted

#: How long an identity that a store gave is taken to hold. A local file's is looked at before each read.
_TRUSTED_SECONDS = 10.0


class InputReader:
    """Reads items and their records; use it as a context manager, or ``close`` it.

    Of a table it keeps the last rows that were read, in a fixed amount of memory: rows in order cost one pass over
    the file.

    Parameters:
        max_bytes: a larger image is refused, before it is read where its size is known. None: any size.
        containers: identities of the tables and archives as they were planned, by URI; others are not checked.
        allowed: what lists and tables may name beyond what ``files.ListPolicy`` lets them (``--allow-uri``).
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        containers: Mapping[str, str] | None = None,
        allowed: Sequence[str] = (),
    ) -> None:
        self.max_bytes = max_bytes
        self._allowed = tuple(allowed)
        self._containers = containers or {}
        self._trusted_until: dict[str, float] = {}
        self._readers: dict[str, ContainerReader] = {}
        self._lock = threading.RLock()

    def read_item(self, item: InputItem, *, accept_changed: bool = False) -> bytes:
        """Return an item's encoded image.

        Parameters:
            item: from a listing.
            accept_changed: a photo of its own file is taken as it is now.

        Raises:
            ImageError: kind ``empty`` when a table's cell is null, ``too-large`` for more than ``max_bytes``,
                ``changed`` when the photo, its table or its archive is not what was planned, and ``refused`` when a
                list or table names what it may not name.
            StorageError: the file, row or column cannot be read.
            SettingsError: the URI's scheme is unknown or its driver is not installed.
        """
        uri, policy = item.uri, self._policy_of(item)
        with self._reading(uri if _is_inside(item) else None) as reader:
            if reader is not None:
                found = reader.read(item, self._check_size)
                if isinstance(found, bytes):
                    return found
                uri, policy = found, self._policy(container_of(item.uri))
        return self._read_file(uri, None if accept_changed else item.identity, policy)

    def read_file(self, uri: str, named_by: str | None = None) -> bytes:
        """Return the bytes of a plain file; raises as ``read_item``.

        Parameters:
            uri: the file.
            named_by: the record (see ``InputItem``) that names the file; None where the user does.
        """
        return self._read_file(uri, None, None if named_by is None else self._policy(named_by))

    def read_record(self, item: InputItem, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of some columns of an item's record, by name.

        Parameters:
            item: from a listing.
            columns: of a table, its columns (those of CSV are text); of an archive's sample, its members, as text for
                json, txt and cls, as bytes for others, None for what the sample lacks.

        Raises:
            ImageError: kind ``changed`` when the record is not what was planned.
            StorageError: the item has no record, or the record or a column cannot be read.
        """
        with self._reading(item.record) as reader:
            if reader is None:
                raise _no_record(item, columns)
            return reader.read_record(item, columns)

    def read_fields(self, item: InputItem, schema: pa.Schema) -> Fields:
        """Return an item's record with the columns of ``schema``; raises as ``read_record``."""
        with self._reading(item.record) as reader:
            if reader is None:
                raise _no_record(item, schema.names)
            return reader.read_fields(item, schema)

    def close(self) -> None:
        """Close the files that are open; reading again is allowed."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()

    def __enter__(self) -> InputReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self, uri: str | None) -> Iterator[ContainerReader | None]:
        """Yield what reads inside of a file, alone where only one thread may; None for a plain file."""
        file = container_of(uri)
        kind = None if file is None else format_of(file)
        if file is None or kind is None or kind.reader is None:
            yield None
            return
        with self._lock:
            if kind.name not in self._readers:
                self._readers[kind.name] = kind.reader()
            reader = self._readers[kind.name]
            self._check_container(file)
            if not reader.concurrent:
                yield reader
                return
        yield reader

    def _check_container(self, file: str) -> None:
        """Raise ImageError when a table or archive is not the one that was planned; it may change during a run."""
        planned = self._containers.get(file)
        now = time.monotonic()
        if planned is None or now < self._trusted_until.get(file, 0.0):
            return
        if files.identity(file) != planned:
            raise ImageError("changed", f"{masked(file)} has changed since the plan was made.")
        if not files.is_local(file):
            self._trusted_until[file] = now + _TRUSTED_SECONDS

    def _policy(self, container: str | None) -> ListPolicy:
        return ListPolicy(container is None or not files.is_local(container), self._allowed)

    def _policy_of(self, item: InputItem) -> ListPolicy | None:
        """Return what holds for a file that a list or table names; None for one in the place that the user named."""
        if item.origin in (NAMED_HERE, NAMED_AFAR):
            return ListPolicy(item.origin == NAMED_AFAR, self._allowed)
        return None

    def _read_file(self, uri: str, identity: str | None, policy: ListPolicy | None) -> bytes:
        try:
            return files.read_bytes(uri, max_bytes=self.max_bytes, identity=identity, policy=policy)
        except RefusedError as error:
            raise ImageError("refused", str(error)) from error
        except TooLargeError as error:
            self._check_size(error.size)
            raise
        except ChangedFileError as error:
            raise ImageError(
                "changed", f"{masked(uri)} has changed since the plan was made; --retry-failed takes it as it is now."
            ) from error

    def _check_size(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise ImageError(
                "too-large",
                f"The file has {counted(size, 'byte')}; the limit is {self.max_bytes} (raise it with --max-bytes).",
            )


def _is_inside(item: InputItem) -> bool:
    """Tell whether an item's URI is a place inside of a table or an archive, as its listing made it."""
    if item.origin is not None:
        return item.origin == INSIDE
    # A plan of an earlier version: only a place in the item's own table or archive counts.
    own = container_of(item.record)
    return item.identity is None and own is not None and item.uri.startswith(f"{own}#")


def _no_record(item: InputItem, columns: Sequence[str]) -> StorageError:
    return StorageError(
        item.record or "the input", f"belongs to no table or archive, so it has no column {', '.join(columns)}"
    )
