"""Sets of exemplars as they are listed: from one place, drawn by a seed, balanced, told from other listings."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import ExemplarList
from dmt_ray.method.traversal.balancing import balance_classes
from dmt_ray.storage.inputs.registry import open_listing
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)


def exemplar_noun(option: str) -> str:
    """Return what one exemplar of a set is called in messages."""
    return "basis picture" if option == "basis" else option


def none_usable(count: int, option: str, first: str | None = None) -> str:
    """Say that no exemplar of a set can be used, without a full stop.

    Parameters:
        count: of the exemplars.
        option: of the set.
        first: what is wrong with the first of them.
    """
    noun = exemplar_noun(option)
    if count == 1:
        return f"The only {noun} cannot be used" + ("" if first is None else f": {first}")
    return f"None of the {counted(count, noun)} can be used" + ("" if first is None else f"; the first one: {first}")


def list_place(place: str, image_column: str | None = None, uri_column: str | None = None) -> ExemplarList:
    """List the images of one place; see ``open_listing``."""
    listing = open_listing(place, image_column=image_column, uri_column=uri_column)
    return ExemplarList(
        list(listing), listing.containers, passed_over=tuple(listing.passed_over.sentences(listing.kind))
    )


def naming_option(option: str, listing: Callable[[], ExemplarList]) -> ExemplarList:
    """Return a listing; what is wrong with it, and what it passes over, is told with the option's name.

    Raises:
        SettingsError: the place cannot be listed.
    """
    try:
        found = listing()
    except SettingsError as error:
        raise SettingsError(f"--{option}: {error}") from error
    for sentence in found.passed_over:
        logger.warning("--%s: %s", option, sentence)
    return found


def draw(found: ExemplarList, limit: int | None, seed: int) -> ExemplarList:
    """Return at most ``limit`` of the exemplars, drawn by ``seed``, in their order."""
    items = found.items
    if limit is None or limit >= len(items):
        return found
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    values = None if found.balance_values is None else found.balance_values[chosen]
    return replace(found, items=[items[index] for index in chosen], balance_values=values)


def balance_sets(sets: Mapping[str, ExemplarList], columns: Sequence[str]) -> dict[str, ExemplarList]:
    """Return the sets with weights that give sources and targets the same means in some columns.

    Few effective exemplars, and means that stay unequal, are logged as warnings.

    Parameters:
        sets: among them ``source`` and ``target``, with their ``balance_values``.
        columns: what the values are.

    Raises:
        SettingsError: a column is the same for all exemplars.
    """
    source, target = sets["source"], sets["target"]
    if source.balance_values is None or target.balance_values is None:
        raise SettingsError("--balance: the exemplars have no columns to balance by.")
    try:
        balance = balance_classes(source.balance_values, target.balance_values, columns)
    except SettingsError as error:
        raise SettingsError(f"--balance: {error}") from error
    for fault in balance.faults():
        logger.warning("%s", fault)
    return {
        **sets,
        "source": replace(source, balance=balance.sources),
        "target": replace(target, balance=balance.targets),
    }


def balance_record(sets: Mapping[str, ExemplarList]) -> dict[str, Any] | None:
    """Return what a record says of the sets' balance; None where they are not balanced.

    Returns:
        The ``columns``, and by set its ``count``, ``effective_size``, ``means_before`` and ``means_after``.
    """
    balanced = {option: found.balance for option, found in sets.items() if found.balance is not None}
    if not balanced:
        return None
    columns = [list(balance.columns) for balance in balanced.values()]
    return {"columns": columns[0], **{option: balance.as_json() for option, balance in balanced.items()}}


def describe_balance(record: Mapping[str, Any]) -> str:
    """Return what ``balance_record`` returned as one line."""
    parts = []
    for option, side in record.items():
        if option != "columns":
            means = ", ".join(
                f"{name} {side['means_before'][name]:.3g} -> {side['means_after'][name]:.3g}"
                for name in record["columns"]
            )
            count, size = side["count"], side["effective_size"]
            count_as = agreed(count, "counts", "count")
            parts.append(f"{counted(count, exemplar_noun(option))} {count_as} as {size:.1f} (means: {means})")
    return f"Balanced: {'; '.join(parts)}."


def listing_checksum(found: ExemplarList) -> str | None:
    """Return the SHA-256 of the exemplars' ids, URIs and file identities: the same listing has the same content.

    None where the identity of an exemplar's file is not known, so that only its bytes tell.
    """
    digest = hashlib.sha256()
    for item in found.items:
        identity = item.identity or found.containers.get(item.uri.partition("#")[0])
        if identity is None:
            return None
        digest.update(f"{item.id}\n{item.uri}\n{identity}\n".encode())
    digest.update(repr(sorted(found.containers.items())).encode())
    return digest.hexdigest()
