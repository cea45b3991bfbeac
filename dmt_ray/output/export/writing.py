"""Files of an export are created, never overwritten, unless the manifest says that this export wrote them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.hashing import HashingFile, file_sha256

#: Folders whose names are kept.
_FOLDERS = 64


@dataclass(frozen=True)
class Put:
    """What ``Destination.put`` did."""

    created: bool
    """The file was not there before."""
    sha256: str
    """Of the file that is there now."""
    size: int


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

    def put(
        self,
        path: str,
        data: bytes,
        earlier: Mapping[str, str],
        is_same: Callable[[bytes], bool] | None = None,
    ) -> Put:
        """Write a file, unless it is there already.

        Parameters:
            path: relative to the export.
            data: its content.
            earlier: SHA-256 of files that this export wrote before, by path: these may be replaced.
            is_same: tells of other bytes whether they are as good, as another signature under the same picture is.

        Raises:
            SettingsError: another file is there; names it.
            StorageError: it cannot be written.
        """
        self._sweep(path)
        uri = files.join(self.dest, path)
        wanted = Put(True, hashlib.sha256(data).hexdigest(), len(data))
        if files.write_new(uri, data):
            return wanted
        found = file_sha256(uri)
        if found == wanted.sha256:
            return replace(wanted, created=False)
        if is_same is not None and is_same(content := files.read_bytes(uri)):
            return Put(False, hashlib.sha256(content).hexdigest(), len(content))
        if earlier.get(path) != found:
            raise _not_ours(uri)
        files.write_atomic(uri, data)
        return wanted

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
        if not made.created and file_sha256(uri) != hashing.hexdigest():
            raise _not_ours(uri)

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
        if self.holds(path, sha256):
            files.delete(files.join(self.dest, path))

    def holds(self, path: str, sha256: str) -> bool:
        """Tell whether a file is there and has a checksum.

        Raises:
            StorageError: it cannot be read.
        """
        uri = files.join(self.dest, path)
        return files.exists(uri) and file_sha256(uri) == sha256


def _not_ours(uri: str) -> SettingsError:
    return SettingsError(
        f"{masked(uri)} is there already, and this export did not write it: move it away, or name another DEST."
    )
