"""Sets of exemplars as they are listed: from one place, drawn by a seed, told from other listings."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import ExemplarList
from dmt_ray.storage.inputs.registry import open_listing


def list_place(place: str, image_column: str | None = None, uri_column: str | None = None) -> ExemplarList:
    """List the images of one place; see ``open_listing``."""
    listing = open_listing(place, image_column=image_column, uri_column=uri_column)
    return ExemplarList(list(listing), listing.containers)


def naming_option(option: str, listing: Callable[[], ExemplarList]) -> ExemplarList:
    """Return a listing; what is wrong with it is told with the option's name.

    Raises:
        SettingsError: the place cannot be listed.
    """
    try:
        return listing()
    except SettingsError as error:
        raise SettingsError(f"--{option}: {error}") from error


def draw(found: ExemplarList, limit: int | None, seed: int) -> ExemplarList:
    """Return at most ``limit`` of the exemplars, drawn by ``seed``, in their order."""
    items = found.items
    if limit is None or limit >= len(items):
        return found
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    return replace(found, items=[items[index] for index in chosen])


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
