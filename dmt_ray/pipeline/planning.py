"""The plan of a run: made of its inputs, taken from a run of traversals, grown, or completed by what was masked."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.masked_plan import completed
from dmt_ray.output.plan import Plan, extend_plan, load_plan, make_plan
from dmt_ray.output.run_record import RunRecord
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.formats import OptionNames
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.inputs.registry import open_listing

#: The option that decides which kind of input a place is.
KIND_OPTION = "--input-kind"


def list_run_inputs(config: JobConfig, record: RunRecord | None = None) -> Listing:
    """List the inputs; those that come to an earlier run's are of the kind that it took."""
    inputs = config.inputs
    earlier = None if record is None else record.details.get("listing")
    return open_listing(
        inputs.input,
        image_column=inputs.image_column,
        uri_column=inputs.uri_column,
        kind=inputs.input_kind or (earlier.get("kind") if isinstance(earlier, dict) else None),
        where=inputs.where,
        sample=inputs.sample,
        seed=inputs.seed,
        limit=inputs.limit,
        output=config.output.output,
        options=OptionNames(kind=KIND_OPTION),
    )


def listing_record(listing: Listing) -> dict[str, Any]:
    """Return what ``run.json`` says of how the inputs were listed."""
    return {"kind": listing.kind, "passed_over": listing.passed_over.as_json()}


def new_plan(config: JobConfig, listing: Listing | None) -> Plan:
    """Return the plan of a run that begins: its inputs cut into shards, or those of the run of traversals."""
    if listing is None:
        assert config.inputs.displacements is not None
        return displaced_plan(config.inputs.displacements)
    return make_plan(listing, config.output.shard_size, output_fields(listing.input_columns))


def displaced_plan(place: str) -> Plan:
    """Return the plan of the run of traversals.

    Raises:
        SettingsError: it was written without the secrets in its URIs, which no option can name here.
    """
    plan = load_plan(place)
    if plan.file.masked:
        raise SettingsError(
            f"The plan in {place} was written with --mask-plan, so its photos cannot be read again from there: make "
            "the displacements without that option, and keep their folder private."
        )
    return plan


def with_secrets(config: JobConfig, plan: Plan, record: RunRecord | None) -> Plan:
    """Return a plan with the secrets that it was written without, as the input has them now; see ``completed``."""
    if config.inputs.displacements is not None:
        source = displaced_plan(config.inputs.displacements)
        return completed(plan, source.file.groups(), source.containers, config.inputs.displacements)
    listing = list_run_inputs(config, record)
    return completed(plan, listing.batches(), listing.containers, config.inputs.input)


def extended_plan(config: JobConfig, plan: Plan, listing: Listing) -> Plan:
    """Return the plan with the inputs that are new.

    Raises:
        SettingsError: the input has other columns, or a table has changed whose rows nothing tells apart, or the
            inputs were drawn.
    """
    place = config.inputs.input
    if config.inputs.sample is not None:
        raise SettingsError("--extend cannot be given with --sample: another draw would be other inputs.")
    _check_same_columns(place, plan.input_columns, output_fields(listing.input_columns))
    changed = [uri for uri, now in listing.containers.items() if plan.containers.get(uri, now) != now]
    if changed and not listing.proves_rows:
        raise SettingsError(
            f"{masked(changed[0])} has changed since the plan was made, and its rows have no ids of their own to be "
            "told by: give it a column 'id', or add the new images in another file."
        )
    return extend_plan(plan, listing, config.output.shard_size)


def _check_same_columns(place: str, before: pa.Schema, now: pa.Schema) -> None:
    """Refuse an input whose own columns are no longer those that the output's shards have."""
    names = [name for name in dict.fromkeys([*before.names, *now.names]) if not _same_field(before, now, name)]
    if names:
        raise SettingsError(
            f"{masked(place)} has other columns than when the plan was made, so it cannot be extended: "
            f"{', '.join(names)}. Give the same columns, or another --output."
        )


def _same_field(before: pa.Schema, now: pa.Schema, name: str) -> bool:
    known = name in before.names and name in now.names
    return known and bool(before.field(name).type == now.field(name).type)
