"""The second stage of a shard: turn moved features into pictures, and make a row of each, good or bad."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from dmt_ray.jobs.job import Editor, JobConfig
from dmt_ray.method.displacement import Displacement, Edit
from dmt_ray.method.pictures import BATCH, same_shaped
from dmt_ray.output.row import Row
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.batch_size import BatchSize
from dmt_ray.pipeline.bisecting import run_bisecting
from dmt_ray.pipeline.error_rows import error_rows
from dmt_ray.pipeline.masks import decode_mask, working_mask
from dmt_ray.pipeline.overlapping import Finishing, batched, prepared
from dmt_ray.pipeline.result_rows import ResultRows
from dmt_ray.pipeline.staged_images import SourceImage, decode_input
from dmt_ray.pipeline.traversed import TraversedImage, from_table
from dmt_ray.storage.files import masked
from dmt_ray.storage.metadata import read_metadata


@dataclass(frozen=True)
class MadeBy:
    """What every row says of how it was made."""

    worker: str
    """Names the process."""
    device: str
    """Names the device, as ``device_name`` does."""
    weights: str
    """Label of the network's weights."""


class ReconstructionStage:
    """Turns moved features into rows.

    Parameters:
        editor: the job's, as ``make_editor`` returns it.
        config: the run's options.
        results: makes the rows of results.
        made_by: goes into every row.
        threads: decode and encode pictures at the same time.
        batch_size: pictures that are inverted side by side.
        overlap: decode and encode a batch while the device works on another.
    """

    def __init__(
        self,
        editor: Editor,
        config: JobConfig,
        results: ResultRows,
        made_by: MadeBy,
        threads: ThreadPoolExecutor,
        batch_size: BatchSize,
        *,
        overlap: bool,
    ) -> None:
        self._editor, self._config, self._results, self._made_by = editor, config, results, made_by
        self._threads, self._batch_size, self._overlap = threads, batch_size, overlap

    def run(self, traversed: pa.Table, attempts: int) -> pa.Table:
        """Turn moved features into encoded pictures; return a table of ``ROW_SCHEMA``, one row per image and step.

        A run of traversals alone keeps the displacements instead.

        Parameters:
            traversed: a table of ``TRAVERSED_SCHEMA``.
            attempts: how often the shard was begun, this time included.
        """
        shapes = [None if shape is None else tuple(shape) for shape in traversed["working_shape"].to_pylist()]
        begun: dict[int, SourceImage] = {}

        def batches() -> Iterator[list[SourceImage]]:
            for places in self._batches_of(shapes):
                sources = [self._source(image, attempts) for image in from_table(traversed.take(places))]
                begun.update(zip(places, sources, strict=True))
                yield sources

        self._make_rows(batches())
        sources = (begun[place] for place in range(len(shapes)))
        rows = (source.rows or error_rows(source.row, self._config) for source in sources)
        return rows_table(vars(row) for each in rows for row in each)

    def _make_rows(self, batches: Iterator[list[SourceImage]]) -> None:
        """Make the rows of all images that can be done."""
        if self._config.output.traversal_only:
            for source in itertools.chain.from_iterable(batches):
                source.rows = self._displacement_rows(source)
            return
        # Pictures are as large as they are in three batches at most: decoded, on the device, and being encoded.
        finishing = Finishing(self._threads, behind=self._overlap)
        for sources in prepared(self._threads, batches, self._decode, ahead=self._overlap):
            finishing.add(self._inverted([source for source in sources if source.rgb is not None]))
        finishing.wait()

    def _batches_of(self, shapes: Sequence[tuple[int, ...] | None]) -> Iterator[list[int]]:
        """Yield the places of all images in batches of one shape, each as large as fits when it is asked for."""
        for places in same_shaped(shapes, max(1, len(shapes))):
            shape, left = shapes[places[0]], places
            while left:
                most = BATCH
                if shape is not None:
                    height, width = shape[-2:]
                    most = self._batch_size.most(height * width, self._editor.bytes_per_image(height, width))
                yield left[:most]
                left = left[most:]

    def _source(self, image: TraversedImage, attempts: int) -> SourceImage:
        row = Row(
            id=image.id,
            uri=masked(image.uri),
            attempts=attempts,
            seconds_read=image.seconds_read,
            seconds_traverse=image.seconds_traverse,
            worker=self._made_by.worker,
            device=self._made_by.device,
            weights=self._made_by.weights,
            input_sha256=image.input_sha256,
            frames=image.frames,
            truncated=image.truncated,
            error_type=image.error_type,
            error=image.error,
        )
        source = SourceImage(row)
        if image.error_type is None and image.displacement is not None:
            source.data, source.mask_data = image.source, image.mask
            try:
                source.displacement = Displacement.from_bytes(image.displacement)
            except Exception as error:  # a damaged displacement costs its own row
                source.fail(error)
        return source

    def _displacement_rows(self, source: SourceImage) -> list[Row]:
        """Return the rows of an image whose displacement is all that is wanted."""
        if source.displacement is None:
            return error_rows(source.row, self._config)
        steps = [figures for step, figures in enumerate(source.displacement.steps) if step in self._editor.rows]
        row = source.shared_among(len(steps))
        kept = source.displacement.to_bytes()
        return [
            replace(row, step=step, status="ok", displacement=None if step else kept, **asdict(figures))
            for step, figures in enumerate(steps)
        ]

    def _inverted(self, decoded: Sequence[SourceImage]) -> list[Callable[[], None]]:
        """Invert a batch, in parts where less has been found to fit; return what makes the rows of each image."""
        calls: list[Callable[[], None]] = []
        for part in batched(decoded, self._batch_size.limit):
            started = time.perf_counter()
            results = run_bisecting(self._reconstruct_batch, part, self._batch_size.note_out_of_memory)
            seconds = (time.perf_counter() - started) / len(part)
            for source, result in zip(part, results, strict=True):
                calls.append(functools.partial(self._finish, source, result, seconds))
        return calls

    def _decode(self, source: SourceImage) -> SourceImage:
        if source.data is None or source.displacement is None:
            return source
        try:
            rgb = decode_input(source.data, self._config.inputs).rgb
            if source.mask_data is not None:
                source.mask = decode_mask(source.mask_data, rgb, self._config.inputs.max_pixels)
            source.rgb = rgb
            source.metadata = read_metadata(source.data, self._config.inputs.max_pixels)
        except Exception as error:
            source.fail(error)
        return source

    def _reconstruct_batch(self, batch: Sequence[SourceImage]) -> list[list[Edit]]:
        pictures = np.stack([self._editor.working(source.rgb) for source in batch if source.rgb is not None])
        height, width = pictures.shape[-2:]
        masks = [None if source.mask is None else working_mask(source.mask, height, width) for source in batch]
        displacements = [source.displacement for source in batch if source.displacement is not None]
        return self._editor.reconstruct(pictures, displacements, masks)

    def _finish(self, source: SourceImage, result: list[Edit] | Exception, seconds: float) -> None:
        """Make the rows of one image, or note in its row why there are none."""
        try:
            if isinstance(result, Exception):
                raise result
            shared = source.shared_among(len(result))
            self._results.deepen(source)
            for step, edit in enumerate(result):
                started = time.perf_counter()
                row = replace(shared, step=step, status="ok", **asdict(edit.figures))
                row = self._results.with_picture(row, source, edit)
                spent = seconds / len(result) + time.perf_counter() - started
                source.rows.append(replace(row, seconds_reconstruct=spent))
        except Exception as error:
            source.rows = []
            source.row = replace(source.row, seconds_reconstruct=seconds)
            source.fail(error)
        finally:
            source.rgb = source.mask = source.data = source.mask_data = None
