"""The errors of files and folders; their messages hold no credentials."""

from __future__ import annotations

from dmt_ray.errors import DmtError
from dmt_ray.masking import masked
from dmt_ray.words import counted


class StorageError(DmtError):
    """A file or folder cannot be listed, read or written.

    Parameters:
        uri: the place; credentials in it are masked.
        reason: what is wrong, without a full stop.
    """

    def __init__(self, uri: str, reason: str) -> None:
        self.uri = masked(uri)
        self.reason = masked(reason)
        super().__init__(f"{self.uri}: {self.reason}.")

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.reason)


class TooLargeError(StorageError):
    """A file has more bytes than the caller allows.

    Parameters:
        uri: the place; credentials in it are masked.
        size: of the file, in bytes.
        limit: what is allowed, in bytes.
    """

    def __init__(self, uri: str, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(uri, f"has {counted(size, 'byte')}, and the limit is {limit}")

    def __reduce__(self) -> tuple[type[TooLargeError], tuple[str, int, int]]:  # type: ignore[override]
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.size, self.limit)


class ChangedFileError(StorageError):
    """A file is no longer the one that the caller knows.

    Parameters:
        uri: the place; credentials in it are masked.
        known: the identity that the caller knows, see ``files.identity``.
        found: the identity that the file has; None where the place does not say.
    """

    def __init__(self, uri: str, known: str, found: str | None) -> None:
        self.known, self.found = known, found
        super().__init__(uri, f"has changed: it was {known}, and is {found or 'without an identity'} now")

    def __reduce__(self) -> tuple[type[ChangedFileError], tuple[str, str, str | None]]:  # type: ignore[override]
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.known, self.found)


class RefusedError(StorageError):
    """A list or a table names a file that it may not name; see ``files.policy``.

    Parameters:
        uri: the place; credentials in it are masked.
        reason: why, without a full stop.
        allow: what ``--allow-uri`` would have to name.
    """

    def __init__(self, uri: str, reason: str, allow: str) -> None:
        self.why, self.allow = reason, allow
        super().__init__(uri, f"{reason}; --allow-uri {allow} allows it")

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, str, str]]:  # type: ignore[override]
        """Keep the fields when the error crosses a process boundary."""
        return type(self), (self.uri, self.why, self.allow)
