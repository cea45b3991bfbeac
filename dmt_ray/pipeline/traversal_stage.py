"""The first stage of a shard: read its images, and move their features."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from dmt_ray.errors import ImageError
from dmt_ray.jobs.job import Editor, JobConfig
from dmt_ray.jobs.registry import job_of
from dmt_ray.method.pictures import same_shaped
from dmt_ray.output.displacements import SavedDisplacement
from dmt_ray.pipeline.batch_size import BatchSize
from dmt_ray.pipeline.bisecting import run_bisecting
from dmt_ray.pipeline.masks import MaskReader
from dmt_ray.pipeline.overlapping import batched, prepared
from dmt_ray.pipeline.staged_images import LoadedImage, decode_input
from dmt_ray.pipeline.traversed import TraversedImage, to_table
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader


class TraversalStage:
    """Reads images and moves their features.

    Parameters:
        editor: the job's, as ``make_editor`` returns it.
        config: the run's options.
        reader: reads the inputs.
        threads: read images at the same time.
        batch_size: images that are moved side by side.
        overlap: read a batch while the device works on another.
    """

    def __init__(
        self,
        editor: Editor,
        config: JobConfig,
        reader: InputReader,
        threads: ThreadPoolExecutor,
        batch_size: BatchSize,
        *,
        overlap: bool,
    ) -> None:
        self._editor, self._config, self._reader = editor, config, reader
        self._job = job_of(config)
        self._masks = MaskReader(self._job.masks(config), reader)
        self._threads, self._batch_size, self._overlap = threads, batch_size, overlap

    def run(
        self,
        items: Sequence[InputItem],
        saved: Mapping[str, SavedDisplacement] | None = None,
        *,
        accept_changed: bool = False,
    ) -> pa.Table:
        """Read the items and move their features; return a table of ``TRAVERSED_SCHEMA``, one row per item.

        Parameters:
            items: what to read.
            saved: what an earlier traversal made of them, by id; None moves them now.
            accept_changed: photos that have changed since the plan was made are taken as they are now.
        """
        images: list[TraversedImage] = []
        batches = batched(items, self._batch_size.limit)
        # A saved displacement has the checksum of its photo, which says more than the plan's size and time.
        load = functools.partial(self._load, accept_changed=accept_changed or saved is not None)
        for loaded in prepared(self._threads, batches, load, ahead=self._overlap):
            good = [each for each in loaded if each.picture is not None]
            started = time.perf_counter()
            if saved is None:
                moved = self._traversed(good)
            else:
                moved = [_checked(saved[each.image.id], each.image.input_sha256) for each in good]
            seconds = (time.perf_counter() - started) / max(1, len(good))
            for each, displacement in zip(good, moved, strict=True):
                if isinstance(displacement, Exception):
                    each.fail(displacement)
                else:
                    each.image.displacement = displacement
                each.image.seconds_traverse = seconds
            images += [each.image for each in loaded]
        return to_table(images)

    def _load(self, item: InputItem, accept_changed: bool) -> LoadedImage:
        started = time.perf_counter()
        loaded = LoadedImage(TraversedImage(item.id, item.uri))
        try:
            data = self._reader.read_item(item, accept_changed=accept_changed)
            loaded.image.input_sha256 = hashlib.sha256(data).hexdigest()
            decoded = decode_input(data, self._config.inputs)
            loaded.image.frames, loaded.image.truncated = decoded.frames, decoded.truncated
            loaded.identity = self._job.identity(item, data, self._config, self._reader)
            loaded.image.mask = self._masks.read(item)
            loaded.picture = self._editor.working(decoded.rgb)
            loaded.image.working_shape = list(loaded.picture.shape)
            loaded.image.source = data
        except Exception as error:  # every reason is a row, never the end of the shard
            loaded.fail(error)
        loaded.image.seconds_read = time.perf_counter() - started
        return loaded

    def _traversed(self, loaded: Sequence[LoadedImage]) -> list[bytes | Exception]:
        """Return the serialised displacement of each image, or what went wrong, in order."""
        shapes = [None if each.picture is None else each.picture.shape for each in loaded]
        moved: dict[int, bytes | Exception] = {}
        for places in same_shaped(shapes, len(loaded)):
            batch = [loaded[place] for place in places]
            results = run_bisecting(self._traverse_batch, batch, self._batch_size.note_out_of_memory)
            moved |= dict(zip(places, results, strict=True))
        return [moved[place] for place in range(len(loaded))]

    def _traverse_batch(self, batch: Sequence[LoadedImage]) -> list[bytes]:
        pictures = np.stack([loaded.picture for loaded in batch if loaded.picture is not None])
        found = self._editor.traverse(pictures, [loaded.identity for loaded in batch])
        return [displacement.to_bytes() for displacement in found]


def _checked(saved: SavedDisplacement, input_sha256: str | None) -> bytes | Exception:
    """Return a saved displacement if it is of the bytes that were read now, else what is wrong."""
    if saved.error is not None:
        return saved.error
    if saved.input_sha256 is not None and saved.input_sha256 != input_sha256:
        return ImageError(
            "changed", "The photo is not the one that was traversed: its bytes have changed since then."
        )
    return saved.data or ImageError("bad-displacement", "The run of traversals saved no displacement for this image.")
