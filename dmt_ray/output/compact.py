"""Merge a finished run's many shards into a few large files for readers, in bounded memory, and prove the result.

Files are cut by the shards' sizes alone, so that the same shards give the same files whenever they are cut. Each file
names in its footer the shards that it was made of: a file that is there and right is not made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import shard_name, shard_uri, shard_writer
from dmt_ray.output.compaction_record import (
    COMPACT_PROGRAM,
    COMPACTION_FILE,
    Part,
    part_names,
    read_claim,
    read_compaction,
)
from dmt_ray.output.dataset_card import CARD_FILE, output_card, write_card
from dmt_ray.output.expected import Expected
from dmt_ray.output.grouping import group_by_size
from dmt_ray.output.plan import load_plan
from dmt_ray.output.report import some_of
from dmt_ray.output.run_record import read_run
from dmt_ray.output.schema import BODY_KEY, ERRORS_KEY, SCHEMA_KEY, STAMP_KEY
from dmt_ray.output.shard_file import (
    DamagedShardError,
    ShardFacts,
    body_sha256,
    committed,
    file_version,
    footer_keys,
    reading_shard,
)
from dmt_ray.output.verify import verify_output, wrong_images
from dmt_ray.output.versions import recorded_expected
from dmt_ray.storage import files
from dmt_ray.storage.hashing import HashingFile
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)


@dataclass
class CompactReport:
    """What a compaction did, or what a check of one found."""

    parts: int = 0
    rows: int = 0
    written: int = 0
    """Parts that had to be written; the others were there."""
    damaged: dict[str, str] = field(default_factory=dict)
    """What is wrong, by file name."""
    strangers: list[str] = field(default_factory=list)
    """Visible names that are no file of the compaction."""

    @property
    def complete(self) -> bool:
        """Every row of the run is there once, and readers see no other file."""
        return not self.damaged and not self.strangers

    def sentences(self) -> list[str]:
        """Say what was found, one fact a line."""
        wrong = [f"damaged: {name}: {reason}." for name, reason in sorted(self.damaged.items())]
        if self.strangers:
            count = len(self.strangers)
            names = f"{counted(count, 'name')} {agreed(count, 'is', 'are')} of no file of the compaction"
            wrong.append(f"{names}: {some_of(self.strangers)}")
        return [f"{counted(self.rows, 'row')} in {counted(self.parts, 'file')}.", *wrong]


def compact(output: str, dest: str, file_size: int) -> CompactReport:
    """Merge the shards of the finished run at ``output`` into files in ``dest``, and check these afterwards.

    Holds one shard at a time. A compaction that was interrupted, or whose run has grown since, goes on where it is.

    Parameters:
        output: the folder or URI of a run.
        dest: an empty place, or an earlier compaction of the same run.
        file_size: bytes of a file, about: whole shards, at least one.

    Raises:
        SettingsError: the run is not complete, or ``dest`` holds something else.
        StorageError: a file cannot be read, written or deleted.
    """
    output, dest = files.absolute(output), files.absolute(dest)
    report = verify_output(output)
    if not report.complete:
        raise SettingsError(f"{output} is not complete, so it cannot be compacted: {' '.join(report.sentences())}")
    plan = load_plan(output)
    expected = recorded_expected(output, plan)
    facts = committed(plan, expected).sound
    parts = _cut(facts, file_size)
    _claim(dest, expected.fingerprint)
    written = 0
    damaged: dict[str, str] = {}
    for part in parts:
        uri = files.join(dest, part.name)
        if (_footer_fault(uri, part, expected.schema) or _body_fault(uri)) is None:
            continue
        _write(uri, part, expected)
        logger.info("%s: %s of %s.", part.name, counted(part.rows, "row"), counted(len(part.shards), "shard"))
        written += 1
        reason = _body_fault(uri)
        if reason is not None:
            damaged[part.name] = reason
    record = {
        "program": COMPACT_PROGRAM,
        "job": read_run(output).job,
        "schema_version": expected.version,
        "fingerprint": expected.fingerprint,
        "steps": expected.steps,
        "file_size": file_size,
        "rows": sum(part.rows for part in parts),
        "parts": [{"name": part.name, "rows": part.rows, "stamp": part.stamp} for part in parts],
    }
    files.write_atomic(files.join(dest, COMPACTION_FILE), (json.dumps(record, indent=2) + "\n").encode())
    for name in part_names(dest) - {part.name for part in parts}:  # of an earlier compaction into more files
        files.delete(files.join(dest, name))
    write_card(dest, output_card(expected, "part-*.parquet"))
    found = verify_compaction(dest)
    found.written = written
    found.damaged |= damaged
    return found


def verify_compaction(dest: str, *, deep: bool = False) -> CompactReport:
    """Check the files of a compaction against its record: all there, unharmed, every id and step once.

    Parameters:
        dest: the place.
        deep: read everything, compare all checksums and decode every image.

    Raises:
        SettingsError: there is no compaction, or it was never finished.
        StorageError: a file cannot be read.
    """
    parts = read_compaction(dest).parts
    report = CompactReport(parts=len(parts))
    keys = []
    for part in parts:
        uri = files.join(dest, part.name)
        reason = _footer_fault(uri, part, None) or (_body_fault(uri) if deep else None)
        if reason is not None:
            report.damaged[part.name] = reason
            continue
        with reading_shard(uri) as file:
            keys.append(file.read(columns=["id", "step"]))
        report.rows += part.rows
    report.strangers = sorted(files.list_names(dest) - {part.name for part in parts} - {COMPACTION_FILE, CARD_FILE})
    if keys:
        counts = pa.concat_tables(keys).group_by(["id", "step"]).aggregate([([], "count_all")])
        doubled = pc.unique(counts.filter(pc.greater(counts["count_all"], 1))["id"]).to_pylist()
        if doubled:
            have = agreed(len(doubled), "has", "have")
            report.damaged["ids"] = f"{len(doubled)} {have} a row twice: {', '.join(doubled[:5])}"
    return report


def _cut(facts: dict[int, ShardFacts], file_size: int) -> list[Part]:
    """Group shards in order, each file at least ``file_size`` bytes, the last one whatever is left."""
    groups = group_by_size(((number, facts[number].size) for number in sorted(facts)), file_size)
    parts = []
    for index, group in enumerate(groups):
        sums = "\n".join(facts[number].body_sha256 for number in group)
        stamp = hashlib.sha256(sums.encode()).hexdigest()
        rows = sum(facts[number].rows for number in group)
        errors = sum(facts[number].errors for number in group)
        parts.append(Part(f"part-{index:06d}.parquet", tuple(group), rows, stamp, errors))
    return parts


def _claim(dest: str, fingerprint: str) -> None:
    """See that ``dest`` is empty or a compaction of the same run, and make it one.

    Raises:
        SettingsError: it is something else.
    """
    names = files.list_names(dest)
    if COMPACTION_FILE in names:
        if read_claim(dest)["fingerprint"] != fingerprint:
            raise SettingsError(f"{dest} is a compaction of another run; name another DEST.")
        return
    if names:
        raise SettingsError(f"{dest} holds {min(names)!r} and is no compaction; name an empty place.")
    record = {"program": COMPACT_PROGRAM, "fingerprint": fingerprint}
    files.write_atomic(files.join(dest, COMPACTION_FILE), (json.dumps(record, indent=2) + "\n").encode())


def _write(uri: str, part: Part, expected: Expected) -> None:
    """Write a part, a row group for each shard."""
    with files.open_new(uri) as file:
        hashing = HashingFile(file.write)
        with shard_writer(pa.PythonFile(hashing, "w"), expected.schema) as writer:
            for shard in part.shards:
                with _sound(shard), reading_shard(shard_uri(expected.output, shard)) as opened:
                    table = opened.read().replace_schema_metadata(None)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            footer = {
                SCHEMA_KEY: str(expected.version),
                ERRORS_KEY: str(part.errors),
                STAMP_KEY: part.stamp,
                BODY_KEY: hashing.hexdigest(),
            }
            writer.add_key_value_metadata(footer)


@contextmanager
def _sound(shard: int) -> Iterator[None]:
    try:
        yield
    except DamagedShardError as error:
        name = shard_name(shard)
        raise SettingsError(
            f"{name} is damaged: {error}. Run dmt-ray verify --deep --discard, and the job."
        ) from error


def _footer_fault(uri: str, part: Part, schema: pa.Schema | None) -> str | None:
    """Say why a file is not the part that it should be, from its footer; None when it is.

    Raises:
        SettingsError: a later version of this program wrote it.
    """
    if not files.exists(uri):
        return "it is missing"
    try:
        with reading_shard(uri) as file:
            file_version(file, uri)
            if footer_keys(file).get(STAMP_KEY) != part.stamp:
                return "it was made of other shards"
            if file.metadata.num_rows != part.rows:
                has = counted(file.metadata.num_rows, "row")
                return f"it has {has}, and {part.rows} {agreed(part.rows, 'is', 'are')} wanted"
            if schema is not None and not file.schema_arrow.remove_metadata().equals(schema):
                return "its columns are not the run's"
    except DamagedShardError as error:
        return str(error)
    return None


def _body_fault(uri: str) -> str | None:
    """Read a part whole, a row group at a time, and say what is wrong with it; None when nothing is."""
    try:
        with reading_shard(uri) as file:
            if body_sha256(uri) != footer_keys(file).get(BODY_KEY):
                return "its bytes are not those that were written (checksum)"
            wrong = wrong_images(file)
    except DamagedShardError as error:
        return str(error)
    are = agreed(len(wrong), "is", "are")
    return f"{counted(len(wrong), 'image')} {are} damaged: {some_of(wrong)}" if wrong else None
