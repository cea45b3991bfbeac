"""Images in tar archives as WebDataset writes them: members with the same name up to the first dot are one sample.

Nothing is unpacked: listing reads the archives' headers, and an image is later read as a range of bytes. Members'
names become ids and are never used as paths.
"""

from __future__ import annotations

import io
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.images import IMAGE_SUFFIXES
from dmt_ray.storage.inputs.listing import Listing, listing_batch, one_line, relative

logger = logging.getLogger(__name__)

#: File name suffixes (lower case) of archives.
TAR_SUFFIXES = frozenset({".tar"})
#: Members that are carried through to the output, as text.
TEXT_MEMBERS = ("json", "txt", "cls")

_MEMBER = re.compile(r"^(?P<file>.+)#offset=(?P<offset>\d+)&size=(?P<size>\d+)$", re.DOTALL)
_SAMPLE = re.compile(r"^(?P<file>.+?\.tar)#sample=(?P<start>\d+)-(?P<end>\d+)&key=(?P<key>.*)$", re.DOTALL | re.I)
_AT_ONCE = 16
_BUFFER_BYTES = 64 * 2**10
_BLOCK = tarfile.BLOCKSIZE


@dataclass
class _Sample:
    """Where the members of one sample lie."""

    key: str
    start: int
    end: int
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Offset and size of each member's data, by its name after the first dot, in lower case."""


def list_archives(uri: str, found: Sequence[str], root: str, image_column: str | None, limit: int | None) -> Listing:
    """List the samples of tar archives. An id is ``<relative path of the archive>#<sample's name>``.

    Parameters:
        uri: the place, for messages.
        found: the archives, in order.
        root: the folder that the archives' paths start at.
        image_column: the image member's name after the first dot, such as ``jpg``. None takes the only one whose name
            ends like an image's.
        limit: keep only the first so many samples.

    Raises:
        SettingsError: no sample has an image, one has several, or an archive cannot be read.
    """
    batches: list[pa.RecordBatch] = []
    input_columns: set[str] = set()
    left = limit
    without_image = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(found), _AT_ONCE):
            if left == 0:
                break
            chosen = found[start : start + _AT_ONCE]
            for file, samples in zip(chosen, pool.map(_scan, chosen), strict=True):
                rows: list[tuple[str, str, str]] = []
                for sample in samples:
                    name = _image_member(file, sample, image_column)
                    if name is None:
                        without_image += 1
                        continue
                    if left is not None and len(rows) >= left:
                        break
                    offset, size = sample.members[name]
                    record = f"{file}#sample={sample.start}-{sample.end}&key={sample.key}"
                    rows.append(
                        (f"{relative(file, root)}#{sample.key}", f"{file}#offset={offset}&size={size}", record)
                    )
                    input_columns |= set(TEXT_MEMBERS) & set(sample.members)
                left = None if left is None else left - len(rows)
                if rows:
                    batches.append(listing_batch(*(list(column) for column in zip(*rows, strict=True))))
    if without_image:
        logger.warning("%s: %d samples without an image are left out.", masked(uri), without_image)
    if not batches:
        what = f"a member .{image_column}" if image_column else "an image"
        raise SettingsError(f"No image found in {masked(uri)}: no sample of its {len(found)} archive(s) has {what}.")
    schema = pa.schema(
        [(name, pa.string()) for name in TEXT_MEMBERS if name in input_columns and name != image_column]
    )
    return Listing(lambda: iter(batches), schema)


def is_member(uri: str) -> bool:
    """Tell whether an item's URI is a member of an archive."""
    match = _MEMBER.match(uri)
    return match is not None and match["file"].lower().endswith(".tar")


def member_size(uri: str) -> int:
    """Return the size of a member in bytes, from its URI alone."""
    match = _MEMBER.match(uri)
    assert match is not None
    return int(match["size"])


def read_member(uri: str) -> bytes:
    """Return a member's bytes.

    Raises:
        StorageError: the archive cannot be read, or is shorter than it was.
    """
    match = _MEMBER.match(uri)
    assert match is not None
    return files.read_range(match["file"], int(match["offset"]), int(match["size"]))


def is_sample(record: str) -> bool:
    """Tell whether a record is a sample of an archive."""
    return _SAMPLE.match(record) is not None


def read_sample(record: str, members: Sequence[str]) -> dict[str, Any]:
    """Return some members of a sample: text for ``TEXT_MEMBERS``, bytes for others, None for what it lacks.

    Raises:
        StorageError: the archive cannot be read, or a member that should be text is not.
    """
    match = _SAMPLE.match(record)
    assert match is not None
    file, start, end = match["file"], int(match["start"]), int(match["end"])
    values: dict[str, Any] = dict.fromkeys(members)
    found = False
    try:
        with _opened(file, start) as (archive, source):
            for sample in _samples(archive, stop=end):
                if sample.key != match["key"]:
                    continue
                found = True
                for name in set(members) & set(sample.members):
                    offset, size = sample.members[name]
                    source.seek(offset)
                    data = source.read(size)
                    if len(data) != size:
                        raise tarfile.ReadError(f"ends before byte {offset + size}")
                    values[name] = data.decode("utf-8") if name in TEXT_MEMBERS else data
        if not found:
            raise tarfile.ReadError(f"has no such sample at byte {start}")
    except UnicodeDecodeError as error:
        raise StorageError(record, f"a member is not UTF-8 text ({error})") from error
    except (tarfile.TarError, OSError) as error:
        raise StorageError(file, f"cannot be read as a tar archive: {one_line(error)}") from error
    return values


@contextmanager
def _opened(file: str, start: int = 0) -> Iterator[tuple[tarfile.TarFile, Any]]:
    """Open an archive at the offset of a header; small reads are gathered into larger ones."""
    with files.open_file(file) as raw:
        source: Any = io.BufferedReader(raw, _BUFFER_BYTES) if isinstance(raw, io.RawIOBase) else raw
        source.seek(start)
        with tarfile.open(fileobj=source, mode="r:") as archive:
            yield archive, source


def _scan(file: str) -> list[_Sample]:
    """Return the samples of an archive, in the order in which they begin."""
    samples: dict[str, _Sample] = {}
    try:
        with _opened(file) as (archive, source):
            for sample in _samples(archive):
                known = samples.setdefault(sample.key, sample)
                known.members |= sample.members  # as in any tar, what comes later replaces
                known.end = sample.end
            source.seek(archive.offset)
            if source.read(_BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except StorageError as error:
        raise SettingsError(f"Cannot read {masked(file)}: {error.reason}.") from error
    except DmtError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{masked(file)} cannot be read as an (uncompressed) tar archive: {one_line(error)}."
        ) from error
    return list(samples.values())


def _samples(archive: tarfile.TarFile, stop: int | None = None) -> Iterator[_Sample]:
    """Yield each plain file of an archive as a sample of one member; what is no plain file is left out."""
    skipped = 0
    while (member := archive.next()) is not None and (stop is None or member.offset < stop):
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
        if not member.isreg() or member.issparse():
            skipped += not member.isdir()
            continue
        name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        folder, slash, base = name.removeprefix("./").rpartition("/")
        stem, _, ending = base.partition(".")
        if stem and ending:
            span = {ending.lower(): (member.offset_data, member.size)}
            yield _Sample(folder + slash + stem, member.offset, archive.offset, span)
    if skipped:
        logger.warning("%s: %d links, devices or sparse files are left out.", archive.name, skipped)


def _image_member(file: str, sample: _Sample, image_column: str | None) -> str | None:
    """Return the name of the sample's image member, or None."""
    if image_column is not None:
        wanted = image_column.lower().removeprefix(".")
        return wanted if wanted in sample.members else None
    images = [name for name in sample.members if f".{name}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise SettingsError(
            f"Sample {sample.key!r} of {masked(file)} has several images: {', '.join(images)}; choose one with "
            "--image-column."
        )
    return images[0] if images else None
