"""Is a shard's file what the plan wants? Told from its footer alone, or from all of its bytes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.output.commit import SHARDS_FOLDER, committed_shards, shard_number, shard_uri
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.schema import (
    BODY_KEY,
    ERRORS_KEY,
    LAST_UNNUMBERED_VERSION,
    SCHEMA_KEY,
    SCHEMA_VERSION,
    STAMP_KEY,
    row_schema,
    unnumbered_version,
)
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError
from dmt_ray.words import counted

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")

#: Files looked at side by side; on an object store this is mostly waiting.
READERS = 8
#: The magic number at the end of a Parquet file, and the length of the footer before it.
_TAIL = 8
#: Bytes read at a time where a file may be large.
_BLOCK = 2**24


class DamagedShardError(DmtError):
    """A shard's file is there, but is not what was committed or not what the plan wants; the message says how.

    Parameters:
        message: what is wrong, without a full stop.
        foreign: the file may be sound: it is of other settings, images or columns than those of this run.
    """

    def __init__(self, message: str, *, foreign: bool = False) -> None:
        super().__init__(message)
        self.foreign = foreign


@dataclass(frozen=True)
class ShardFacts:
    """What the footer of a sound shard says."""

    rows: int
    errors: int
    """Rows without a result."""
    body_sha256: str
    size: int
    """Bytes of the row groups."""


@contextmanager
def reading_shard(uri: str, source: IO[bytes] | pa.BufferReader | None = None) -> Iterator[pq.ParquetFile]:
    """Open a shard's file; whatever is wrong with its content, also later while reading, is one kind of error.

    Pages whose CRC is wrong are found when they are read.

    Parameters:
        uri: the file.
        source: its bytes, where they have been read already.

    Raises:
        DamagedShardError: it is no Parquet file, or damaged.
        StorageError: it is missing or cannot be read.
    """
    with files.open_file(uri) if source is None else _given(source) as opened:
        try:
            yield pq.ParquetFile(opened, page_checksum_verification=True)
        except DmtError:
            raise
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the file's content
                raise StorageError(uri, str(error.strerror or error)) from error
            raise DamagedShardError(_words(error)) from error
        except (pa.ArrowException, ValueError, KeyError, IndexError) as error:
            raise DamagedShardError(_words(error)) from error


@contextmanager
def _given(source: IO[bytes] | pa.BufferReader) -> Iterator[IO[bytes] | pa.BufferReader]:
    yield source


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def footer_keys(file: pq.ParquetFile) -> dict[str, str]:
    """Return a file's own entries in its footer."""
    return {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}


def file_version(file: pq.ParquetFile, uri: str) -> int:
    """Return the schema version of a shard's or a compaction's file.

    Raises:
        DamagedShardError: the footer says something that is no version.
        SettingsError: a later version of this program wrote it.
    """
    said = footer_keys(file).get(SCHEMA_KEY)
    if said is None:
        return unnumbered_version(file.schema_arrow)
    if not said.isdecimal() or int(said) == 0:
        raise DamagedShardError(f"its schema version is {said[:20]!r}, which is none")
    if int(said) > SCHEMA_VERSION:
        raise SettingsError(
            f"{files.masked(uri)} is of schema version {int(said)}, and this program knows versions up to "
            f"{SCHEMA_VERSION}: use the version of dmt_ray that wrote it."
        )
    return int(said)


def check_footer(file: pq.ParquetFile, shard: Shard, expected: Expected) -> ShardFacts:
    """Compare what a shard's footer says with what the plan wants.

    Raises:
        DamagedShardError: they differ; says how.
        SettingsError: a later version of this program wrote the file.
    """
    metadata, keys = file.metadata, footer_keys(file)
    schema = file.schema_arrow.remove_metadata()
    version = file_version(file, shard_uri(expected.output, shard.number))
    told = SCHEMA_KEY in keys or schema.equals(row_schema(expected.input_columns, version))
    if told and version != expected.version:
        reason = f"it is of schema version {version}, and its output is of version {expected.version}"
        raise DamagedShardError(reason, foreign=True)
    _check_schema(schema, expected.schema)
    wanted = len(shard.items) * expected.steps
    foreign = keys.get(STAMP_KEY) != expected.stamp(shard)
    if metadata.num_rows != wanted:
        raise DamagedShardError(
            f"it has {counted(metadata.num_rows, 'row')} and the plan wants {wanted}", foreign=foreign
        )
    if foreign:
        raise DamagedShardError("it was made with other settings or of other images than the plan's", foreign=True)
    return file_facts(file, expected.version)


def file_facts(file: pq.ParquetFile, version: int) -> ShardFacts:
    """Return what the footer of a shard's or a compaction's file says.

    Raises:
        DamagedShardError: it does not say how many rows are errors.
    """
    metadata, keys = file.metadata, footer_keys(file)
    return ShardFacts(
        rows=metadata.num_rows,
        errors=_errors(file, version, keys),
        body_sha256=keys.get(BODY_KEY, ""),
        size=sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)),
    )


def _errors(file: pq.ParquetFile, version: int, keys: dict[str, str]) -> int:
    """Return the number of error rows: what the footer says, or what is counted where earlier versions do not say."""
    if version <= LAST_UNNUMBERED_VERSION:
        return int(file.read(columns=["status"])["status"].to_pylist().count("error"))
    said = keys.get(ERRORS_KEY, "")
    if not said.isdecimal():
        raise DamagedShardError("its footer does not say how many rows are errors")
    return int(said)


def _check_schema(schema: pa.Schema, wanted: pa.Schema) -> None:
    if schema.equals(wanted):
        return
    names = dict.fromkeys([*wanted.names, *schema.names])
    wrong = [
        name
        for name in names
        if name not in schema.names or name not in wanted.names or schema.field(name).type != wanted.field(name).type
    ]
    reason = "its columns are not this run's: " + (", ".join(wrong[:5]) or "their order differs")
    raise DamagedShardError(reason, foreign=True)


def check_body(data: bytes, facts: ShardFacts) -> None:
    """Compare the checksum of all that is before the footer.

    Raises:
        DamagedShardError: it differs.
    """
    footer = int.from_bytes(data[-_TAIL:-4], "little")
    if hashlib.sha256(memoryview(data)[: len(data) - _TAIL - footer]).hexdigest() != facts.body_sha256:
        raise DamagedShardError("its bytes are not those that were written (checksum)")


def body_sha256(uri: str) -> str:
    """Return the SHA-256 of all that is before a Parquet file's footer, in bounded memory.

    Raises:
        StorageError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with files.open_file(uri) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        left = size - _TAIL - int.from_bytes(file.read(4), "little")
        file.seek(0)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Committed:
    """What lies in the shards' folder of an output, judged by footers and names."""

    sound: dict[int, ShardFacts]
    damaged: dict[int, str]
    """Why, by shard."""
    strangers: list[str]
    """Names that are those of no planned shard; see ``strangers``."""


def committed(plan: Plan, expected: Expected) -> Committed:
    """Judge the files of a plan's shards.

    Raises:
        SettingsError: a later version of this program wrote one of them.
        StorageError: a file cannot be read, so nothing can be said of it.
    """

    def judge(shard: Shard) -> tuple[int, ShardFacts | str]:
        try:
            with reading_shard(shard_uri(expected.output, shard.number)) as file:
                return shard.number, check_footer(file, shard, expected)
        except DamagedShardError as error:
            return shard.number, str(error)

    judged = Committed({}, {}, strangers(expected.output, plan))
    for number, verdict in each(judge, plan.only(committed_shards(expected.output))):
        if isinstance(verdict, str):
            judged.damaged[number] = verdict
        else:
            judged.sound[number] = verdict
    return judged


def strangers(output: str, plan: Plan) -> list[str]:
    """Return the visible names in the shards' folder that no shard of the plan has, sorted.

    Readers of the folder would take such files for the run's rows. Names that start with a dot are hidden from them.

    Parameters:
        output: the run's output.
        plan: all its shards.

    Raises:
        StorageError: the folder cannot be listed.
    """
    planned = {int(number) for number in plan.file.numbers}
    return sorted(
        name for name in files.list_names(files.join(output, SHARDS_FOLDER)) if shard_number(name) not in planned
    )


def each(
    action: Callable[[Input], Output], inputs: Iterable[Input], threads: int = READERS, stop: Event | None = None
) -> Iterator[Output]:
    """Yield the action's results in order, computed in threads that are only a few inputs ahead.

    Parameters:
        action: what to do with an input.
        inputs: taken one by one.
        threads: how many.
        stop: set at the end, also at an early one, which waits for the actions that are running.
    """
    waiting: deque[Future[Output]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in inputs:
                waiting.append(pool.submit(action, value))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if stop is not None:
                stop.set()
            for future in waiting:
                future.cancel()
