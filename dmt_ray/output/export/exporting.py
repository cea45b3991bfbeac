"""An export from its beginning to its end: unit by unit, in threads; one that was stopped goes on where it was.

A unit is done when its part of the manifest lies there, made of the same rows, and the files that it names do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from dmt_ray.output.export.huggingface import HuggingFaceWriter
from dmt_ray.output.export.image_files import FilesWriter
from dmt_ray.output.export.manifest import Entry, Part, drop_parts, read_part, write_part
from dmt_ray.output.export.options import ExportFormat, ExportOptions
from dmt_ray.output.export.record import EXPORT_FILE, ExportRecord, claim
from dmt_ray.output.export.run import ExportedRun, open_run
from dmt_ray.output.export.units import Unit, Writer, rows_key
from dmt_ray.output.export.webdataset import WebDatasetWriter
from dmt_ray.output.export.writing import Destination
from dmt_ray.output.shard_file import each
from dmt_ray.storage import files
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

_WRITERS: dict[ExportFormat, Callable[[ExportedRun, ExportOptions, Destination, Callable[[], None]], Writer]] = {
    "files": FilesWriter,
    "webdataset": WebDatasetWriter,
    "huggingface": HuggingFaceWriter,
}


@dataclass(frozen=True)
class ExportReport:
    """What an export did."""

    pictures: int
    files: int
    size: int
    """Bytes of the files."""
    created: int
    """Pictures that were not there before."""
    errors: int
    """Error rows, which have no picture."""
    left_out: int
    """Pictures that ``only`` left out."""

    def sentences(self) -> list[str]:
        """Say what was done, one fact a line."""
        lines = [
            f"{counted(self.pictures, 'picture')} in {counted(self.files, 'file')} ({self.size / 1e6:.1f} MB); "
            f"{self.created} of them {agreed(self.created, 'was', 'were')} written now."
        ]
        if self.left_out:
            were = agreed(self.left_out, "was", "were")
            lines.append(f"{counted(self.left_out, 'picture')} {were} left out by --only.")
        if self.errors:
            have = agreed(self.errors, "has", "have")
            lines.append(f"{counted(self.errors, 'error row')} {have} no picture.")
        return lines


#: Bytes of shards that are held side by side at most; one is held in any case.
_HELD_BYTES = 10**9


class _StoppedError(Exception):
    """The export ends early: another unit failed, or the user pressed Ctrl-C."""


def export(output: str, dest: str, options: ExportOptions) -> ExportReport:
    """Export the pictures of the finished run, or of the compaction, at ``output``.

    Parameters:
        output: the folder or URI of a run, or of a compaction.
        dest: an empty place, or an earlier export of the same run with the same options, which goes on.
        options: what to export, and how.

    Raises:
        SettingsError: the run is not complete or has no pictures, ``dest`` holds something else, the condition is not
            sound, the pictures cannot be signed, or somebody's own file has the name of a picture.
        StorageError: a file cannot be read or written.
    """
    output, dest = files.absolute(output), files.absolute(dest)
    signer = options.signer()
    run = open_run(output, options.only, signer)
    destination = Destination(dest)
    stop = Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    writer = _WRITERS[options.format](run, options, destination, check)
    record = ExportRecord(
        fingerprint=run.expected.fingerprint,
        options=options.recorded() | ({} if signer is None else {"sign_certificate": signer.fingerprint}),
        rows=rows_key(run, sorted(run.facts)) if writer.whole else None,
    )
    claim(dest, record)
    units = writer.units()
    pictures = number_of_files = size = created = 0
    done = each(lambda unit: _do(unit, writer, destination), units, _threads(run, options, writer), stop)
    for count, (entries, new) in enumerate(done, 1):
        created += new
        pictures += sum(entry.id is not None and not entry.animation for entry in entries)
        number_of_files += len({entry.path for entry in entries})
        size += sum(entry.size for entry in entries if (entry.id is None) == writer.whole)
        if new:
            logger.info("%d of %s: %s.", count, counted(len(units), "part"), counted(pictures, "picture"))
    writer.finish(destination)
    drop_parts(dest, len(units))
    errors = sum(facts.errors for facts in run.facts.values())
    left_out = sum(facts.rows for facts in run.facts.values()) - errors - pictures
    finished = record.done(pictures=pictures, files=number_of_files, errors=errors, left_out=left_out)
    files.write_atomic(files.join(dest, EXPORT_FILE), finished.to_bytes())
    return ExportReport(pictures, number_of_files, size, created, errors, left_out)


def _threads(run: ExportedRun, options: ExportOptions, writer: Writer) -> int:
    """Return how many units to work on side by side: each thread holds a shard."""
    largest = max(facts.size for facts in run.facts.values())
    return max(1, min(options.threads, writer.most_threads, _HELD_BYTES // max(1, largest)))


def _do(unit: Unit, writer: Writer, destination: Destination) -> tuple[list[Entry], int]:
    """Do a unit unless it is done; return its entries, and how many pictures were not there before."""
    part = read_part(destination.dest, unit.number)
    earlier: dict[str, str] = {}
    if part is not None:
        if part.key == unit.key and _is_done(part, destination):
            return part.entries, 0
        earlier = {entry.path: entry.sha256 for entry in part.entries}
    written = writer.write(unit, earlier)
    write_part(destination.dest, unit.number, unit.key, written.entries)
    return written.entries, written.created


def _is_done(part: Part, destination: Destination) -> bool:
    """Tell whether the files of a part are there."""
    if not part.announced:
        return all(destination.is_there(entry.path) for entry in part.entries)
    return all(destination.holds(entry.path, entry.sha256) for entry in part.entries if entry.id is None)
