"""Image files: an image's id is its path relative to the place."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa

from dmt_ray.storage.images import image_suffixes
from dmt_ray.storage.inputs.formats import InputFormat, Place
from dmt_ray.storage.inputs.listing import BATCH_ROWS, Listing, listing_batch, relative


def list_images(place: Place) -> Listing:
    """List image files."""
    return Listing(functools.partial(_batches, place), pa.schema([]))


def _batches(place: Place) -> Iterator[pa.RecordBatch]:
    kept = list(place.files)[: place.limit]
    for start in range(0, len(kept), BATCH_ROWS):
        chosen = kept[start : start + BATCH_ROWS]
        identities = [place.files[file] for file in chosen]
        yield listing_batch([relative(file, place.root) for file in chosen], chosen, identities=identities)


IMAGES = InputFormat("images", image_suffixes(), list_images)
