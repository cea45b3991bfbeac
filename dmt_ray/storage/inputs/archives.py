"""Images in tar archives as WebDataset writes them: members with the same name up to the first dot are one sample.

Nothing is unpacked: listing reads the archives' headers, and an image is later read as a range of bytes. Members'
names become ids and are never used as paths.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa

from dmt_ray.errors import DmtError, ImageError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.images import image_suffixes
from dmt_ray.storage.inputs.formats import Fields, InputFormat, Place
from dmt_ray.storage.inputs.listing import INSIDE, InputItem, Listing, listing_batch, one_line, relative
from dmt_ray.storage.inputs.passed_over import PassedOver, in_two, suffix_of
from dmt_ray.storage.threads import reading_threads
from dmt_ray.words import agreed, counted

#: File name suffixes (lower case) of archives.
TAR_SUFFIXES = frozenset({".tar"})
#: Members that become input columns of the output, as text.
TEXT_MEMBERS = ("json", "txt", "cls")

_MEMBER = re.compile(r"^(?P<file>.+?)#offset=(?P<offset>\d+)&size=(?P<size>\d+)(?:&member=(?P<name>.+))?$", re.DOTALL)
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


@dataclass
class _Contents:
    """What lies in one archive, or in a part of one."""

    samples: dict[str, _Sample] = field(default_factory=dict)
    """By key, in the order in which they begin."""
    others: Counter[str] = field(default_factory=Counter)
    """Members that belong to no sample, because their names have no ending, by suffix."""
    links: int = 0
    """Links, devices and sparse files."""


def list_archives(place: Place) -> Listing:
    """List the samples of tar archives. An id is ``<relative path of the archive>#<sample's name>``.

    The image is the member that ``place.image_column`` names by its ending, such as ``jpg``, else the only one whose
    name ends like an image's.

    Raises:
        SettingsError: no sample has an image, one has several, or an archive cannot be read.
    """
    found, image_column = list(place.files), place.image_column
    batches: list[pa.RecordBatch] = []
    texts: set[str] = set()
    used: list[str] = []
    left = place.limit
    without_image = links = 0
    others: Counter[str] = Counter()
    with reading_threads(_AT_ONCE) as pool:
        for start in range(0, len(found), _AT_ONCE):
            if left == 0:
                break
            chosen = found[start : start + _AT_ONCE]
            for file, contents in zip(chosen, pool.map(_scan, chosen), strict=True):
                rows: list[tuple[str, str, str]] = []
                others += contents.others
                links += contents.links
                for sample in contents.samples.values():
                    name = _image_member(place, file, sample)
                    if name is None:
                        without_image += 1
                        others.update(suffix_of(f"_.{member}") for member in sample.members)
                        continue
                    if left is not None and len(rows) >= left:
                        break
                    others.update(
                        suffix_of(f"_.{each}") for each in sample.members if each not in (name, *TEXT_MEMBERS)
                    )
                    offset, size = sample.members[name]
                    record = f"{file}#sample={sample.start}-{sample.end}&key={sample.key}"
                    id_ = f"{relative(file, place.root)}#{sample.key}"
                    rows.append((id_, f"{file}#offset={offset}&size={size}&member={name}", record))
                    texts |= set(TEXT_MEMBERS) & set(sample.members)
                left = None if left is None else left - len(rows)
                if rows:
                    ids, uris, records = (list(column) for column in zip(*rows, strict=True))
                    batches.append(listing_batch(ids, uris, records, origins=INSIDE))
                    used.append(file)
    passed_over = _passed_over(others, without_image, links)
    if not batches:
        what = f"a member .{image_column}" if image_column else "an image"
        what = f"No image found in {masked(place.uri)}: no sample of its {counted(len(found), 'archive')} has {what}."
        raise SettingsError(" ".join([what, *passed_over.sentences()]))
    schema = pa.schema([(name, pa.string()) for name in TEXT_MEMBERS if name in texts and name != image_column])
    return Listing(lambda: iter(batches), schema, containers=place.containers(used), passed_over=passed_over)


def count_archived(place: Place) -> int:
    """Return about how many images archives hold: as many samples with one, each, as the first has."""
    files_there = list(place.files)
    try:
        contents = _scan(files_there[0])
        with_image = sum(bool(_image_members(place, sample)) for sample in contents.samples.values())
    except SettingsError:
        with_image = 1  # damaged: listing says so, where nothing else holds images
    return with_image * len(files_there)


class ArchiveReader:
    """Reads members of archives; each read opens the archive at the sample's header, which proves whose it is."""

    concurrent = True

    def read(self, item: InputItem, check_size: Callable[[int], None]) -> bytes:
        """Return a member's bytes; see ``ContainerReader``."""
        member = _MEMBER.match(item.uri)
        if member is None:
            raise StorageError(item.uri, "is no member of an archive")
        offset, size = int(member["offset"]), int(member["size"])
        check_size(size)
        if item.record is None:
            return files.read_range(member["file"], offset, size)
        with _sample_of(item, whole=size) as (found, source):
            # An earlier plan does not say which of the sample's members is the image.
            places = found.values() if member["name"] is None else [found.get(member["name"])]
            if (offset, size) not in places:
                raise _changed(item, member["file"])
            return _read(source, offset, size)

    def read_record(self, item: InputItem, columns: Sequence[str]) -> dict[str, Any]:
        """Return some members of a sample: text for ``TEXT_MEMBERS``, bytes for others, None for what it lacks."""
        values: dict[str, Any] = dict.fromkeys(columns)
        for name, data in self._members(item, columns).items():
            if name in TEXT_MEMBERS:
                try:
                    values[name] = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise StorageError(item.record or "", f"a member is not UTF-8 text ({error})") from error
            else:
                values[name] = data
        return values

    def read_fields(self, item: InputItem, schema: pa.Schema) -> Fields:
        """Return the text members of a sample; see ``ContainerReader``."""
        values: dict[str, list[str | None]] = {name: [None] for name in schema.names}
        faults = {}
        for name, data in self._members(item, schema.names).items():
            try:
                values[name] = [data.decode("utf-8")]
            except UnicodeDecodeError as error:
                faults[name] = f"it is not UTF-8 text ({error.reason} at byte {error.start})"
        return Fields(pa.table(values, schema=schema), faults)

    def close(self) -> None:
        """Do nothing: no archive stays open."""

    def _members(self, item: InputItem, names: Sequence[str]) -> dict[str, bytes]:
        with _sample_of(item) as (found, source):
            return {name: _read(source, *found[name]) for name in names if name in found}


@contextmanager
def _sample_of(item: InputItem, whole: int = 0) -> Iterator[tuple[dict[str, tuple[int, int]], IO[bytes]]]:
    """Yield offset and size of the members of an item's sample, and the archive that they lie in.

    Parameters:
        item: from a listing.
        whole: bytes that will be read of it; where they are most of the sample, it is read at once.

    Raises:
        ImageError: kind ``changed`` when the sample does not lie where the plan says.
        StorageError: the archive cannot be read.
    """
    match = _SAMPLE.match(item.record or "")
    if match is None:
        raise StorageError(item.record or "the input", "is no sample of an archive")
    file, start, end = match["file"], int(match["start"]), int(match["end"])
    try:
        span = end - start if whole and end - start <= whole + _BUFFER_BYTES else None
        with _opened(file, start, span) as (archive, source):
            found: dict[str, tuple[int, int]] = {}
            keys = set()
            for sample in _samples(archive, _Contents(), stop=end):
                keys.add(sample.key)
                if sample.key == match["key"]:
                    found |= sample.members  # as in any tar, what comes later replaces
            if not keys:
                raise tarfile.ReadError(f"has no sample at byte {start}")
            if match["key"] not in keys:
                raise _changed(item, file)
            yield found, source
    except DmtError:
        raise
    except Exception as error:  # tarfile raises many types on damaged headers
        raise StorageError(file, f"cannot be read as a tar archive: {one_line(error)}") from error


def _read(source: IO[bytes], offset: int, size: int) -> bytes:
    source.seek(offset)
    data = source.read(size)
    if len(data) != size:
        raise tarfile.ReadError(f"ends before byte {offset + size}")
    return data


def _changed(item: InputItem, file: str) -> ImageError:
    return ImageError(
        "changed", f"{masked(file)} does not hold {item.id!r} where it did: it has changed since the plan."
    )


class _Window(io.BytesIO):
    """Bytes of a file from ``start`` on, whose positions are those in the file."""

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(data)
        self._start = start

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(position - self._start if whence == io.SEEK_SET else position, whence) + self._start

    def tell(self) -> int:
        return super().tell() + self._start


@contextmanager
def _opened(file: str, start: int = 0, span: int | None = None) -> Iterator[tuple[tarfile.TarFile, Any]]:
    """Open an archive at the offset of a header; small reads are gathered into larger ones.

    Parameters:
        file: the archive.
        start: where a header begins.
        span: read so many bytes at once and no others.
    """
    if span is not None:
        window = _Window(files.read_range(file, start, span), start)
        window.seek(start)
        with tarfile.open(fileobj=window, mode="r:") as archive:
            yield archive, window
        return
    with files.open_file(file) as raw:
        source: Any = io.BufferedReader(raw, _BUFFER_BYTES) if isinstance(raw, io.RawIOBase) else raw
        source.seek(start)
        with tarfile.open(fileobj=source, mode="r:") as archive:
            yield archive, source


def _passed_over(others: Counter[str], without_image: int, links: int) -> PassedOver:
    unreadable, beside = in_two(others)
    remarks = []
    if without_image:
        are = agreed(without_image, "is", "are")
        remarks.append(f"{counted(without_image, 'sample')} without an image {are} left out.")
    if links:
        kinds = agreed(links, "link, device or sparse file", "links, devices or sparse files")
        remarks.append(f"{links} {kinds} in archives {agreed(links, 'is', 'are')} left out.")
    return PassedOver(unreadable_members=unreadable, sidecar_members=beside, remarks=tuple(remarks))


def _scan(file: str) -> _Contents:
    """Return what lies in an archive."""
    contents = _Contents()
    try:
        with _opened(file) as (archive, source):
            for sample in _samples(archive, contents):
                known = contents.samples.setdefault(sample.key, sample)
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
    return contents


def _samples(archive: tarfile.TarFile, contents: _Contents, stop: int | None = None) -> Iterator[_Sample]:
    """Yield each plain file of an archive as a sample of one member; count what else there is in ``contents``."""
    while (member := archive.next()) is not None and (stop is None or member.offset < stop):
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
        if not member.isreg() or member.issparse():
            contents.links += not member.isdir()
            continue
        name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        folder, slash, base = name.removeprefix("./").rpartition("/")
        stem, _, ending = base.partition(".")
        if stem and ending:
            span = {ending.lower(): (member.offset_data, member.size)}
            yield _Sample(folder + slash + stem, member.offset, archive.offset, span)
        elif stem:  # a hidden name is no input
            contents.others[suffix_of(stem)] += 1


def _image_members(place: Place, sample: _Sample) -> list[str]:
    if place.image_column is not None:
        wanted = place.image_column.lower().removeprefix(".")
        return [wanted] if wanted in sample.members else []
    return [name for name in sample.members if f".{name}" in image_suffixes()]


def _image_member(place: Place, file: str, sample: _Sample) -> str | None:
    """Return the name of the sample's image member, or None.

    Raises:
        SettingsError: there are several.
    """
    images = _image_members(place, sample)
    if len(images) > 1:
        raise SettingsError(
            f"Sample {sample.key!r} of {masked(file)} has several images: {', '.join(images)}; choose one with "
            f"{place.options.image_column}."
        )
    return images[0] if images else None


ARCHIVES = InputFormat("tar", TAR_SUFFIXES, list_archives, count_archived, bytes_columns=True, reader=ArchiveReader)
