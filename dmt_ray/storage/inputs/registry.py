"""The input formats there are, and the listing of one place: images, tables, archives and lists alike.

Listing reads no image: names of files, headers of archives, footers and at most the URI and id columns of tables.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.inputs.archives import ARCHIVES
from dmt_ray.storage.inputs.formats import InputFormat, OptionNames, Place, container_of
from dmt_ray.storage.inputs.image_files import IMAGES
from dmt_ray.storage.inputs.list_file import LISTS
from dmt_ray.storage.inputs.listing import InputItem, Listing, suffix
from dmt_ray.storage.inputs.passed_over import PassedOver, in_two, suffix_of
from dmt_ray.storage.inputs.refusals import refuse
from dmt_ray.storage.inputs.run_outputs import files_of_outputs
from dmt_ray.storage.inputs.selecting import select
from dmt_ray.storage.inputs.table_formats import CSV, JSON_LINES, PARQUET
from dmt_ray.words import agreed, counted

#: A new format is one module and one entry here. Where a place holds several with as many images, the first wins.
FORMATS: list[InputFormat] = [IMAGES, PARQUET, ARCHIVES, CSV, LISTS]

#: Files by suffix, and their identities.
_Files = Mapping[str, str | None]


def format_of(file: str) -> InputFormat | None:
    """Return the format that a file's suffix tells, also of one that only says more of images beside it."""
    return _format_of(file, [*FORMATS, JSON_LINES])


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
    kind: str | None = None,
    where: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    output: str | None = None,
    options: OptionNames | None = None,
) -> Listing:
    """List the images of one place.

    A place is a file of one of these kinds, or a folder or glob of them:

    1. ``images``: an id is the path relative to the place. A ``metadata.jsonl``, ``.csv`` or ``.parquet`` beside them
       with a column ``file_name`` gives them columns;
    2. ``parquet`` with a column of encoded images, of ``{bytes, path}`` structs, or of image URIs;
    3. ``tar``, WebDataset archives: an id is ``<relative path>#<sample>``;
    4. ``csv``: CSV and TSV with a header and a column of image URIs;
    5. ``list``: a list file, of one path or URI per line, counts only where it is named itself, by a pattern with its
       suffix, or by ``kind``.

    Where a place holds several, the one that holds the most encoded images counts, as far as the first file of each
    tells; tables and lists that only name images hold none. A named column leaves out what has no such column:
    images, and CSV for bytes or archives for URIs. A row's id is the table's ``id`` column where that is a unique
    string or integer everywhere, else ``<relative path>#<row>``. Relative URIs start at the folder of the file they
    stand in. A single file that is none of these is an image, unless its suffix says that it is something else.

    Parameters:
        uri: the place.
        image_column: the column of encoded images, or the ending of an archive's image members.
        uri_column: the column of image URIs.
        kind: the name of the kind that counts, whatever else the place holds.
        where: a SQL condition on a table's columns; keeps the rows that fulfil it.
        sample: draw so many of those.
        seed: of that draw.
        limit: keep only the first so many images of those, in listing order.
        output: of the run that this is for; what lies in it is no input.
        options: what the options are called, for messages.

    Returns:
        At least one image, ordered by file name and place in the file.

    Raises:
        SettingsError: nothing is there, no column fits, or a file cannot be read; also while its batches are read.
    """
    found, root = _find(uri)
    outputs = files_of_outputs(found, root, output)
    inputs = {file: known for file, known in found.items() if file not in outputs} if outputs else found
    if not inputs:
        raise SettingsError(
            f"No image found in {masked(uri)}: its {counted(len(found), 'file')} "
            f"{agreed(len(found), 'belongs', 'belong')} to the output of a run, whose pictures are in its folder "
            "shards/; name that."
        )
    _refuse_marked(inputs)
    by_format = _sort_by_format(uri, inputs, kind)
    place = Place(uri, {}, root, image_column, uri_column, limit, options=options or OptionNames())
    if not by_format:
        said = " ".join(_passed_over(inputs, outputs, {}).sentences())
        files_lack = agreed(len(inputs), "its only file does not have", f"none of its {len(inputs)} files has")
        raise SettingsError(
            f"No image found in {masked(uri)}: {files_lack} the suffix of an image, a table or an archive. {said}"
        )
    chosen = _choose(place, inputs, by_format, kind)
    place = _place_of(place, inputs, by_format[chosen.name])
    some = where is not None or sample is not None
    listing = chosen.listing(replace(place, limit=None) if some else place)
    others = {name: its for name, its in by_format.items() if name != chosen.name}
    left = {file for file in inputs if file not in place.files and file not in listing.containers}
    passed_over = _passed_over(left, outputs, others)
    members = listing.passed_over
    listing = replace(
        listing,
        kind=chosen.name,
        passed_over=replace(
            passed_over,
            unreadable_members=members.unreadable_members,
            sidecar_members=members.sidecar_members,
            remarks=members.remarks,
        ),
    )
    return select(uri, listing, where=where, sample=sample, seed=seed, limit=limit) if some else listing


def _find(uri: str) -> tuple[dict[str, str | None], str]:
    """Return all files of a place with their identities, and the folder that they lie in."""
    try:
        found = dict(files.list_identified(uri))
        root = files.listing_root(uri) if found else ""
    except StorageError as error:
        raise SettingsError(f"Cannot list {masked(uri)}: {error.reason}.") from error
    if not found:
        raise SettingsError(f"No image found in {masked(uri)}: {_why_nothing(uri)}.")
    return found, root


def _sort_by_format(uri: str, found: _Files, kind: str | None) -> dict[str, list[str]]:
    """Return the files by the name of their format, in the registry's order.

    Raises:
        SettingsError: the one file that is named is neither an image nor of another format.
    """
    by_format: dict[str, list[str]] = {each.name: [] for each in FORMATS}
    named = len(found) == 1 and posixpath.basename(next(iter(found))) == posixpath.basename(uri)
    for file in found:
        format_ = _format_of(file, FORMATS)
        if named and format_ is None:
            refuse(file)
            format_ = IMAGES  # content decides what a single file is, not its suffix
        if format_ is None:
            continue
        if format_.only_named and suffix(uri) not in format_.suffixes and kind != format_.name:
            continue  # beside images a text is a note or a label
        by_format[format_.name].append(file)
    return {name: chosen for name, chosen in by_format.items() if chosen}


def _choose(place: Place, found: _Files, by_format: Mapping[str, Sequence[str]], kind: str | None) -> InputFormat:
    """Return the format to list: the one that is asked for, or that holds the most images of those that fit.

    Raises:
        SettingsError: none fits.
    """
    options, there = place.options, " and ".join(by_format)
    present = [each for each in FORMATS if each.name in by_format]
    if kind is not None:
        known = {each.name: each for each in FORMATS}
        if kind not in known:
            raise SettingsError(f"{options.kind} is {kind!r}; it must be one of {', '.join(known)}.")
        if kind not in by_format:
            endings = ", ".join(sorted(known[kind].suffixes))
            raise SettingsError(
                f"{masked(place.uri)} holds {there} and no files of the kind {kind} ({endings}): give another "
                f"{options.kind}, or leave it out."
            )
        present = [known[kind]]
    fitting = present
    if place.image_column is not None or place.uri_column is not None:
        by_bytes = place.image_column is not None
        fitting = [each for each in present if (each.bytes_columns if by_bytes else each.uri_columns)]
    if not fitting:
        names = " and ".join(each.name for each in present)
        raise SettingsError(
            f"{masked(place.uri)} holds {names}, which have no such column: leave out {options.image_column} and "
            f"{options.uri_column}."
        )
    if len(fitting) == 1:
        return fitting[0]
    places = [_place_of(place, found, by_format[each.name]) for each in fitting]
    held = [0 if each.holds is None else each.holds(its) for each, its in zip(fitting, places, strict=True)]
    return fitting[held.index(max(held))]


def _place_of(place: Place, found: _Files, chosen: Sequence[str]) -> Place:
    """Return the place with the files of one format as those that are to be listed."""
    mine = {file: found[file] for file in chosen}
    return replace(place, files=mine, others={file: known for file, known in found.items() if file not in mine})


def _passed_over(left: Collection[str], outputs: Collection[str], others: Mapping[str, Sequence[str]]) -> PassedOver:
    """Count the files that are neither listed nor used."""
    others = {name: [file for file in its if file in left] for name, its in others.items()}
    of_a_kind = {file for its in others.values() for file in its}
    unreadable, beside = in_two(Counter(suffix_of(file) for file in left if file not in of_a_kind))
    kinds = {name: len(its) for name, its in others.items() if its}
    return PassedOver(unreadable, beside, other_kinds=kinds, outputs=len(outputs))


def _format_of(file: str, formats: Sequence[InputFormat]) -> InputFormat | None:
    ending = suffix(file)
    return next((each for each in formats if ending in each.suffixes), None)


def _refuse_marked(found: Iterable[str]) -> None:
    """Raise SettingsError for a table or archive whose own name looks like a place inside of another."""
    for file in found:
        kind = format_of(file)
        if kind is not None and kind.reader is not None and container_of(file) is not None:
            raise SettingsError(
                f"The name {masked(file)} holds a mark such as '#row=', which names a place inside of a table or an "
                "archive; rename it."
            )


def _why_nothing(uri: str) -> str:
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return "the pattern matches no file"
    return "the folder is empty" if files.exists(uri) else "it does not exist"
