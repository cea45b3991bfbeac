"""Files of an export are created, never overwritten, unless the manifest says that this export wrote them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.hashing import HashingFile, file_sha256

#: Folders whose names are kept.
_FOLDERS = 64


class Destination:
    """Where an export writes.

    Parameters:
        dest: the folder or URI.
    """

    def __init__(self, dest: str) -> None:
        self.dest = dest
        self._names: OrderedDict[str, set[str]] = OrderedDict()
        self._swept: set[str] = set()
        self._lock = Lock()

    def is_there(self, path: str) -> bool:
        """Tell whether a file was there when its folder was first asked for."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            names = self._names.get(folder)
            if names is None:
                names = self._names[folder] = files.list_names(files.join(self.dest, folder))
                if len(self._names) > _FOLDERS:
                    self._names.popitem(last=False)
            self._names.move_to_end(folder)
        return name in names

    def put(self, path: str, data: bytes, earlier: Mapping[str, str]) -> bool:
        """Write a file.

        Parameters:
            path: relative to the export.
            data: its content.
            earlier: SHA-256 of files that this export wrote before, by path: these may be replaced.

        Returns:
            False when a file of these bytes is there already.

        Raises:
            SettingsError: another file is there; names it.
            StorageError: it cannot be written.
        """
        self._sweep(path)
        uri = files.join(self.dest, path)
        if files.write_new(uri, data):
            return True
        if not self._may_replace(uri, path, hashlib.sha256(data).hexdigest(), earlier):
            return False
        files.write_atomic(uri, data)
        return True

    @contextmanager
    def create(self, path: str) -> Iterator[HashingFile]:
        """Write a large file in bounded memory; it gets its name, if that is free, when the block ends.

        Raises:
            SettingsError: another file is there; names it.
            StorageError: it cannot be written.
        """
        self._sweep(path)
        uri = files.join(self.dest, path)
        with files.create_new(uri) as made:
            hashing = HashingFile(made.file.write)
            yield hashing
        if not made.created:
            self._may_replace(uri, path, hashing.hexdigest(), {})

    def _sweep(self, path: str) -> None:
        """Delete what killed exports left in the folder of a file, the first time that it is written to."""
        folder = path.rpartition("/")[0]
        with self._lock:
            if folder in self._swept:
                return
            self._swept.add(folder)
        files.sweep_temporary(files.join(self.dest, folder))

    def remove(self, path: str, sha256: str) -> None:
        """Delete a file that this export wrote and that is still as it was written.

        Raises:
            StorageError: it cannot be read or deleted.
        """
        uri = files.join(self.dest, path)
        if files.exists(uri) and file_sha256(uri) == sha256:
            files.delete(uri)

    def _may_replace(self, uri: str, path: str, sha256: str, earlier: Mapping[str, str]) -> bool:
        """Tell whether a file that is there is an earlier one of this export, and not the wanted one.

        Raises:
            SettingsError: it is neither.
        """
        found = file_sha256(uri)
        if found == sha256:
            return False
        if path in earlier and earlier[path] == found:
            return True
        raise SettingsError(
            f"{masked(uri)} is there already, and this export did not write it: move it away, or name another DEST."
        )
