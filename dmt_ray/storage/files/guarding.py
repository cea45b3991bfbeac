"""Actions on files run with retries; the many exceptions of disks and stores become ``StorageError``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dmt_ray.errors import DmtError
from dmt_ray.masking import masked
from dmt_ray.storage.errors import ChangedFileError, StorageError, TooLargeError
from dmt_ray.storage.files import retry
from dmt_ray.storage.files.uris import is_local

T = TypeVar("T")


def check_size(uri: str, size: int | None, max_bytes: int | None) -> None:
    """Refuse a file of more than ``max_bytes``; None stands for an unknown size, or for no limit.

    Raises:
        TooLargeError: it has more.
    """
    if size is not None and max_bytes is not None and size > max_bytes:
        raise TooLargeError(uri, size, max_bytes)


def check_identity(uri: str, found: str | None, known: str | None) -> None:
    """Refuse a file that is not the known one; ``known`` None accepts any.

    Raises:
        ChangedFileError: the identities differ, or the place does not tell one.
    """
    if known is not None and found != known:
        raise ChangedFileError(uri, known, found)


def guard(uri: str, action: Callable[[], T]) -> T:
    """Run an action on a file; on a store, an error that may pass is tried again. What remains is a StorageError."""
    try:
        if is_local(uri):
            return action()
        return retry.call(action, lambda error: f"{masked(uri)}: {masked(reason_of(error))}")
    except DmtError:
        raise
    except Exception as error:
        for cause in retry.chain(error):
            if isinstance(cause, DmtError):  # fsspec makes a missing file of whatever a web server's driver raises
                raise cause from None
        raise StorageError(uri, reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Return in a few words what an exception means, without a full stop."""
    known: list[tuple[type[BaseException], str]] = [
        (FileNotFoundError, "does not exist"),
        (IsADirectoryError, "is a folder, not a file"),
        (NotADirectoryError, "a part of the path is a file, not a folder"),
        (FileExistsError, "a part of the path is a file, not a folder"),
    ]
    if isinstance(error, FileNotFoundError) and error.__cause__ and retry.may_pass(error):
        error = error.__cause__  # a web server's "busy" comes as a missing file
    for kind, words in known:
        if isinstance(error, kind):
            return words
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    detail = " ".join(detail.split()).rstrip(".")[:300]
    if isinstance(error, PermissionError):
        return f"permission denied ({detail})" if detail.lower() != "permission denied" else "permission denied"
    return detail or type(error).__name__
