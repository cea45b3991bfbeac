"""What a listing is: images as stable ids with URIs that can be read later, in Arrow batches rather than objects."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import SettingsError
from dmt_ray.masking import without_secrets
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.passed_over import PassedOver

#: One row per image; see ``InputItem``.
LISTING_SCHEMA = pa.schema(
    [
        *(("id", pa.string()), ("uri", pa.string()), ("record", pa.string()), ("identity", pa.string())),
        ("origin", pa.string()),
    ]
)

#: Where a URI comes from: the listing found the file in the place that the user named,
FOUND = "found"
#: or made the URI, of a place inside of a table or an archive that it found;
INSIDE = "inside"
#: or a list or table names it that lies on this machine, or in a store or on a server. See ``files.ListPolicy``.
NAMED_HERE, NAMED_AFAR = "named here", "named afar"

#: Rows of a batch: a few megabytes.
BATCH_ROWS = 65_536

#: What parsers of Arrow and DuckDB say before they quote a row or a value.
_QUOTING = re.compile(r"(got \d+|invalid value|not convert(?: string)?|parse string|cast value|decode byte)\b.*")

_REMOTE = r"^[A-Za-z][A-Za-z0-9+.\-]*://"


@dataclass(frozen=True, slots=True)
class InputItem:
    """One image to work on."""

    id: str
    """Unique in its listing, the same in every listing of the same place."""
    uri: str
    """What holds the image: a file, a cell of a table, or a member of an archive."""
    record: str | None = None
    """The row or sample that the image belongs to, where it belongs to one."""
    identity: str | None = None
    """Of the file at ``uri`` (see ``files.identity``); None inside of one, or where nothing tells."""
    origin: str | None = None
    """``FOUND``, ``INSIDE``, ``NAMED_HERE`` or ``NAMED_AFAR``; None in a plan of an earlier version. Only where it is
    ``INSIDE`` does ``#row=`` or ``#offset=`` mean anything in ``uri``."""


@dataclass(frozen=True)
class Listing:
    """The images of one place, in listing order."""

    batches: Callable[[], Iterator[pa.RecordBatch]]
    """Gives batches of ``LISTING_SCHEMA``; may be called more than once, and holds one batch at a time."""
    input_columns: pa.Schema
    """The columns of the images' records, by their own names, without the image's (or its URI's) and the ids'."""
    containers: Mapping[str, str] = field(default_factory=dict)
    """Identities of the tables and archives whose rows and members are read by their place, by URI."""
    proves_rows: bool = True
    """Each row of those can prove its id: by an id, a URI or a key of its own."""
    tables: tuple[str, ...] = ()
    """URIs of the table files that say something of the images; empty where there are none."""
    row_of: npt.NDArray[np.int64] | None = None
    """The number of each image's row in all ``tables`` together, -1 where it has none; None where the images are the
    rows, in order."""
    kind: str = ""
    """Name of the input format."""
    passed_over: PassedOver = field(default_factory=PassedOver)
    """What the place holds besides."""

    def __iter__(self) -> Iterator[InputItem]:
        """Yield the items one by one."""
        for batch in self.batches():
            yield from items_of(batch)


def items_of(rows: pa.RecordBatch | pa.Table) -> list[InputItem]:
    """Return rows of ``LISTING_SCHEMA`` as items."""
    columns = [rows.column(name).to_pylist() for name in LISTING_SCHEMA.names]
    return [InputItem(*values) for values in zip(*columns, strict=True)]


def listing_batch(
    ids: pa.Array | Sequence[str],
    uris: pa.Array | Sequence[str],
    records: pa.Array | Sequence[str] | None = None,
    identities: pa.Array | Sequence[str | None] | None = None,
    origins: pa.Array | str = FOUND,
) -> pa.RecordBatch:
    """Make a batch of ``LISTING_SCHEMA``; ``origins`` is one for all rows, or one for each.

    Raises:
        SettingsError: a name is not UTF-8, so that no table can hold it.
    """
    nulls = pa.nulls(len(ids), pa.string())
    columns = []
    for values in (ids, uris, nulls if records is None else records, nulls if identities is None else identities):
        try:
            columns.append(values if isinstance(values, pa.Array) else pa.array(values, pa.string()))
        except UnicodeEncodeError as error:
            name = str(error.object).encode("utf-8", "backslashreplace").decode()
            raise SettingsError(f"The name {masked(name)} is not UTF-8; rename it.") from error
    columns.append(pa.repeat(pa.scalar(origins), len(ids)) if isinstance(origins, str) else origins)
    return pa.RecordBatch.from_arrays(columns, schema=LISTING_SCHEMA)


def naming(file: str) -> str:
    """Return the origin of what a list or table names."""
    return NAMED_HERE if files.is_local(file) else NAMED_AFAR


def identities_of(uris: pa.Array | Sequence[str], file: str) -> list[str | None]:
    """Return the identities of files that a list or a table names: of local ones, None for those in stores.

    One question to a store for each of a million photos would take hours. A list or table that does not lie on this
    machine itself has no say over what is looked at here.

    Parameters:
        uris: the files.
        file: the list or table that names them.
    """
    names = pa.array(uris, pa.string())
    if not files.is_local(file):
        return [None] * len(names)
    if pc.all(pc.match_substring_regex(names, _REMOTE), min_count=0).as_py():
        return [None] * len(names)
    return [files.identity(uri) if uri is not None and files.is_local(uri) else None for uri in names.to_pylist()]


def numbered(prefix: str, numbers: pa.Array, ending: str = "") -> pa.Array:
    """Return the strings ``<prefix><number><ending>``."""
    return pc.binary_join_element_wise(prefix, pc.cast(numbers, pa.string()), ending, "")


def suffix(uri: str) -> str:
    """Return a file name's suffix in lower case, such as ``.jpg``."""
    return posixpath.splitext(uri)[1].lower()


def folder_of(uri: str) -> str:
    """Return the folder that a file lies in."""
    return uri.rpartition("/")[0]


def relative(file: str, root: str) -> str:
    """Return a file's path relative to a folder, or just its name when it lies elsewhere, without secrets."""
    if not files.is_local(file):
        file, root = without_secrets(file), without_secrets(root)
    start = root.rstrip("/") + "/"
    return file[len(start) :] if file.startswith(start) else posixpath.basename(file)


def one_line(error: BaseException) -> str:
    """Return an error's words on one line, with credentials masked and without the content that parsers quote."""
    words = _QUOTING.sub(r"\1", " ".join(str(error).split()))
    return masked(words.rstrip(".")[:200]) or type(error).__name__
