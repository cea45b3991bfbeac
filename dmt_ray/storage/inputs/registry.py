"""What a run works on, whatever form it comes in: images, tables, archives and lists become one kind of listing.

Listing reads no image: names of files, headers of archives, footers and at most the URI and id columns of tables.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable, Iterator

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.images import IMAGE_SUFFIXES
from dmt_ray.storage.inputs.archives import TAR_SUFFIXES, list_archives
from dmt_ray.storage.inputs.list_file import LIST_SUFFIXES, list_named
from dmt_ray.storage.inputs.listing import BATCH_ROWS, InputItem, Listing, listing_batch, relative, suffix
from dmt_ray.storage.inputs.reader import ItemReader, RecordReader
from dmt_ray.storage.inputs.table_listing import list_tables
from dmt_ray.storage.inputs.tables import CSV_DELIMITERS, PARQUET_SUFFIXES

__all__ = ["InputItem", "ItemReader", "Listing", "RecordReader", "list_inputs", "open_listing"]

_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


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
        found = files.list_files(uri)
        root = files.listing_root(uri) if found else ""
    except StorageError as error:
        raise SettingsError(f"Cannot list {masked(uri)}: {error.reason}.") from error
    if not found:
        raise SettingsError(f"No image found in {masked(uri)}: {_why_nothing(uri)}.")
    kinds: dict[str, Callable[[list[str]], Listing]] = {
        "images": lambda chosen: _list_images(chosen, root, limit),
        "parquet": lambda chosen: list_tables(uri, chosen, root, image_column, uri_column, limit),
        "archives": lambda chosen: list_archives(uri, chosen, root, image_column, limit),
        "csv": lambda chosen: list_tables(uri, chosen, root, image_column, uri_column, limit),
        "lists": lambda chosen: list_named(uri, chosen, root, limit),
    }
    by_kind = _sort_by_kind(uri, found)
    present = [kind for kind in kinds if kind in by_kind]
    if not present:
        raise SettingsError(
            f"No image found in {masked(uri)}: none of its {len(found)} files has the suffix of an image, a table or "
            "an archive."
        )
    fitting = present
    if image_column is not None or uri_column is not None:
        wanted = {"parquet", "archives"} if image_column is not None else {"parquet", "csv"}
        fitting = [kind for kind in present if kind in wanted]
    if not fitting:
        raise SettingsError(
            f"{masked(uri)} holds {' and '.join(present)}, which have no such column: leave out --image-column and "
            "--uri-column."
        )
    return kinds[fitting[0]](by_kind[fitting[0]])


def _sort_by_kind(uri: str, found: list[str]) -> dict[str, list[str]]:
    by_kind: dict[str, list[str]] = {}
    named = len(found) == 1 and posixpath.basename(found[0]) == posixpath.basename(uri)
    for file in found:
        kind = _kind(file)
        if named and kind is None:
            if file.lower().endswith(_COMPRESSED_TAR):
                raise SettingsError(
                    f"{masked(file)} is compressed, so no single image can be read from it; decompress it to .tar."
                )
            kind = "images"  # content decides what a single file is, not its suffix
        if kind == "lists" and suffix(uri) not in LIST_SUFFIXES:
            continue  # beside images a text is a note or a label
        if kind is not None:
            by_kind.setdefault(kind, []).append(file)
    return by_kind


def _kind(file: str) -> str | None:
    ending = suffix(file)
    if ending in IMAGE_SUFFIXES:
        return "images"
    if ending in PARQUET_SUFFIXES:
        return "parquet"
    if ending in TAR_SUFFIXES:
        return "archives"
    if ending in CSV_DELIMITERS:
        return "csv"
    return "lists" if ending in LIST_SUFFIXES else None


def _list_images(found: list[str], root: str, limit: int | None) -> Listing:
    return Listing(functools.partial(_image_batches, found, root, limit), pa.schema([]))


def _image_batches(found: list[str], root: str, limit: int | None) -> Iterator[pa.RecordBatch]:
    files_kept = found[:limit]
    for start in range(0, len(files_kept), BATCH_ROWS):
        chosen = files_kept[start : start + BATCH_ROWS]
        yield listing_batch([relative(file, root) for file in chosen], chosen)


def _why_nothing(uri: str) -> str:
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return "the pattern matches no file"
    return "the folder is empty" if files.exists(uri) else "it does not exist"
