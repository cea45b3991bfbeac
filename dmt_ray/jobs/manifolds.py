"""Manifolds that outlive a run: ``fit`` makes one, a run of traversals keeps its own, and later runs take them on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from dmt_ray.config import FitConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.editors import Array, JobConfig
from dmt_ray.jobs.exemplars import (
    ExemplarSets,
    check_exemplars,
    learn_exemplars,
    list_exemplars,
    listing_checksum,
    saved_manifold,
)
from dmt_ray.storage import files
from dmt_ray.storage.models.manifolds import open_record, save_arrays
from dmt_ray.storage.models.weights import Weights, resolve_weights

logger = logging.getLogger(__name__)

#: Rises when a manifold's arrays change, so that an earlier one is refused and not misread.
CONTENTS = 1

#: What a manifold decides for the runs that use it, by section of the job's config.
_DECIDED = {
    "model": ("backbone", "taps", "size", "normalise"),
    "traversal": ("traversal", "standardise"),
    "exemplars": ("attribute_columns", "group_column"),
}


def fit(config: FitConfig, emit: Callable[[str], None] = logger.info) -> None:
    """Learn a manifold of two classes in this process, on a GPU when there is one, and save it.

    Parameters:
        config: all options.
        emit: gets what was done, a line at a time.

    Raises:
        SettingsError: a set of exemplars or the weights cannot be used.
        StorageError: a place cannot be reached.
    """
    job = config.as_transform()
    files.check_writable(config.output)
    sets = list_exemplars(job)
    check_exemplars(job, sets)
    weights = resolve_weights(job.model.backbone, job.model.weights)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    arrays, skipped = learn_exemplars(weights.arrays, sets, job, device)
    for line in skipped:
        logger.warning("An exemplar was left out: %s", line)
    save_manifold(config.output, job, weights, sets, arrays)
    sizes = ", ".join(f"{int(arrays[name])} {name}" for name in ("sources", "targets"))
    total = sum(array.nbytes for array in arrays.values())
    emit(f"Manifold: {files.masked(config.output)}")
    emit(f"{sizes}, {len(skipped)} left out; {total / 1e6:.0f} MB; layers {' '.join(job.model.taps)}.")


def save_manifold(
    place: str, config: JobConfig, weights: Weights, sets: ExemplarSets, arrays: Mapping[str, Array]
) -> None:
    """Save what was learned of the exemplars, with all that a later run must know of it.

    Raises:
        StorageError: it cannot be written.
    """
    record: dict[str, Any] = {
        "contents": CONTENTS,
        "job": config.job,
        "weights sha256": weights.sha256,
        "sets": {option: {"count": len(items), "sha256": listing_checksum(items)} for option, items in sets.items()},
    }
    for section, names in _DECIDED.items():
        settings = asdict(getattr(config, section)) if hasattr(config, section) else {}
        record[section] = {name: settings[name] for name in names if name in settings}
    save_arrays(place, json.loads(json.dumps(record)), arrays)


def apply_manifold_settings(config: JobConfig) -> tuple[JobConfig, Mapping[str, Any] | None]:
    """Return the config with what its saved manifold decides, and the manifold's record; None where it has none.

    An option that still has its default is taken from the manifold.

    Raises:
        SettingsError: an option says otherwise than the manifold, or it is another job's.
        StorageError: there is no manifold, or it is damaged.
    """
    place = saved_manifold(config)
    if place is None:
        return config, None
    record = open_record(place)
    if record.get("contents") != CONTENTS:
        raise SettingsError(
            f"The manifold {files.masked(place)} was made by another version of dmt_ray (contents "
            f"{record.get('contents')!r}, this one reads {CONTENTS}); make it again."
        )
    if record.get("job") != config.job:
        raise SettingsError(f"{place} holds a manifold of the job {record.get('job')!r}, not of {config.job!r}.")
    sections = {}
    for section, names in _DECIDED.items():
        if not hasattr(config, section):
            continue
        given, decided = getattr(config, section), record.get(section, {})
        values = {name: _value(decided[name]) for name in names if name in decided}
        defaults = {name: type(given).__dataclass_fields__[name].default for name in values}
        for name, value in values.items():
            now = getattr(given, name)
            if now not in (defaults[name], value):
                option = name.replace("_", "-")
                raise SettingsError(
                    f"--{option} is {_said(now)}, and the manifold {files.masked(place)} was made with "
                    f"{_said(value)}; leave it out."
                )
        sections[section] = replace(given, **values)
    return replace(config, **sections), record


def check_weights(place: str, record: Mapping[str, Any], weights: Weights) -> None:
    """Raise SettingsError when the manifold was made with other weights."""
    if record.get("weights sha256") != weights.sha256:
        made = str(record.get("weights sha256"))[:12]
        raise SettingsError(
            f"The manifold {files.masked(place)} was made with other weights (SHA-256 {made}, and "
            f"--weights gives {weights.sha256[:12]}); give those, or make the manifold again."
        )


def record_checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifold's record, which names the exemplars' listing and the settings."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
