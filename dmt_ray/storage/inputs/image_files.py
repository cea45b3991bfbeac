"""Image files: an image's id is its path relative to the place. A table beside them may say more of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa

from dmt_ray.storage.images import image_suffixes
from dmt_ray.storage.inputs.formats import InputFormat, Place
from dmt_ray.storage.inputs.image_metadata import ImageMetadata, read_metadata
from dmt_ray.storage.inputs.listing import BATCH_ROWS, Listing, listing_batch, relative
from dmt_ray.storage.inputs.passed_over import PassedOver


def list_images(place: Place) -> Listing:
    """List image files, with the columns of the metadata tables beside them.

    Raises:
        SettingsError: such a table cannot be read.
    """
    kept = list(place.files)[: place.limit]
    metadata = read_metadata(place, kept)
    if metadata is None:
        return Listing(functools.partial(_batches, place, kept, None), pa.schema([]))
    return Listing(
        functools.partial(_batches, place, kept, metadata),
        metadata.columns,
        containers=place.containers(metadata.tables),
        tables=tuple(metadata.tables),
        row_of=metadata.row_of,
        passed_over=PassedOver(remarks=metadata.remarks),
    )


def _batches(place: Place, kept: list[str], metadata: ImageMetadata | None) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(kept), BATCH_ROWS):
        chosen = kept[start : start + BATCH_ROWS]
        identities = [place.files[file] for file in chosen]
        records = None if metadata is None else metadata.records(start, len(chosen))
        yield listing_batch([relative(file, place.root) for file in chosen], chosen, records, identities)


IMAGES = InputFormat("images", image_suffixes(), list_images, lambda place: len(place.files))
