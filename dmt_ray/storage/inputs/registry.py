"""The input formats there are, and the listing of one place: images, tables, archives and lists alike.

Listing reads no image: names of files, headers of archives, footers and at most the URI and id columns of tables.
"""

from __future__ import annotations

import posixpath
import re

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.inputs.archives import ARCHIVES
from dmt_ray.storage.inputs.formats import InputFormat, Place
from dmt_ray.storage.inputs.image_files import IMAGES
from dmt_ray.storage.inputs.list_file import LISTS
from dmt_ray.storage.inputs.listing import InputItem, Listing, suffix
from dmt_ray.storage.inputs.table_formats import CSV, PARQUET

#: A new format is one module and one entry here. Where a place holds several, the first wins.
FORMATS: list[InputFormat] = [IMAGES, PARQUET, ARCHIVES, CSV, LISTS]

_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def format_of(file: str) -> InputFormat | None:
    """Return the format that a file's suffix tells."""
    ending = suffix(file)
    return next((each for each in FORMATS if ending in each.suffixes), None)


def list_inputs(
    uri: str,
    *,
    image_column: str | None = None,
    uri_column: str | None = None,
    limit: int | None = None,
) -> list[InputItem]:
    """List the images of one place as objects; for millions of them, see ``open_listing``, which this is made of."""
    return list(open_listing(uri, image_column=image_column, uri_column=uri_column, limit=limit))


def open_listing(
    uri: str,
    *,
    image_column: str | None = None,
    uri_column: str | None = None,
    limit: int | None = None,
) -> Listing:
    """List the images of one place.

    A place is a file of one of these kinds, or a folder or glob of them. Where it holds several, the first wins:

    1. images: an id is the path relative to the place;
    2. Parquet with a column of encoded images, of ``{bytes, path}`` structs, or of image URIs;
    3. WebDataset tar archives: an id is ``<relative path>#<sample>``;
    4. CSV and TSV with a header and a column of image URIs.

    A named column leaves out what has no such column: images, and CSV for bytes or archives for URIs. A list file, of
    one path or URI per line, counts only where it is named itself or by a pattern with its suffix. A row's id is the
    table's ``id`` column where that is a unique string or integer everywhere, else ``<relative path>#<row>``.
    Relative URIs start at the folder of the file they stand in. A single file that is none of these is an image,
    whatever its suffix.

    Parameters:
        uri: the place.
        image_column: the column of encoded images, or the ending of an archive's image members.
        uri_column: the column of image URIs.
        limit: keep only the first so many images, in listing order.

    Returns:
        At least one image, ordered by file name and place in the file.

    Raises:
        SettingsError: nothing is there, no column fits, or a file cannot be read; also while its batches are read.
    """
    try:
        found = dict(files.list_identified(uri))
        root = files.listing_root(uri) if found else ""
    except StorageError as error:
        raise SettingsError(f"Cannot list {masked(uri)}: {error.reason}.") from error
    if not found:
        raise SettingsError(f"No image found in {masked(uri)}: {_why_nothing(uri)}.")
    by_format = _sort_by_format(uri, found)
    present = [each for each in FORMATS if each.name in by_format]
    if not present:
        raise SettingsError(
            f"No image found in {masked(uri)}: none of its {len(found)} files has the suffix of an image, a table or "
            "an archive."
        )
    fitting = present
    if image_column is not None or uri_column is not None:
        fitting = [each for each in present if (each.bytes_columns if image_column is not None else each.uri_columns)]
    if not fitting:
        names = " and ".join(each.name for each in present)
        raise SettingsError(
            f"{masked(uri)} holds {names}, which have no such column: leave out --image-column and --uri-column."
        )
    chosen = fitting[0]
    return chosen.listing(Place(uri, by_format[chosen.name], root, image_column, uri_column, limit))


def _sort_by_format(uri: str, found: dict[str, str | None]) -> dict[str, dict[str, str | None]]:
    """Return the files by the name of their format."""
    by_format: dict[str, dict[str, str | None]] = {}
    named = len(found) == 1 and posixpath.basename(next(iter(found))) == posixpath.basename(uri)
    for file, identity in found.items():
        kind = format_of(file)
        if named and kind is None:
            if file.lower().endswith(_COMPRESSED_TAR):
                raise SettingsError(
                    f"{masked(file)} is compressed, so no single image can be read from it; decompress it to .tar."
                )
            kind = IMAGES  # content decides what a single file is, not its suffix
        if kind is None or (kind.only_named and suffix(uri) not in kind.suffixes):
            continue  # beside images a text is a note or a label
        by_format.setdefault(kind.name, {})[file] = identity
    return by_format


def _why_nothing(uri: str) -> str:
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return "the pattern matches no file"
    return "the folder is empty" if files.exists(uri) else "it does not exist"
