"""Where the rows to export lie: in the shards of a finished run, or in the files that these were merged into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import shard_uri
from dmt_ray.output.compact import verify_compaction
from dmt_ray.output.compaction_record import CompactionRecord, is_compaction, read_compaction
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan, load_plan
from dmt_ray.output.run_record import read_run
from dmt_ray.output.schema import ROW_SCHEMAS, column_name
from dmt_ray.output.shard_file import (
    DamagedShardError,
    ShardFacts,
    check_body,
    check_footer,
    committed,
    each,
    file_facts,
    file_version,
    reading_shard,
)
from dmt_ray.output.verify import verify_output
from dmt_ray.output.versions import recorded_expected
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.words import agreed


class Source(Protocol):
    """Numbered files of rows: all rows of a run, in the plan's order."""

    @property
    def expected(self) -> Expected:
        """Where they lie, and what they are."""
        ...

    @property
    def facts(self) -> Mapping[int, ShardFacts]:
        """What is known of each file."""
        ...

    @property
    def job(self) -> str | None:
        """The job that made them; None where nothing tells."""
        ...

    @property
    def animated(self) -> bool:
        """Whether there are animations."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about a damaged file, in a sentence."""
        ...

    def ids(self) -> Iterator[str]:
        """Yield the ids of all images, in order."""
        ...

    def uri(self, number: int) -> str:
        """Return where a file lies."""
        ...

    def opened(self, number: int) -> AbstractContextManager[pq.ParquetFile]:
        """Open a file to read all of it; what is wrong with it is found while it is read, at the latest.

        Raises:
            DamagedShardError: it is damaged.
            StorageError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Shards:
    """The shards of a run."""

    plan: Plan
    expected: Expected
    facts: Mapping[int, ShardFacts]
    job: str | None
    animated: bool
    remedy: str = "Run dmt-ray verify --deep --discard, and the job."

    def ids(self) -> Iterator[str]:
        """Yield the ids of all images, in order."""
        return (id_ for part in self.plan.file.ids() for id_ in part.to_pylist())

    def uri(self, number: int) -> str:
        """Return where a shard's file lies."""
        return shard_uri(self.expected.output, number)

    @contextmanager
    def opened(self, number: int) -> Iterator[pq.ParquetFile]:
        """Read a shard's file, compare its checksum, and open it; see ``Source``."""
        data = files.read_bytes(self.uri(number))
        with reading_shard(self.uri(number), pa.BufferReader(data)) as file:
            check_body(data, check_footer(file, self.plan.file.shard(number), self.expected))
            yield file


@dataclass(frozen=True)
class Parts:
    """The files of a compaction; pages and pictures have checksums of their own, so no file is held whole."""

    record: CompactionRecord
    expected: Expected
    facts: Mapping[int, ShardFacts]
    job: str | None
    animated: bool
    remedy: str = "Run dmt-ray compact again."

    def ids(self) -> Iterator[str]:
        """Yield the ids of all images, in order."""
        last = None
        for number in self.facts:
            with said_of(self, number), reading_shard(self.uri(number)) as file:
                for batch in file.iter_batches(columns=["id"]):
                    for id_ in batch["id"].to_pylist():
                        if id_ != last:
                            yield id_
                        last = id_

    def uri(self, number: int) -> str:
        """Return where a part lies."""
        return files.join(self.expected.output, self.record.parts[number].name)

    @contextmanager
    def opened(self, number: int) -> Iterator[pq.ParquetFile]:
        """Open a part; see ``Source``."""
        with reading_shard(self.uri(number)) as file:
            yield file


def open_source(place: str) -> Source:
    """Check a finished run, or a compaction of one.

    Parameters:
        place: the output of the run, or the place of the compaction.

    Raises:
        SettingsError: it is not complete, or has no pictures.
        StorageError: a file cannot be read.
    """
    source: Source = _parts(place) if is_compaction(place) else _shards(place)
    errors = sum(facts.errors for facts in source.facts.values())
    if errors == sum(facts.rows for facts in source.facts.values()):
        why = agreed(errors, "its only row is an error row", f"all {errors} rows are error rows")
        raise SettingsError(f"{masked(place)} has no picture to export: {why}.")
    return source


def read_columns(source: Source, names: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and some columns of each file, in order.

    Raises:
        SettingsError: a file is damaged.
        StorageError: it cannot be read.
    """

    def read(number: int) -> tuple[int, pa.Table]:
        with said_of(source, number), reading_shard(source.uri(number)) as file:
            return number, file.read(columns=names)

    return each(read, sorted(source.facts))


@contextmanager
def said_of(source: Source, number: int) -> Iterator[None]:
    """Say of a damaged file which one it is, and what to do.

    Raises:
        SettingsError: instead of DamagedShardError.
    """
    try:
        yield
    except DamagedShardError as error:
        raise SettingsError(f"{masked(source.uri(number))} is damaged: {error}. {source.remedy}") from error


def _shards(output: str) -> Shards:
    plan = load_plan(output)
    expected = recorded_expected(output, plan)
    if expected.traversal_only:
        raise _no_pictures(output)
    report = verify_output(output)
    if not report.complete:
        raise _not_complete(output, report.sentences())
    record = read_run(output)
    animated = bool(record.option("output", "save_path"))
    return Shards(plan, expected, committed(plan, expected).sound, record.job, animated)


def _parts(dest: str) -> Parts:
    report = verify_compaction(dest)
    if not report.complete:
        raise _not_complete(dest, report.sentences())
    record = read_compaction(dest)
    facts: dict[int, ShardFacts] = {}
    shown = {"image": 0, "animation": 0}
    for number, part in enumerate(record.parts):
        uri = files.join(dest, part.name)
        with reading_shard(uri) as file:
            version, schema = file_version(file, uri), file.schema_arrow.remove_metadata()
            facts[number] = file_facts(file, version)
            for name in shown:
                shown[name] += _values(file, column_name(name, version))
    if sum(known.errors for known in facts.values()) < report.rows and not shown["image"]:
        raise _no_pictures(dest)
    inputs = pa.schema(list(schema)[len(ROW_SCHEMAS[version]) :])
    expected = Expected(dest, record.steps, record.fingerprint, inputs, version=version)
    return Parts(record, expected, facts, record.job, bool(shown["animation"]))


def _values(file: pq.ParquetFile, column: str) -> int:
    """Return how many values of a column are not null."""
    index = file.schema_arrow.names.index(column)  # a column before it may not be nested: all are the program's own
    groups = (file.metadata.row_group(number).column(index) for number in range(file.metadata.num_row_groups))
    return sum(
        group.num_values - group.statistics.null_count if group.statistics is not None else 1 for group in groups
    )


def _no_pictures(place: str) -> SettingsError:
    return SettingsError(
        f"{masked(place)} is of a run with --traversal-only: it holds displacements and no pictures. Make them with "
        "dmt-ray reconstruct, and export its output."
    )


def _not_complete(place: str, sentences: list[str]) -> SettingsError:
    return SettingsError(f"{masked(place)} is not complete, so it cannot be exported: {' '.join(sentences)}")
