"""Files on local (or locally mounted) disks: searched, and written so that nobody sees half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.files.guarding import reason_of
from dmt_ray.storage.files.uris import MAGIC, escaped

logger = logging.getLogger(__name__)

#: The hidden names under which files are written before they are renamed.
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{24}")
#: What a file system says that has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})


def identity_of(status: os.stat_result) -> str:
    """Return a local file's identity: its size in bytes and its modification time in nanoseconds."""
    return f"size={status.st_size} mtime_ns={status.st_mtime_ns}"


def identity(path: Path) -> str | None:
    """Return the identity of the file of a path; None when it is a folder, or missing, or cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # such as a link to itself, or a name that no file can have
        return None
    return None if stat.S_ISDIR(status.st_mode) else identity_of(status)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; what else lies under the name is refused at once.

    Opening a named pipe waits for a writer, and a device may have no end.

    Raises:
        OSError: missing, forbidden, a folder, or no regular file.
    """
    _check_regular(path.stat())
    # Whatever takes the name meanwhile is not waited for either.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def copy_to(path: Path, target: Path) -> None:
    """Copy a regular file; raises as ``open_file``."""
    with open_file(path) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    for is_kind, name in (
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
    ):
        if is_kind(status.st_mode):
            raise OSError(errno.EINVAL, f"is a {name}, not a file")


def modified_times(folder: Path) -> dict[str, float]:
    """Return when the visible files of a folder were last changed, in seconds since 1970, by name."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {
            entry.name: entry.stat().st_mtime
            for entry in entries
            if not entry.name.startswith(".") and entry.is_file()
        }


def find(path: Path) -> tuple[str | None, set[str]]:
    """Return the one file that a path names, or else all files in the folder or of the glob that it is.

    Names that are not UTF-8 come escaped, see ``uris.escaped``.

    Raises:
        StorageError: two names are the same once they are escaped, or a folder cannot be searched.
        OSError: the path names a pipe, a device or the like.
    """
    if path.is_file():
        return escaped(str(path)), set()
    if path.is_dir():
        return None, _escaped(_walk(str(path)))
    if path.exists():
        _check_regular(path.stat())
    if not MAGIC.search(str(path)):
        return None, set()
    root, pattern = split_glob(path)
    found: set[str] = set()
    for match in _matches(str(root), pattern):
        if not os.path.isdir(match):  # noqa: PTH112 (a million of them)
            found.add(match)
        elif "**" not in pattern:
            found.update(_walk(match))
    return None, _escaped(found)


def _matches(root: str, pattern: str) -> Iterator[str]:
    """Yield what matches a pattern in a folder; ``**`` means any folders inside of it, and no hidden ones."""
    head, deep, rest = _at_deep(pattern)
    if not deep:
        # Path.glob would find hidden names.
        for name in glob.iglob(pattern, root_dir=root):  # noqa: PTH207
            yield os.path.join(root, name)  # noqa: PTH118
        return
    for base in _matches(root, head) if head else [root]:
        for folder, names in _folders(base) if os.path.isdir(base) else ():  # noqa: PTH112
            yield from _matches(folder, rest) if rest else names


def _at_deep(pattern: str) -> tuple[str, bool, str]:
    """Split a pattern at its first part that is ``**``, and tell whether it has one."""
    parts = pattern.split("/")
    if "**" not in parts:
        return pattern, False, ""
    index = parts.index("**")
    return "/".join(parts[:index]), True, "/".join(parts[index + 1 :])


def _walk(folder: str) -> Iterator[str]:
    """Yield the files of a folder to any depth, as ``_folders`` does."""
    for _, names in _folders(folder):
        yield from names


def _folders(folder: str, above: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and those in it to any depth, each with its files; hidden names are left out.

    Links are followed, also two to the same folder; only one to a folder that it lies in itself is not.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            seen = sorted((each.name, each.path, _is_folder(each)) for each in entries if each.name[0] != ".")
    except OSError as error:
        raise StorageError(escaped(str(error.filename or folder)), reason_of(error)) from error
    yield folder, [path for _, path, is_folder in seen if not is_folder]
    for _, path, is_folder in seen:
        if is_folder:
            yield from _folders(path, above | {real})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell a folder, or a link to one, from anything else, such as a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _escaped(paths: Iterable[str]) -> set[str]:
    """Return paths with their names escaped.

    Raises:
        StorageError: two of them are the same then.
    """
    found = set(paths)
    for path in [path for path in found if escaped(path) != path]:
        name = escaped(path)
        if name in found:
            raise StorageError(name, "two files have this name once it is written as UTF-8; rename one of them")
        found.remove(path)
        found.add(name)
    return found


def split_glob(path: Path) -> tuple[Path, str]:
    """Split a path into the part before any glob character (or that exists as it stands) and the pattern after it."""
    root = Path(path.anchor)
    parts = path.parts[1:]
    for index, part in enumerate(parts):
        if MAGIC.search(part) and not (root / part).is_dir():
            return root, "/".join(parts[index:])
        root = root / part
    return path.parent, path.name


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a whole file under a hidden name and rename it; see ``staged``. A private one has the mode 0600."""
    with staged(path) as temporary:
        if private:
            temporary.chmod(0o600)
        temporary.write_bytes(data)


def write_new(path: Path, data: bytes) -> bool:
    """Create a file with all its bytes at once; return False, and change nothing, where the name is taken."""
    with _hidden(path) as temporary:
        temporary.write_bytes(data)
        return publish_new(temporary, path)


@contextlib.contextmanager
def hidden_beside(path: Path) -> Iterator[Path]:
    """Yield an empty file with a hidden name beside a file, for ``publish_new``; it is gone at the end."""
    with _hidden(path) as temporary:
        yield temporary


def publish_new(temporary: Path, path: Path) -> bool:
    """Give a complete file a name; return False, and change nothing, where the name is taken."""
    _flush(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links, the empty name is claimed first and then replaced.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        temporary.replace(path)
    _flush_folder(path.parent)
    return True


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside a file; what is written there becomes the file, flushed to the disk, at the end."""
    with _hidden(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    _flush_folder(path.parent)


def move(path: Path, target: Path) -> None:
    """Rename a file, into a folder that is made if missing.

    Raises:
        OSError: with ``EXDEV`` where the target lies on another disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError("is a folder")
    path.replace(target)
    _flush_folder(target.parent)


def sweep_temporary(folder: Path, older_than_s: float) -> int:
    """Delete the hidden files of killed writers in one folder; return how many."""
    swept = 0
    before = time.time() - older_than_s
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)  # noqa: PTH108
                    swept += 1
            except FileNotFoundError:
                continue  # its writer is alive and has renamed it, or another process sweeps too
            except OSError as error:
                logger.warning("A temporary file of a killed writer stays behind: %s", error)
    return swept


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[Path]:
    """Yield an empty file with a hidden name beside ``path``; it is gone at the end, unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError("is a folder")
    temporary = path.with_name(f".tmp-{secrets.token_hex(12)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(folder)
