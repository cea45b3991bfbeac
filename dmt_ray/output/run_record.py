"""``run.json``: what a run is, and how it is read back."""

from __future__ import annotations

import json
from typing import Any

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files

RUN_FILE = "run.json"
PROGRAM = "dmt_ray"


def recorded_steps(output: str) -> int:
    """Return how many rows each image of the run at ``output`` has.

    Raises:
        SettingsError: there is no ``run.json``, or it is not one of ours.
    """
    return int(_recorded(output, "steps"))


def recorded_fingerprint(output: str) -> str:
    """Return the fingerprint of the settings of the run at ``output``.

    Raises:
        SettingsError: there is no ``run.json``, or it is not one of ours.
    """
    return str(_recorded(output, "fingerprint"))


def read_run(output: str) -> dict[str, Any]:
    """Return the ``run.json`` of the run at ``output``.

    Raises:
        SettingsError: there is none, or it is not one of ours.
    """
    uri = files.join(output, RUN_FILE)
    if not files.exists(uri):
        raise SettingsError(f"{output} has no {RUN_FILE}; is it the --output of a run?")
    return read_record(uri)


def _recorded(output: str, key: str) -> Any:
    record = read_run(output)
    if key not in record:
        raise SettingsError(
            f"{files.join(output, RUN_FILE)} is of another version of this program: it says nothing of {key!r}."
        )
    return record[key]


def read_record(uri: str) -> dict[str, Any]:
    """Return the ``run.json`` at ``uri``; raises SettingsError where it is not one of ours."""
    try:
        record = json.loads(files.read_bytes(uri))
    except ValueError:
        record = None
    if not isinstance(record, dict) or not str(record.get("program")).startswith(f"{PROGRAM} "):
        raise SettingsError(f"{uri} was not written by this program; name another --output.")
    return record
