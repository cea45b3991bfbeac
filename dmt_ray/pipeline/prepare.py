"""Everything that a run checks and decides before any actor starts: options, exemplars, weights, plan, what to do."""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.exemplar_sets import balance_record, listing_checksum
from dmt_ray.jobs.exemplars import ExemplarSets, check_exemplars, content_checksum, list_exemplars
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.judging import JudgeModel, JudgeReport, load_judge
from dmt_ray.jobs.manifolds import (
    LearnedSet,
    ManifoldRecord,
    apply_manifold_settings,
    check_judge,
    check_weights,
    read_manifold,
)
from dmt_ray.output.claim import Found, begin, extend, find_run, plan_to_resume
from dmt_ray.output.commit import SHARDS_FOLDER, shard_name
from dmt_ray.output.dataset_card import output_card, write_card
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan, load_plan
from dmt_ray.output.report import some_of
from dmt_ray.output.run_record import PROGRAM, RUN_FILE, RunRecord, read_run
from dmt_ray.output.schema import SCHEMA_VERSION
from dmt_ray.output.shard_file import committed
from dmt_ray.output.versions import check_can_add, recorded_expected
from dmt_ray.pipeline.fingerprint import as_recorded, check_same, deciding_settings, fingerprint
from dmt_ray.pipeline.planning import (
    extended_plan,
    list_run_inputs,
    listing_record,
    new_plan,
    with_secrets,
)
from dmt_ray.storage import files
from dmt_ray.storage.deep_images import check_can_encode
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.models.hashed_weights import Weights
from dmt_ray.storage.models.weights import load_lpips, resolve_weights
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: Damaged shards that are named; the rest is only counted.
MOST_NAMED = 5

_DISTRIBUTIONS = ("dmt-ray", "torch", "torchvision", "ray", "pyarrow")


@dataclass(frozen=True)
class Learnable:
    """What a run learns from, listed and checked."""

    sets: ExemplarSets
    learned: Mapping[str, LearnedSet]
    """The sets by their content."""
    manifold: ManifoldRecord | None
    """The saved manifold that the run uses; None where it learns from exemplars."""

    @property
    def balance(self) -> Mapping[str, Any] | None:
        """What is recorded of the classes' balance, see ``balance_record``; None where they are not balanced."""
        return balance_record(self.sets) if self.manifold is None else self.manifold.balance


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed every check that needs no actor. Nothing has been written yet."""

    config: JobConfig
    shards: Plan
    """All shards; they are read as they are needed."""
    todo: Plan
    """Shards without a sound file, and those to be retried."""
    learnable: Learnable
    weights: Weights
    lpips: Weights | None
    """For LPIPS to the input; None leaves it out."""
    judge: JudgeModel | None
    """For verdicts; None gives none."""
    judge_report: JudgeReport | None
    """How good the judge is, as a saved manifold or an earlier ``run.json`` knows it."""
    settings: Mapping[str, object]
    """Everything that decides a result; see ``deciding_settings``."""
    found: Found
    """What lies in the output."""
    fresh: bool
    """The plan and run.json have to be written first."""
    extended: bool = False
    """So has a plan that has grown."""
    retry: Mapping[int, int] = field(default_factory=dict)
    """Shards whose file is sound, with how many error rows of it are to be done again."""
    masked_plan: bool = False
    """The plan in the output is without secrets, so that workers cannot read it from there."""
    replace: bool = False
    """An earlier run's files have to be deleted before that."""
    listing: Listing | None = None
    """The inputs as they were listed for a new or a grown plan."""

    @property
    def rows_todo(self) -> int:
        """Rows that this run has to make."""
        missing = self.todo.without(self.retry).images
        return len(self.config.strengths) * missing + sum(self.retry.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides a result."""
        return fingerprint(self.settings)

    @property
    def expected(self) -> Expected:
        """What the shards' files must be."""
        output = self.config.output
        return Expected.of(
            output.output,
            self.shards,
            len(self.config.strengths),
            self.fingerprint,
            traversal_only=output.traversal_only,
        )

    @property
    def exemplars(self) -> ExemplarSets:
        """The sets of exemplars; none where they come as a saved manifold."""
        return self.learnable.sets

    @property
    def manifold(self) -> ManifoldRecord | None:
        """The saved manifold that the run uses; None where it learns from exemplars."""
        return self.learnable.manifold

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
    check_can_encode(config.output.image_format)
    config = _with_absolute_places(config)
    manifold = read_manifold(config)
    if manifold is not None:
        config = apply_manifold_settings(config, manifold)
    if config.inputs.displacements is not None:
        _check_displacements(config)
    found = find_run(config.output.output, config.run.mode)
    files.check_writable(config.output.output)
    sets = list_exemplars(config)
    # A new plan is made first: a missing input is told before the exemplars are read.
    resumes = config.run.mode == "resume" and found.written
    listing = None if resumes or config.inputs.displacements is not None else list_run_inputs(config)
    check_exemplars(config, sets)
    weights = resolve_weights(config.model.backbone, config.model.weights)
    if manifold is not None:
        check_weights(manifold, weights.sha256)
    judge = load_judge(config)
    judge_report = None if manifold is None else check_judge(manifold, judge)
    learnable = Learnable(sets, _learned(config, sets, found), manifold)
    settings = deciding_settings(config, weights.sha256, learnable.learned, manifold, judge)
    if found.record is not None and config.run.mode == "resume":
        judge_report = judge_report or JudgeReport.from_json(found.record.details.get("judge"))
        check_can_add(config.output.output)
        check_same(config.output.output, found.record, settings)
    before = plan_to_resume(found, fingerprint(settings)) if config.run.mode == "resume" else None
    masks = config.run.mask_plan or (before is not None and before.file.masked)
    if before is not None and before.file.masked:
        before = with_secrets(config, before, found.record)
    if before is None and config.inputs.displacements is None:
        listing = listing or list_run_inputs(config)
    shards = before or new_plan(config, listing)
    lost = found.record is None and config.inputs.displacements is None  # the record says how inputs were listed
    if before is not None and (config.run.extend or lost):
        listing = list_run_inputs(config, found.record)
        shards = extended_plan(config, before, listing) if config.run.extend else before
    run = PreparedRun(
        config=config,
        shards=shards,
        todo=shards,
        learnable=learnable,
        weights=weights,
        lpips=load_lpips() if config.output.lpips and not config.output.traversal_only else None,
        judge=judge,
        judge_report=judge_report,
        settings=settings,
        found=found,
        fresh=before is None,
        extended=before is not None and shards is not before,
        masked_plan=masks,
        replace=found.written and (config.run.mode == "overwrite" or found.replacing),
        listing=listing,
    )
    return run if before is None else _unfinished(run)


def _learned(config: JobConfig, sets: ExemplarSets, found: Found) -> dict[str, LearnedSet]:
    """Return the sets of exemplars by their content.

    The exemplars are read for that, unless the earlier run has read the very same files.
    """
    recorded = {} if found.record is None else found.record.details.get("exemplars")
    learned = {}
    for option, exemplars in sets.items():
        listing = listing_checksum(exemplars)
        before = recorded.get(option) if isinstance(recorded, dict) else None
        if listing is not None and isinstance(before, dict) and before.get("listing") == listing:
            content = str(before.get("sha256"))
        else:
            content = content_checksum(config, option, exemplars)
        learned[option] = LearnedSet(len(exemplars.items), content, listing)
    return learned


def _unfinished(run: PreparedRun) -> PreparedRun:
    """Return the run with what is still to do: shards without a sound file, of which the damaged are named.

    Raises:
        SettingsError: a table or archive that is still to be read has changed since the plan was made.
    """
    judged = committed(run.shards, run.expected)
    for number, reason in list(judged.damaged.items())[:MOST_NAMED]:
        logger.warning("%s is damaged and will be made again: %s.", shard_name(number), reason)
    if len(judged.damaged) > MOST_NAMED:
        more = counted(len(judged.damaged) - MOST_NAMED, "more damaged shard")
        logger.warning("... and %s.", more)
    if judged.strangers:
        count = len(judged.strangers)
        them = agreed(count, "it", "them")
        logger.warning(
            "%s in %s/ %s of no planned shard, and readers may take %s for rows of this run: %s. "
            "Move %s away, or run dmt-ray verify --discard.",
            counted(count, "name"),
            SHARDS_FOLDER,
            agreed(count, "is", "are"),
            them,
            some_of(judged.strangers),
            them,
        )
    retry = {number: facts.errors for number, facts in judged.sound.items() if facts.errors}
    if not run.config.run.retry_failed:
        retry = {}
    todo = run.shards.without(judged.sound.keys() - retry.keys())
    _check_containers(run.config.output.output, todo)
    return replace(run, todo=todo, retry=retry)


def _check_containers(output: str, todo: Plan) -> None:
    """Raise SettingsError when a table or archive is no longer the one that was planned."""
    for uri in todo.used_containers():
        now = files.identity(uri)
        if now == todo.containers[uri]:
            continue
        what = "is no longer there" if now is None else "has changed"
        raise SettingsError(
            f"{masked(uri)} {what} since {masked(output)} was planned, so its rows may be of other images: put back "
            "the file as it was, take rows by their ids with --extend, or use --mode overwrite or another --output."
        )


def _check_displacements(config: JobConfig) -> None:
    """Check that the run of traversals is whole and was made with the settings that this one has.

    Raises:
        SettingsError: it is not.
    """
    place = config.inputs.displacements
    assert place is not None
    if config.run.extend:
        raise SettingsError("--extend is for the run of traversals; this one does the images which that has.")
    record = read_run(place)
    if record.job != config.job or not record.option("output", "traversal_only"):
        raise SettingsError(f"{place} is no output of `{PROGRAM} {config.job} --traversal-only`.")
    for section in ("model", "traversal"):
        for name, value in as_recorded(asdict(getattr(config, section))).items():
            before = record.option(section, name)
            if name != "weights" and before != value:
                raise SettingsError(
                    f"--{name.replace('_', '-')} is {value!r}, and the displacements in {place} were made with "
                    f"{before!r}."
                )
    plan = load_plan(place)
    left = plan.without(committed(plan, recorded_expected(place, plan)).sound.keys())
    if left:
        shards = counted(len(plan), "shard")
        raise SettingsError(f"{place} still lacks {len(left)} of its {shards}; finish that run first.")


def write_run(run: PreparedRun) -> None:
    """Take the output for a run: write ``run.json`` and the plan, delete what is replaced. See ``output/claim.py``.

    Raises:
        SettingsError: another run has taken the output in the meantime.
        StorageError: a file cannot be written or deleted.
    """
    output = run.config.output.output
    for folder in (output, files.join(output, SHARDS_FOLDER)):
        files.sweep_temporary(folder)
    record = run_record(run)
    card = output_card(run.expected, f"{SHARDS_FOLDER}/*.parquet")
    if run.fresh:
        begin(run.found, record, run.shards, card, replaces=run.replace, masked_plan=run.masked_plan)
        return
    write_card(output, card)
    if run.extended or (run.masked_plan and run.found.plan is not None and not run.found.plan.file.masked):
        extend(output, record, run.shards, masked_plan=run.masked_plan)
    elif run.found.record is None or run.found.record.planned != record.planned:
        record.write()


def run_record(run: PreparedRun) -> RunRecord:
    """Return what ``run.json`` says of a run."""
    before = run.found.record
    if not run.fresh and before is not None:
        planned = before.planned_as(run.shards.images, len(run.shards))
        if run.listing is None:
            return planned
        return replace(planned, details={**planned.details, "listing": listing_record(run.listing)})
    binding = None if run.fresh else run.shards.file.binding
    versions = {name.replace("-", "_"): metadata.version(name) for name in _DISTRIBUTIONS}
    judge = run.judge_report
    if judge is None and run.judge is not None:
        judge = JudgeReport(run.judge.name, run.judge.sha256)
    exemplars = run.learnable.learned if run.manifold is None else run.manifold.sets
    balance = run.learnable.balance
    return RunRecord(
        uri=files.join(run.config.output.output, RUN_FILE),
        job=run.config.job,
        fingerprint=run.fingerprint,
        steps=len(run.config.strengths),
        settings=run.settings,
        config=as_recorded(asdict(run.config)),
        plan=secrets.token_hex(8) if binding is None else binding.name,
        planned={"images": run.shards.images, "shards": len(run.shards)},
        schema_version=SCHEMA_VERSION,
        details={
            "versions": versions | {"python": platform.python_version()},
            "weights": {
                "backbone": run.weights.backbone,
                "origin": run.weights.origin,
                "sha256": run.weights.sha256,
            },
            "exemplars": {option: asdict(learned) for option, learned in exemplars.items()},
            **({} if balance is None else {"balance": balance}),
            "judge": None if judge is None else judge.as_json(),
            "listing": None if run.listing is None else listing_record(run.listing),
        },
    )


def _refuse_passwords(config: JobConfig) -> None:
    """Keep secrets out of run.json, rows and logs by never taking them in."""
    for option, uri in (config.named_places() | {"weights": config.model.weights}).items():
        try:
            parts = urlsplit(uri)
            secret = parts.password or (parts.scheme.startswith("http") and parts.username)
        except ValueError:
            continue
        if secret:
            raise SettingsError(
                f"--{option.replace('_', '-')} holds a password, which would end up in files and logs; "
                "give credentials through the environment."
            )


def _with_absolute_places(config: JobConfig) -> JobConfig:
    """Make local places absolute: a worker's folder is not the driver's, and a resume may come from another one."""
    places: dict[str, object] = {option: files.absolute(place) for option, place in config.named_places().items()}
    return config.with_options(places | {"allow_uri": tuple(map(files.absolute, config.inputs.allow_uri))})
