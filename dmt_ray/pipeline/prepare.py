"""List the inputs, freeze them into shards, fingerprint the run, and find out what is still to do.

An output folder belongs to a run when it holds ``run.json``. The plan is written first and ``run.json`` second, so a
plan without ``run.json`` is what a crash between the two leaves behind, and is simply made again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from dmt_ray.config import ColorizeConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.editors import JobConfig
from dmt_ray.jobs.exemplars import (
    MANIFOLD_FOLDER,
    ExemplarSets,
    check_exemplars,
    exemplar_places,
    list_exemplars,
    listing_checksum,
    saved_manifold,
)
from dmt_ray.jobs.manifolds import apply_manifold_settings, check_weights, record_checksum
from dmt_ray.output.commit import committed_shards, shard_name, shard_uri
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan import PLAN_FILE, Plan, extend_plan, load_plan, make_plan, plan_bytes
from dmt_ray.output.run_record import PROGRAM, RUN_FILE, read_record, read_run, recorded_fingerprint, recorded_steps
from dmt_ray.output.shard_file import Expected, committed
from dmt_ray.storage import files
from dmt_ray.storage.inputs.registry import open_listing
from dmt_ray.storage.models.manifolds import delete_arrays
from dmt_ray.storage.models.weights import Weights, load_lpips, resolve_weights

logger = logging.getLogger(__name__)


#: Sections of a config that decide how a run works, and not what it makes.
HOW_SECTIONS = ("run", "compute")

#: Damaged shards that are named; the rest is only counted.
MOST_SAID = 5

_DISTRIBUTIONS = ("dmt-ray", "torch", "torchvision", "ray", "pyarrow")


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed every check that needs no actor. Nothing has been written yet."""

    config: JobConfig
    shards: Plan
    """All shards; they are read as they are needed."""
    todo: Plan
    """Shards without a sound file, and those to be retried."""
    exemplars: ExemplarSets
    weights: Weights
    lpips: Weights | None
    """For LPIPS to the input; None leaves it out."""
    manifold: Mapping[str, Any] | None
    """The record of the saved manifold that the run uses; None where it learns from exemplars."""
    fresh: bool
    """The plan and run.json have to be written first."""
    extended: bool = False
    """So has a plan that has grown."""
    retry: Mapping[int, int] = field(default_factory=dict)
    """Shards whose file is sound, with how many error rows of it are to be done again."""
    replace: bool = False
    """An earlier run's files have to be deleted before that."""

    @property
    def rows_todo(self) -> int:
        """Rows that this run has to make."""
        missing = self.todo.without(self.retry).images
        return len(self.config.strengths) * missing + sum(self.retry.values())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything that decides a result; see ``deciding_settings``."""
        return fingerprint(deciding_settings(self.config, self.weights, self.exemplars, self.manifold))

    @property
    def expected(self) -> Expected:
        """What the shards' files must be."""
        return Expected.of(self.config.output.output, self.shards, len(self.config.strengths), self.fingerprint)

    @property
    def weights_label(self) -> str:
        """What the ``weights`` column says: the backbone and its checksum, or random:SEED."""
        if self.config.model.weights.startswith("random:"):
            return self.config.model.weights
        return f"{self.weights.backbone}:{self.weights.sha256[:12]}"


def prepare_run(config: JobConfig) -> PreparedRun:
    """Check everything that can be checked without Ray, and decide what is to do. Writes nothing.

    Raises:
        SettingsError: an input, reference, weight file or output does not allow the run.
        StorageError: a place cannot be reached.
    """
    _refuse_passwords(config)
    config, manifold = apply_manifold_settings(_with_absolute_places(config))
    output, mode = config.output.output, config.run.mode
    names = files.list_names(output)
    record = _existing_record(output, names, mode)
    files.check_writable(output)
    exemplars = list_exemplars(config)
    inputs = config.inputs
    resuming = record is not None and mode == "resume" and PLAN_FILE in names
    shards = load_plan(output) if resuming else None
    if inputs.displacements is not None:
        _check_displacements(config)
        shards = load_plan(inputs.displacements) if shards is None else shards
    before = shards
    if shards is None or config.run.extend:
        listing = open_listing(
            inputs.input, image_column=inputs.image_column, uri_column=inputs.uri_column, limit=inputs.limit
        )
        input_columns = output_fields(listing.input_columns)
        if shards is None:
            shards = make_plan(listing, config.output.shard_size, input_columns)
        else:
            _check_same_columns(inputs.input, shards.input_columns, input_columns)
            shards = extend_plan(shards, listing, config.output.shard_size)
    check_exemplars(config, exemplars)
    weights = resolve_weights(config.model.backbone, config.model.weights)
    if manifold is not None:
        check_weights(saved_manifold(config) or "", manifold, weights)
    if record is not None and mode == "resume":
        _check_same(output, record, deciding_settings(config, weights, exemplars, manifold))
    if record is not None and mode == "resume" and not resuming and committed_shards(output):
        raise SettingsError(
            f"{output} has shards but no {PLAN_FILE}, so it cannot be resumed; use --mode overwrite or another "
            "--output."
        )
    run = PreparedRun(
        config=config,
        shards=shards,
        todo=shards,
        exemplars=exemplars,
        weights=weights,
        lpips=load_lpips() if config.output.lpips and not config.output.traversal_only else None,
        manifold=manifold,
        fresh=not resuming,
        extended=before is not None and shards is not before,
        replace=record is not None and mode == "overwrite",
    )
    return _with_unfinished(run) if resuming else run


def _with_unfinished(run: PreparedRun) -> PreparedRun:
    """Return the run with what is still to do: shards without a sound file, of which the damaged are named."""
    found = committed(run.shards, run.expected)
    for number, reason in list(found.damaged.items())[:MOST_SAID]:
        logger.warning("%s is damaged and will be made again: %s.", shard_name(number), reason)
    if len(found.damaged) > MOST_SAID:
        logger.warning("... and %d more damaged shards.", len(found.damaged) - MOST_SAID)
    retry = {number: facts.errors for number, facts in found.sound.items() if facts.errors}
    if not run.config.run.retry_failed:
        retry = {}
    return replace(run, todo=run.shards.without(found.sound.keys() - retry.keys()), retry=retry)


def write_run(run: PreparedRun) -> None:
    """Freeze a run in its output folder: delete what it replaces, write a new or longer plan, then ``run.json``.

    Raises:
        StorageError: a file cannot be written or deleted.
    """
    output = run.config.output.output
    if run.extended:
        files.write_atomic(files.join(output, PLAN_FILE), plan_bytes(run.shards))
        record = read_record(files.join(output, RUN_FILE)) | {"planned": _planned(run)}
    elif run.fresh:
        if run.replace:
            delete_run(output)
        files.write_atomic(files.join(output, PLAN_FILE), plan_bytes(run.shards))
        record = run_record(run)
    else:
        return
    files.write_atomic(files.join(output, RUN_FILE), (json.dumps(record, indent=2) + "\n").encode())


def delete_run(output: str) -> None:
    """Delete the files of the run at ``output`` and no others: shards, plan, and ``run.json`` last.

    A crash in between leaves ``run.json`` behind, so that the folder still counts as ours.
    """
    for shard in sorted(committed_shards(output)):
        files.delete(shard_uri(output, shard))
    delete_arrays(files.join(output, MANIFOLD_FOLDER))
    for name in (PLAN_FILE, RUN_FILE):
        if files.exists(files.join(output, name)):
            files.delete(files.join(output, name))


def _check_displacements(config: JobConfig) -> None:
    """Check that the run of traversals is whole and was made with the settings that this one has."""
    place = config.inputs.displacements
    assert place is not None
    if config.run.extend:
        raise SettingsError("--extend is for the run of traversals; this one does the images which that has.")
    record = read_run(place)
    if record["program"] != program(config) or not record["config"]["output"]["traversal_only"]:
        raise SettingsError(f"{place} is no output of `{program(config)} --traversal-only`.")
    now, before = _plain(asdict(config)), record["config"]
    for section in ("model", "traversal"):
        for name, value in now[section].items():
            if name != "weights" and before[section].get(name) != value:
                raise SettingsError(
                    f"--{name.replace('_', '-')} is {value!r}, and the displacements in {place} were made with "
                    f"{before[section].get(name)!r}."
                )
    plan = load_plan(place)
    expected = Expected.of(place, plan, recorded_steps(place), recorded_fingerprint(place))
    left = plan.without(committed(plan, expected).sound.keys())
    if left:
        raise SettingsError(f"{place} still lacks {len(left)} of its {len(plan)} shards; finish that run first.")


def deciding_settings(
    config: JobConfig, weights: Weights, exemplars: ExemplarSets, manifold: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return everything that decides a result, by option name, as JSON knows it."""
    flat: dict[str, Any] = {"job": config.job}
    for name, section in asdict(config).items():
        if name not in HOW_SECTIONS:
            flat.update(section)
    del flat["output"]
    del flat["weights"]  # wherever they came from, their checksum decides
    flat["weights sha256"] = weights.sha256
    for option, items in exemplars.items():
        flat[f"{option}s"] = listing_checksum(items)
    if manifold is not None:  # wherever it lies
        flat["manifold"] = record_checksum(manifold)
    if config.inputs.displacements is not None:
        flat["displacements"] = recorded_fingerprint(config.inputs.displacements)
    return _plain(flat)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the deciding settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def program(config: JobConfig) -> str:
    """Return what ``run.json`` calls the job."""
    return f"{PROGRAM} {config.job}"


def run_record(run: PreparedRun) -> dict[str, Any]:
    """Return what ``run.json`` says of a run."""
    settings = deciding_settings(run.config, run.weights, run.exemplars, run.manifold)
    versions = {name.replace("-", "_"): metadata.version(name) for name in _DISTRIBUTIONS}
    return {
        "program": program(run.config),
        "fingerprint": fingerprint(settings),
        "settings": settings,
        "config": _plain(asdict(run.config)),
        "versions": versions | {"python": platform.python_version()},
        "weights": {
            "backbone": run.weights.backbone,
            "origin": run.weights.origin,
            "sha256": run.weights.sha256,
        },
        "exemplars": {
            option: {"count": len(items), "sha256": listing_checksum(items)}
            for option, items in run.exemplars.items()
        }
        if run.manifold is None
        else run.manifold["sets"],
        "steps": len(run.config.strengths),
        "planned": _planned(run),
    }


def _planned(run: PreparedRun) -> dict[str, int]:
    return {"images": run.shards.images, "shards": len(run.shards)}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back, with the signatures of URIs starred out."""
    plain: dict[str, Any] = json.loads(
        json.dumps(settings),
        object_hook=lambda d: {k: files.masked(v) if isinstance(v, str) else v for k, v in d.items()},
    )
    return plain


def _refuse_passwords(config: JobConfig) -> None:
    """Keep secrets out of run.json, rows and logs by never taking them in."""
    places = {
        "input": config.inputs.input,
        **exemplar_places(config),
        "output": config.output.output,
        "weights": config.model.weights,
    }
    for option, uri in places.items():
        try:
            parts = urlsplit(uri)
            secret = parts.password or (parts.scheme.startswith("http") and parts.username)
        except ValueError:
            continue
        if secret:
            raise SettingsError(
                f"--{option} holds a password, which would end up in files and logs; "
                "give credentials through the environment."
            )


def _with_absolute_places(config: JobConfig) -> JobConfig:
    """Make local places absolute: a worker's folder is not the driver's, and a resume may come from another one."""
    inputs = replace(config.inputs, input=files.absolute(config.inputs.input))
    if inputs.displacements is not None:
        inputs = replace(inputs, displacements=files.absolute(inputs.displacements))
    output = replace(config.output, output=files.absolute(config.output.output))
    places: dict[str, Any] = {option: files.absolute(place) for option, place in exemplar_places(config).items()}
    if isinstance(config, ColorizeConfig):
        return replace(config, inputs=inputs, output=output, references=replace(config.references, **places))
    masks = config.masks
    if masks.mask_folder is not None:
        masks = replace(masks, mask_folder=files.absolute(masks.mask_folder))
    return replace(config, inputs=inputs, output=output, exemplars=replace(config.exemplars, **places), masks=masks)


def _existing_record(output: str, names: set[str], mode: str) -> dict[str, Any] | None:
    """Return the run.json of the run that owns ``output``, or None when the place is free for a new one."""
    if mode == "error" and names:
        raise SettingsError(f"{output} is not empty, and --mode error wants an empty place.")
    if RUN_FILE not in names:
        if names - {PLAN_FILE}:
            raise SettingsError(
                f"{output} holds {min(names - {PLAN_FILE})!r} and no {RUN_FILE}, so it is not an output of this "
                "program and is left alone; name another --output."
            )
        return None
    return read_record(files.join(output, RUN_FILE))


def _check_same(output: str, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    if record.get("fingerprint") == fingerprint(settings):
        return
    before = record.get("settings") or {}
    names = [name for name in {**settings, **before} if before.get(name) != settings.get(name)]
    differences = "; ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r} now" for name in names)
    raise SettingsError(
        f"{output} was made with other settings: {differences}. "
        "Give the same settings, --mode overwrite, or another --output."
    )


def _check_same_columns(place: str, before: pa.Schema, now: pa.Schema) -> None:
    """Refuse an input whose own columns are no longer those that the output's shards have."""
    names = [name for name in dict.fromkeys([*before.names, *now.names]) if not _same_field(before, now, name)]
    if names:
        raise SettingsError(
            f"{files.masked(place)} has other columns than when the plan was made, so it cannot be extended: "
            f"{', '.join(names)}. Give the same columns, or another --output."
        )


def _same_field(before: pa.Schema, now: pa.Schema, name: str) -> bool:
    known = name in before.names and name in now.names
    return known and bool(before.field(name).type == now.field(name).type)
