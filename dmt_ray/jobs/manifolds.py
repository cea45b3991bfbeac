"""Saved manifolds as the jobs use them: what is recorded of one, and what it decides for later runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import Array, JobConfig
from dmt_ray.jobs.judging import JudgeModel, JudgeReport
from dmt_ray.jobs.registry import JOBS, job_of
from dmt_ray.storage import files
from dmt_ray.storage.models.array_files import ArrayFile
from dmt_ray.storage.models.manifolds import open_record, save_arrays

Config = TypeVar("Config", bound=JobConfig)

#: Rises when a manifold's arrays or its record change, so that an earlier one is refused and not misread.
CONTENTS = 5


@dataclass(frozen=True)
class LearnedSet:
    """One set of exemplars that a run or a manifold has learned from."""

    count: int
    sha256: str
    """Of the set's content, see ``content_checksum``."""
    listing: str | None = None
    """See ``listing_checksum``."""


@dataclass(frozen=True)
class ManifoldRecord:
    """What a saved manifold was made of."""

    place: str
    job: str
    weights_sha256: str
    sets: Mapping[str, LearnedSet]
    decided: Mapping[str, Mapping[str, Any]]
    """Values of the options that the manifold decides, by section and option."""
    balance: Mapping[str, Any] | None = None
    """See ``balance_record``; None where the classes are not balanced."""
    judge: JudgeReport | None = None
    """The judge whose arrays are saved with it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of later edits that a model of the Python API was fitted with; a run does not look at them."""

    def as_json(self) -> dict[str, object]:
        """Return the record as it is saved, without its place."""
        return {
            "contents": CONTENTS,
            "job": self.job,
            "weights sha256": self.weights_sha256,
            "sets": {
                option: {"count": learned.count, "sha256": learned.sha256} for option, learned in self.sets.items()
            },
            **({} if self.balance is None else {"balance": self.balance}),
            **self.decided,
            **({} if self.judge is None else {"judge": self.judge.as_json()}),
            **({} if not self.options else {"options": dict(self.options)}),
        }

    @property
    def checksum(self) -> str:
        """SHA-256 of what is saved: the exemplars' content, the weights and the settings, wherever it lies.

        Of the judge its network counts, and not how good it is.
        """
        content = self.as_json()
        content.pop("options", None)
        if self.judge is not None:
            content["judge"] = self.judge.sha256
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_manifold(
    place: str,
    config: JobConfig,
    weights_sha256: str,
    sets: Mapping[str, LearnedSet],
    arrays: Mapping[str, Array],
    balance: Mapping[str, Any] | None = None,
    judge: JudgeReport | None = None,
    options: Mapping[str, Any] | None = None,
    chunks: Mapping[str, ArrayFile] | None = None,
    token: str | None = None,
) -> None:
    """Save what was learned of the exemplars, with all that a later run must know of it.

    Parameters:
        place: a folder or URI.
        config: the options that it was learned with.
        weights_sha256: of the network's weights.
        sets: the sets of exemplars by their content.
        arrays: what was learned, the judge's arrays among it.
        balance: see ``balance_record``.
        judge: whose arrays these are.
        options: of later edits, see ``ManifoldRecord``.
        chunks, token: see ``save_arrays``.

    Raises:
        StorageError: it cannot be written.
    """
    decided = {}
    for section, names in job_of(config).decided.items():
        settings = asdict(getattr(config, section))
        decided[section] = {name: settings[name] for name in names if name in settings}
    plain = json.loads(json.dumps(decided))
    record = ManifoldRecord(place, config.job, weights_sha256, sets, plain, balance, judge, options or {})
    save_arrays(place, record.as_json(), arrays, chunks, token)


def read_manifold(config: JobConfig) -> ManifoldRecord | None:
    """Return the record of the manifold that a run uses; None where the run learns from exemplars.

    Raises:
        SettingsError: it is another job's, or of another version of this program.
        StorageError: there is no manifold, or its record is damaged.
    """
    place = job_of(config).saved_manifold(config)
    return None if place is None else open_manifold(place, config.job)


def open_manifold(place: str, job: str) -> ManifoldRecord:
    """Return the record of the manifold that is saved at a place; raises as ``read_manifold``.

    Parameters:
        place: a folder or URI.
        job: name of the job that it must be of.
    """
    saved = open_record(place)
    shown = files.masked(place)
    if saved.get("contents") != CONTENTS:
        raise SettingsError(
            f"The manifold {shown} was made by another version of dmt_ray (contents "
            f"{saved.get('contents')!r}, this one reads {CONTENTS}); make it again."
        )
    if saved.get("job") != job:
        raise SettingsError(f"{shown} holds a manifold of the job {saved.get('job')!r}, not of {job!r}.")
    try:
        sets = {
            str(option): LearnedSet(int(each["count"]), str(each["sha256"])) for option, each in saved["sets"].items()
        }
        decided = {section: dict(saved.get(section, {})) for section in JOBS[job].decided}
        balance = saved.get("balance")
        balance = None if balance is None else dict(balance)
        judge = JudgeReport.from_json(saved.get("judge"))
        options = dict(saved.get("options") or {})
        return ManifoldRecord(place, job, str(saved["weights sha256"]), sets, decided, balance, judge, options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"The manifold {shown} has a record that is not complete ({error}); make it again."
        ) from error


def apply_manifold_settings(config: Config, manifold: ManifoldRecord) -> Config:
    """Return the options with what a saved manifold decides.

    An option that still has its default is taken from the manifold, and so are all others but those that the manifold
    only suggests.

    Raises:
        SettingsError: an option says otherwise than the manifold.
    """
    values: dict[str, object] = {}
    suggested = JOBS[manifold.job].suggested_by(manifold.decided)
    for section, decided in manifold.decided.items():
        given = getattr(config, section)
        defaults = {option.name: option.default for option in fields(given)}
        for name, saved in decided.items():
            value = tuple(saved) if isinstance(saved, list) else saved
            now = getattr(given, name)
            if now not in (defaults[name], value):
                if name in suggested:
                    values[name] = now
                    continue
                raise SettingsError(
                    f"--{name.replace('_', '-')} is {_shown(now)}, and the manifold {files.masked(manifold.place)} "
                    f"was made with {_shown(value)}; leave it out."
                )
            values[name] = value
    sections = {
        section: replace(getattr(config, section), **{name: values[name] for name in decided})
        for section, decided in manifold.decided.items()
    }
    return replace(config, **sections)


def check_weights(manifold: ManifoldRecord, weights_sha256: str) -> None:
    """Raise SettingsError when a manifold was made with other weights."""
    if manifold.weights_sha256 != weights_sha256:
        raise SettingsError(
            f"The manifold {files.masked(manifold.place)} was made with other weights (SHA-256 "
            f"{manifold.weights_sha256[:12]}, and --weights gives {weights_sha256[:12]}); give those, or make the "
            "manifold again."
        )


def check_judge(manifold: ManifoldRecord, judge: JudgeModel | None) -> JudgeReport | None:
    """Return how good the judge of a run is that uses a saved manifold, as far as the manifold knows it.

    Raises:
        SettingsError: the judge is fitted to exemplars, and the manifold was saved without it.
    """
    if judge is None:
        return None
    if manifold.judge is not None and manifold.judge.sha256 == judge.sha256:
        return manifold.judge
    if judge.onnx is not None:
        return JudgeReport(judge.name, judge.sha256)
    raise SettingsError(
        f"The manifold {files.masked(manifold.place)} was saved without the judge {judge.name}; say --judge none, or "
        "make the manifold again."
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
