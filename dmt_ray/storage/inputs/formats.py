"""What an input format is: its files, how their images are listed, and how what is inside of them is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from dmt_ray.storage.inputs.listing import InputItem, Listing

#: What names a place inside of a file, behind its URI.
_INSIDE = re.compile(r"^(?P<file>.+?)#(?:row|offset|sample|member)=", re.DOTALL)


@dataclass(frozen=True)
class OptionNames:
    """What the options are called that a message may name."""

    image_column: str = "--image-column"
    uri_column: str = "--uri-column"
    kind: str | None = None
    """Decides the kind of input; None where the place has no such option."""


@dataclass(frozen=True)
class Place:
    """Files of one format that are to be listed."""

    uri: str
    """What the user named, for messages."""
    files: Mapping[str, str | None]
    """The files in order, with their identities."""
    root: str
    """The folder that the ids' paths start at."""
    image_column: str | None = None
    """The column or the ending of the encoded images; None finds it."""
    uri_column: str | None = None
    """The column of the images' URIs; None finds it."""
    limit: int | None = None
    """List only the first so many images."""
    others: Mapping[str, str | None] = field(default_factory=dict)
    """The files of the place that are of no format or of another one, with their identities."""
    options: OptionNames = OptionNames()
    """For messages."""

    def containers(self, used: Sequence[str]) -> dict[str, str]:
        """Return the identities of some of the files, as far as they are known."""
        known = {**self.others, **self.files}
        return {file: identity for file in used if (identity := known[file]) is not None}


@dataclass(frozen=True)
class Fields:
    """The columns of one image's record."""

    values: pa.Table
    """One row; null where the record has no such column, or where its value cannot be stored."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Why a value cannot be stored, by column."""


class ContainerReader(Protocol):
    """Reads what is inside of the files of one format; keeps the last file open."""

    concurrent: bool
    """Several threads may read at once."""

    def read(self, item: InputItem, check_size: Callable[[int], None]) -> bytes | str:
        """Return an item's encoded image, or the URI of the file that has it.

        Parameters:
            item: its ``uri`` names a place inside of a file of this format.
            check_size: raises when an image has too many bytes; called before it is read where its size is known.

        Raises:
            ImageError: kind ``empty`` when there is none, ``changed`` when the place is not the item's any more.
            StorageError: the file cannot be read.
        """
        ...

    def read_record(self, item: InputItem, columns: Sequence[str]) -> dict[str, Any]:
        """Return the values of some columns of an item's record, by name.

        Raises:
            ImageError: kind ``changed`` when the record is not the item's any more.
            StorageError: the record or a column cannot be read.
        """
        ...

    def read_fields(self, item: InputItem, schema: pa.Schema) -> Fields:
        """Return an item's record with the columns of ``schema``; raises as ``read_record``."""
        ...

    def close(self) -> None:
        """Close the file that is open, if any; reading again is allowed."""
        ...


@dataclass(frozen=True)
class InputFormat:
    """One kind of files that hold images or name them. A new one is a module and an entry in ``registry.py``."""

    name: str
    """For messages and ``--input-kind``, such as ``images``."""
    suffixes: frozenset[str]
    """File name suffixes in lower case."""
    listing: Callable[[Place], Listing]
    """Lists the images of such files."""
    holds: Callable[[Place], int] | None = None
    """Tells about how many encoded images such files hold, by at most the first of them; None: they hold none."""
    bytes_columns: bool = False
    """A column, or an ending, of encoded images can be named."""
    uri_columns: bool = False
    """A column of image URIs can be named."""
    only_named: bool = False
    """Counts only where the user names such a file, or a pattern with its suffix."""
    reader: Callable[[], ContainerReader] | None = None
    """Makes what reads inside of such files; None where they hold nothing but one image, or only name some."""


def container_of(uri: str | None) -> str | None:
    """Return the file that a place inside of one lies in; None for a plain file."""
    match = None if uri is None else _INSIDE.match(uri)
    return None if match is None else match["file"]
