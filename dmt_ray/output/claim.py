"""Who owns an output folder: what is found there, and how a run takes it, replaces an earlier run, or goes on.

``run.json`` is written first, and on a free place only when there is none yet: of two runs that begin at once, one
owns the place. The plan follows, and bears the same name as ``run.json``. To replace an earlier run, its ``run.json``
is first replaced by one that says so; what a crash leaves after that is deleted by the next run. So a run can always
go on in a folder that this program wrote, or overwrite it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.output.commit import SHARDS_FOLDER, committed_shards, shard_uri
from dmt_ray.output.dataset_card import CARD_FILE, is_own_card, write_card
from dmt_ray.output.layout import MANIFOLD_FOLDER
from dmt_ray.output.masked_plan import without_secrets
from dmt_ray.output.plan import Plan, bound_to, load_plan, write_plan_file
from dmt_ray.output.plan_file import PLAN_FILE, Binding, DamagedPlanError
from dmt_ray.output.report_files import delete_report
from dmt_ray.output.run_record import RUN_FILE, DamagedRecordError, RunRecord, parse_record
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.models.manifolds import delete_arrays

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What lies in an output folder that is free, or that this program has written."""

    output: str
    record: RunRecord | None
    """What ``run.json`` says; None where it is missing or damaged."""
    plan: Plan | None
    """The plan that belongs to the record; None where it is missing, damaged, or another run's."""
    plan_fault: str | None
    """What is wrong with the plan, in a sentence; None where nothing is, or where there is none to be wrong."""
    shards: frozenset[int]
    """Shards that have a file."""
    written: bool
    """Something of an earlier run lies there."""

    @property
    def replacing(self) -> bool:
        """An earlier run was being replaced when the process ended."""
        return self.record is not None and self.record.replacing


def find_run(output: str, mode: str) -> Found:
    """Look at an output folder before a run.

    Parameters:
        output: the folder or URI.
        mode: ``resume``, ``overwrite`` or ``error``.

    Raises:
        SettingsError: the place belongs to something else, or is not empty although it must be.
        StorageError: it cannot be listed or read.
    """
    names = files.list_names(output)
    shown = masked(output)
    if mode == "error" and names:
        raise SettingsError(f"{shown} is not empty, and --mode error wants an empty place.")
    record: RunRecord | None = None
    damaged_record = False
    if RUN_FILE in names:
        uri = files.join(output, RUN_FILE)
        try:
            record = parse_record(uri, files.read_bytes(uri))
        except DamagedRecordError as error:
            damaged_record = True
            logger.warning("%s", error)
    plan, fault = _find_plan(output, names, record)
    shards = frozenset(committed_shards(output)) if SHARDS_FOLDER in names else frozenset[int]()
    if record is None:
        others = names - {PLAN_FILE, RUN_FILE}
        if SHARDS_FOLDER in others and not files.list_names(files.join(output, SHARDS_FOLDER)):
            others -= {SHARDS_FOLDER}
        if CARD_FILE in others and is_own_card(output):
            others -= {CARD_FILE}
        marked = plan is not None or any(_is_ours(output, shard) for shard in sorted(shards))
        if others and not marked:
            raise SettingsError(
                f"{shown} holds {min(others)!r} and no sound {RUN_FILE}, so it is not known as an output of this "
                "program and is left alone; name another --output."
            )
    return Found(output, record, plan, fault, shards, written=record is not None or damaged_record or bool(shards))


def _find_plan(output: str, names: set[str], record: RunRecord | None) -> tuple[Plan | None, str | None]:
    """Return the plan of an output, and what is wrong with it."""
    if PLAN_FILE not in names:
        return None, None if record is None else f"it has no {PLAN_FILE}"
    try:
        plan = load_plan(output)
    except DamagedPlanError as error:
        return None, str(error).rstrip(".")
    if record is not None and record.plan is not None:
        binding = plan.file.binding
        if binding is None or binding != Binding(record.fingerprint, record.plan):
            return None, f"its {PLAN_FILE} belongs to another run than its {RUN_FILE}"
    return plan, None


def _is_ours(output: str, shard: int) -> bool:
    """Tell whether a shard's file bears this program's mark in its footer."""
    try:
        with files.open_file(shard_uri(output, shard)) as source:
            keys = pq.ParquetFile(source).metadata.metadata or {}
    except (DmtError, OSError, ValueError):  # a damaged file proves nothing
        return False
    return any(key.startswith(b"dmt_ray.") for key in keys)


def plan_to_resume(found: Found, fingerprint: str) -> Plan | None:
    """Return the plan that a run goes on with; None where it has to be made, because nothing was done yet.

    Where ``run.json`` is lost or damaged, a plan of the same settings stands in for it.

    Parameters:
        found: what lies in the output.
        fingerprint: of the run's settings, which are those of ``run.json`` where there is one.

    Raises:
        SettingsError: shards are there, and cannot be gone on from; says what to do.
    """
    remedy = "use --mode overwrite or another --output"
    shown = masked(found.output)
    if found.replacing or (found.plan is None and not found.shards):
        return None
    if found.record is None and found.plan is not None:
        binding = found.plan.file.binding
        if binding is not None and binding.fingerprint == fingerprint:
            logger.warning(
                "%s has no sound %s; it is written anew, since the plan has these settings.", shown, RUN_FILE
            )
            return found.plan
        if not found.shards:
            return None
        raise SettingsError(
            f"{shown} has lost its {RUN_FILE}, and its {PLAN_FILE} was made with other settings: give the settings "
            f"that it was made with, {remedy}."
        )
    if found.plan is None:
        reason = found.plan_fault or f"it has no {PLAN_FILE}"
        raise SettingsError(f"{shown} has shards but cannot be resumed, because {reason}; {remedy}.")
    return found.plan


def begin(
    found: Found, record: RunRecord, plan: Plan, card: bytes, *, replaces: bool, masked_plan: bool = False
) -> None:
    """Take the place for a new run: ``run.json`` first, then the card and the plan.

    Parameters:
        found: what lies there.
        record: of the new run; ``record.plan`` names its plan.
        plan: all shards.
        card: the dataset card.
        replaces: an earlier run's files are deleted in between.
        masked_plan: the plan is written without secrets.

    Raises:
        SettingsError: another run has taken the place in the meantime.
        StorageError: a file cannot be written or deleted.
    """
    output = found.output
    assert record.plan is not None
    if replaces:
        replace(record, replacing=True).write()
        delete_run(output)
    elif found.record is None and not found.written:
        if not files.write_new(record.uri, record.to_bytes()):
            record = _joined(output, record)
    else:
        if found.record is not None and found.record.plan is not None:
            record = replace(record, plan=found.record.plan)
        record.write()
    _check_owner(output, record)
    write_card(output, card)
    assert record.plan is not None
    bound = bound_to(plan, Binding(record.fingerprint, record.plan))
    write_plan_file(output, without_secrets(bound) if masked_plan else bound)
    if replaces:
        record.write()


def _joined(output: str, record: RunRecord) -> RunRecord:
    """Return the record of the run that has begun here in the same moment, if it is the same run.

    Raises:
        SettingsError: it is another run.
    """
    other = _owner(output)
    if other is None or other.fingerprint != record.fingerprint:
        raise SettingsError(
            f"Another run has begun in {masked(output)} in the meantime, with other settings; name another --output."
        )
    return replace(record, plan=other.plan)


def _owner(output: str) -> RunRecord | None:
    uri = files.join(output, RUN_FILE)
    try:
        return parse_record(uri, files.read_bytes(uri))
    except DmtError:
        return None


def _check_owner(output: str, record: RunRecord) -> None:
    other = _owner(output)
    if other is None or other.fingerprint != record.fingerprint:
        raise SettingsError(
            f"Another run has taken {masked(output)} in the meantime, with other settings; name another --output."
        )


def extend(output: str, record: RunRecord, plan: Plan, *, masked_plan: bool = False) -> None:
    """Write a plan that has grown, without secrets where that is asked for, and what ``run.json`` says of it.

    Raises:
        StorageError: a file cannot be written.
    """
    write_plan_file(output, without_secrets(plan) if masked_plan else plan)
    record.planned_as(plan.images, len(plan)).write()


def delete_run(output: str) -> None:
    """Delete what a run wrote at ``output``, and nothing else: shards, manifold, plan and report; ``run.json`` stays.

    Raises:
        StorageError: a file cannot be deleted.
    """
    for shard in sorted(committed_shards(output)):
        files.delete(shard_uri(output, shard))
    delete_arrays(files.join(output, MANIFOLD_FOLDER))
    delete_report(output)
    files.delete(files.join(output, PLAN_FILE))
