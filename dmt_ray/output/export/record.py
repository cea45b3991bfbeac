"""``export.json``: whose export a folder is, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from dmt_ray.errors import SettingsError
from dmt_ray.output.run_record import PROGRAM
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

EXPORT_FILE = "export.json"
_PROGRAM = f"{PROGRAM} export"


@dataclass(frozen=True)
class ExportRecord:
    """What ``export.json`` says."""

    fingerprint: str
    """Of the run's settings."""
    options: dict[str, object]
    """The options that decide what is written."""
    rows: str | None
    """SHA-256 of what the run's shards say of themselves, where all files depend on all shards; else None."""
    finished: bool = False
    pictures: int = 0
    files: int = 0
    errors: int = 0
    """Error rows, which have no picture."""
    left_out: int = 0
    """Pictures that ``--only`` leaves out."""

    def same_export(self, other: ExportRecord) -> bool:
        """Tell whether another record is of the same run, rows and options."""
        return (self.fingerprint, self.options, self.rows) == (other.fingerprint, other.options, other.rows)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return (json.dumps({"program": _PROGRAM, **asdict(self)}, indent=2) + "\n").encode()

    def done(self, *, pictures: int, files: int, errors: int, left_out: int) -> ExportRecord:
        """Return the record of a finished export."""
        return replace(self, finished=True, pictures=pictures, files=files, errors=errors, left_out=left_out)


def claim(dest: str, record: ExportRecord) -> None:
    """See that a place is empty or the same export, and make it that.

    Raises:
        SettingsError: it is something else; says what.
        StorageError: it cannot be read or written.
    """
    uri = files.join(dest, EXPORT_FILE)
    names = files.list_names(dest)
    if names and EXPORT_FILE not in names:
        raise SettingsError(f"{masked(dest)} holds {min(names)!r} and is no export; name an empty place.")
    if not names and files.write_new(uri, record.to_bytes()):
        return
    found = _read(uri)
    if found.same_export(record):
        return
    if found.fingerprint != record.fingerprint:
        reason = "of another run"
    elif found.options != record.options:
        differing = sorted(
            name.replace("_", "-")
            for name in found.options.keys() | record.options.keys()
            if found.options.get(name) != record.options.get(name)
        )
        reason = f"with other options (--{', --'.join(differing)})"
    else:
        reason = "of this run as it was before rows were added or done again"
    raise SettingsError(f"{masked(dest)} is an export {reason}; name another DEST.")


def _read(uri: str) -> ExportRecord:
    """Read a record.

    Raises:
        SettingsError: it is damaged, or another program's.
        StorageError: it cannot be read.
    """
    try:
        said = json.loads(files.read_bytes(uri))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("program") != _PROGRAM:
        raise SettingsError(f"{masked(uri)} was not written by this program; name another place.")
    fingerprint, options, rows = said.get("fingerprint"), said.get("options"), said.get("rows")
    if not isinstance(fingerprint, str) or not isinstance(options, dict) or not isinstance(rows, str | None):
        raise SettingsError(f"{masked(uri)} is damaged; export into an empty place.")
    return ExportRecord(fingerprint, options, rows)
