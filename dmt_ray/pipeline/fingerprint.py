"""What decides a run's result: its settings, flattened and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.judging import JudgeModel
from dmt_ray.jobs.manifolds import LearnedSet, ManifoldRecord
from dmt_ray.output.run_record import RunRecord, recorded_fingerprint
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

#: Settings by option, as JSON gives them back.
Settings = dict[str, object]

#: Options that say what may be read or is kept, and not what is made of it.
_MAY = ("allow_uri",)
#: Sections of the options that decide how a run works, and not what it makes.
HOW_SECTIONS = ("run", "compute")


def deciding_settings(
    config: JobConfig,
    weights_sha256: str,
    learned: Mapping[str, LearnedSet],
    manifold: ManifoldRecord | None,
    judge: JudgeModel | None = None,
) -> Settings:
    """Return everything that decides a result, by option name, as JSON knows it.

    Exemplars, manifolds, weights and classifiers count by their content, wherever they lie. A URI counts whole; its
    HTTP query is hashed, because it may be secret.

    Parameters:
        config: every option.
        weights_sha256: of the network's weights.
        learned: the sets of exemplars, by option.
        manifold: the saved manifold that the run uses.
        judge: what the run's judge is made from.
    """
    flat: dict[str, object] = {"job": config.job}
    for name, section in asdict(config).items():
        if name not in HOW_SECTIONS:
            flat.update(section)
    for name in ("output", "weights", "displacements", "manifold", *_MAY, *learned):
        flat.pop(name, None)
    flat["weights sha256"] = weights_sha256
    for option, exemplars in learned.items():
        flat[f"{option}s"] = exemplars.sha256
    if manifold is not None:
        flat["manifold"] = manifold.checksum
    if judge is not None and judge.onnx is not None:
        flat["judge"] = f"onnx:{judge.sha256}"
    if config.inputs.displacements is not None:
        flat["displacements"] = recorded_fingerprint(config.inputs.displacements)
    return as_recorded(flat)


def as_recorded(settings: Mapping[str, object]) -> Settings:
    """Return settings as JSON gives them back, with the queries of URIs hashed and passwords starred out."""
    recorded: Settings = json.loads(json.dumps(settings), object_hook=_without_secrets)
    return recorded


def _without_secrets(values: dict[str, object]) -> Settings:
    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(each) for each in value]
        return files.fingerprint_uri(value) if isinstance(value, str) else value

    return {name: plain(value) for name, value in values.items()}


def fingerprint(settings: Mapping[str, object]) -> str:
    """Return the SHA-256 of the deciding settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_same(output: str, record: RunRecord, settings: Mapping[str, object]) -> None:
    """See that a run goes on with the settings that it was begun with.

    Raises:
        SettingsError: a setting differs; names each, with both values.
    """
    if record.fingerprint == fingerprint(settings):
        return
    before = record.settings
    names = [name for name in {**settings, **before} if before.get(name) != settings.get(name)]
    differences = "; ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r} now" for name in names)
    raise SettingsError(
        f"{masked(output)} was made with other settings: {differences or 'its fingerprint differs'}. "
        "Give the same settings, --mode overwrite, or another --output."
    )
