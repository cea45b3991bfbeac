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
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.errors import DmtError
from dmt_ray.output.commit import BODY_KEY, STAMP_KEY, committed_shards, row_schema, shard_stamp, shard_uri
from dmt_ray.output.plan import Plan, Shard
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError

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
    """A shard's file is there, but is not what was committed or not what the plan wants; the message says how."""


@dataclass(frozen=True)
class Expected:
    """What a run's shard files must be."""

    output: str
    steps: int
    """Rows per image."""
    fingerprint: str
    schema: pa.Schema

    @classmethod
    def of(cls, output: str, plan: Plan, steps: int, fingerprint: str) -> Expected:
        """Return it for the run at ``output``."""
        return cls(output, steps, fingerprint, row_schema(plan.input_columns))

    def stamp(self, shard: Shard) -> str:
        """Return the stamp of one of the run's shards."""
        return shard_stamp(self.fingerprint, (item.id for item in shard.items))


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


def check_footer(file: pq.ParquetFile, shard: Shard, expected: Expected) -> ShardFacts:
    """Compare what a shard's footer says with what the plan wants.

    Raises:
        DamagedShardError: they differ; says how.
    """
    metadata = file.metadata
    _check_schema(file.schema_arrow, expected.schema)
    wanted = len(shard.items) * expected.steps
    if metadata.num_rows != wanted:
        raise DamagedShardError(f"it has {metadata.num_rows} rows and the plan wants {wanted}")
    keys = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items()}
    if keys.get(STAMP_KEY) != expected.stamp(shard):
        raise DamagedShardError("it was made with other settings or of other images than the plan's")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    figure = expected.schema.get_field_index("displacement_norm")  # every row that is no error has one
    nulls = [group.column(figure).statistics for group in groups]
    return ShardFacts(
        rows=metadata.num_rows,
        errors=sum(statistics.null_count for statistics in nulls),
        body_sha256=keys.get(BODY_KEY, ""),
        size=sum(group.total_byte_size for group in groups),
    )


def _check_schema(schema: pa.Schema, wanted: pa.Schema) -> None:
    if schema.remove_metadata().equals(wanted):
        return
    names = dict.fromkeys([*wanted.names, *schema.names])
    wrong = [
        name
        for name in names
        if name not in schema.names or name not in wanted.names or schema.field(name).type != wanted.field(name).type
    ]
    raise DamagedShardError("its columns are not this run's: " + (", ".join(wrong[:5]) or "their order differs"))


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
    """The shards of a plan that have a file, judged by their footers."""

    sound: dict[int, ShardFacts]
    damaged: dict[int, str]
    """Why, by shard."""


def committed(plan: Plan, expected: Expected) -> Committed:
    """Judge the files of a plan's shards.

    Raises:
        StorageError: a file cannot be read, so nothing can be said of it.
    """

    def judge(shard: Shard) -> tuple[int, ShardFacts | str]:
        try:
            with reading_shard(shard_uri(expected.output, shard.number)) as file:
                return shard.number, check_footer(file, shard, expected)
        except DamagedShardError as error:
            return shard.number, str(error)

    judged = Committed({}, {})
    for number, verdict in each(judge, plan.only(committed_shards(expected.output))):
        if isinstance(verdict, str):
            judged.damaged[number] = verdict
        else:
            judged.sound[number] = verdict
    return judged


def each(action: Callable[[Input], Output], inputs: Iterable[Input], threads: int = READERS) -> Iterator[Output]:
    """Yield the action's results in order, computed in threads that are only a few inputs ahead."""
    waiting: deque[Future[Output]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for value in inputs:
            waiting.append(pool.submit(action, value))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
