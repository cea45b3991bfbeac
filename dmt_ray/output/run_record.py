"""``run.json``: what a run is, how it is written, and how it is read back and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

RUN_FILE = "run.json"
PROGRAM = "dmt_ray"

#: How a ``run.json`` of this program begins, so that one that was cut short is known.
_BEGINNING = b'{\n  "program": "dmt_ray '


class DamagedRecordError(DmtError):
    """A ``run.json`` is empty, cut short, or lacks what a run must say; the message tells which."""


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says."""

    uri: str
    """Where it lies."""
    job: str
    fingerprint: str
    """SHA-256 of the settings that decide a result."""
    steps: int
    """Rows per image."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The settings that decide a result, by option."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Every option, by section and name."""
    plan: str | None = None
    """Name that the run's plan bears as well; None in a record of an earlier version."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """How many ``images`` and ``shards``."""
    schema_version: int | None = None
    """Of the shards; None in a record of an earlier version."""
    replacing: bool = False
    """An earlier run's files are still being deleted."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to know: versions, weights, exemplars."""

    def option(self, section: str, name: str) -> Any:
        """Return the value of an option as it was given; None where the record does not say."""
        values = self.config.get(section)
        return values.get(name) if isinstance(values, dict) else None

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        content: dict[str, Any] = {
            "program": f"{PROGRAM} {self.job}",
            "fingerprint": self.fingerprint,
            "plan": self.plan,
            "steps": self.steps,
            "schema_version": self.schema_version,
            "planned": dict(self.planned),
            "settings": dict(self.settings),
            "config": dict(self.config),
            **self.details,
        }
        if self.replacing:
            content["replacing"] = True
        return (json.dumps(content, indent=2) + "\n").encode()

    def write(self) -> None:
        """Write the record in place of what is there.

        Raises:
            StorageError: it cannot be written.
        """
        files.write_atomic(self.uri, self.to_bytes())

    def planned_as(self, images: int, shards: int) -> RunRecord:
        """Return the record with other numbers of planned images and shards."""
        return replace(self, planned={"images": images, "shards": shards})


def read_run(output: str) -> RunRecord:
    """Return the ``run.json`` of the run at ``output``.

    Raises:
        SettingsError: there is none, it is damaged, or it is not one of ours; says what to do.
        StorageError: it cannot be read.
    """
    uri = files.join(output, RUN_FILE)
    if not files.exists(uri):
        raise SettingsError(f"{masked(output)} has no {RUN_FILE}; is it the --output of a run?")
    try:
        return parse_record(uri, files.read_bytes(uri))
    except DamagedRecordError as error:
        raise SettingsError(
            f"{error} Run the job again with the same settings, which writes it anew, or with --mode overwrite."
        ) from error


def parse_record(uri: str, data: bytes) -> RunRecord:
    """Return what the bytes of a ``run.json`` say.

    Raises:
        DamagedRecordError: it is empty, cut short, or a value is missing or of another type.
        SettingsError: it is another program's.
    """
    shown = masked(uri)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        if data.strip() and not data.startswith(_BEGINNING) and not _BEGINNING.startswith(data):
            raise SettingsError(f"{shown} was not written by this program; name another --output.") from error
        raise DamagedRecordError(f"{shown} is empty or cut short.") from error
    if not isinstance(content, dict) or not str(content.get("program")).startswith(f"{PROGRAM} "):
        raise SettingsError(f"{shown} was not written by this program; name another --output.")
    known = {
        "program",
        "fingerprint",
        "plan",
        "steps",
        "schema_version",
        "planned",
        "settings",
        "config",
        "replacing",
    }
    record = RunRecord(
        uri=uri,
        job=str(content["program"]).split()[-1],
        fingerprint=_checked(shown, content, "fingerprint", str),
        steps=_checked(shown, content, "steps", int),
        settings=_checked(shown, content, "settings", dict, {}),
        config=_checked(shown, content, "config", dict, {}),
        plan=_checked(shown, content, "plan", str, None),
        planned=_checked(shown, content, "planned", dict, {}),
        schema_version=_checked(shown, content, "schema_version", int, None),
        replacing=_checked(shown, content, "replacing", bool, False),
        details={name: value for name, value in content.items() if name not in known},
    )
    if record.steps < 1:
        raise DamagedRecordError(f"{shown} says 'steps': {record.steps}, which must be at least 1.")
    return record


def _checked(shown: str, content: Mapping[str, Any], key: str, kind: type[Any], *default: Any) -> Any:
    """Return a value of the record, of the right type; the default where it is missing or null."""
    value = content.get(key)
    if value is None and default:
        return default[0]
    if value is None:
        raise DamagedRecordError(f"{shown} says nothing of {key!r}: it is damaged, or of another version.")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        text = repr(value)[:80]
        raise DamagedRecordError(f"{shown} is damaged: {key!r} is {text}, which must be of type {kind.__name__}.")
    return value


def recorded_fingerprint(output: str) -> str:
    """Return the fingerprint of the settings of the run at ``output``; raises as ``read_run``."""
    return read_run(output).fingerprint
