"""What is done to the images of one shard, without Ray: read, traverse, reconstruct, and a row for each, good or bad.

A bad image becomes an error row. When a whole batch fails, it is cut in half until the image that is to blame stands
alone; the same cut lets a batch that does not fit into memory go through in smaller ones.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from dmt_ray import __version__
from dmt_ray.errors import DmtError, ImageError
from dmt_ray.jobs.exemplars import READER_THREADS, make_editor
from dmt_ray.jobs.job import Array, JobConfig
from dmt_ray.jobs.judging import JudgeModel
from dmt_ray.jobs.registry import job_of
from dmt_ray.method.displacement import Displacement, Edit
from dmt_ray.method.metrics.pixels import colorfulness
from dmt_ray.method.pictures import BATCH, same_shaped
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.output.displacements import SavedDisplacement
from dmt_ray.output.row import Row
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.batch_size import BatchSize
from dmt_ray.pipeline.bisecting import run_bisecting
from dmt_ray.pipeline.devices import device_name
from dmt_ray.pipeline.masks import MaskReader, decode_mask, working_mask
from dmt_ray.pipeline.overlapping import Finishing, prepared
from dmt_ray.pipeline.traversed import TraversedImage, from_table, to_table
from dmt_ray.storage.deep_images import DEEP_FORMATS, decode_image16
from dmt_ray.storage.files import masked
from dmt_ray.storage.images import DecodedImage, decode, encode_animation, encode_image
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.metadata import Beside, Metadata, beside_pixels, read_metadata
from dmt_ray.storage.provenance import Provenance

logger = logging.getLogger(__name__)

Part = TypeVar("Part")


class ShardProcessor:
    """A model on a device, with all that one actor needs to turn items into rows.

    Parameters:
        arrays: network weights by torchvision name.
        exemplars: what ``learn_exemplars`` made.
        config: the run's options.
        device: torch device, such as ``cuda:0``.
        weights_label: goes into every row.
        fingerprint: of the run's settings; goes into every result's file.
        worker: names this process in every row.
        lpips: what LPIPS to the input is measured with; None leaves it null.
        judge: what the judge is made from; None leaves verdicts null.
        containers: identities of the tables and archives that the plan was made of, by URI.
        gpu_share: of the GPU that is the device; others may have the rest.
        overlap: read, decode and encode pictures while the device works on those of another batch. None does so where
            the device is not the CPU, whose cores have enough to do.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: JobConfig,
        *,
        device: str,
        weights_label: str,
        fingerprint: str,
        worker: str,
        lpips: Mapping[str, Array] | None = None,
        judge: JudgeModel | None = None,
        containers: Mapping[str, str] | None = None,
        gpu_share: float = 1.0,
        overlap: bool | None = None,
    ) -> None:
        self.device = device
        self.editor = make_editor(arrays, exemplars, config, device, lpips, judge)
        self.config = config
        self.weights_label = weights_label
        self.worker = worker
        self._device_name = device_name(device)
        self._job = job_of(config)
        self._provenance = Provenance(config.job, self._job.digital_source_type, fingerprint, __version__)
        self._reader = InputReader(config.inputs.max_bytes, containers or {}, config.inputs.allow_uri)
        self._masks = MaskReader(self._job.masks(config), self._reader)
        self._overlap = device != "cpu" if overlap is None else overlap
        asked = config.compute.batch_size
        self._traversal_batch = BatchSize(BATCH if asked == "auto" else asked, device)
        self._batch = BatchSize(asked, device, gpu_share)
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="images")

    def traverse(
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
        batches = _batches(items, self._traversal_batch.limit)
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

    def reconstruct(self, traversed: pa.Table, attempts: int) -> pa.Table:
        """Turn moved features into encoded pictures; return a table of ``ROW_SCHEMA``, one row per image and step.

        A run of traversals alone keeps the displacements instead.

        Parameters:
            traversed: a table of ``TRAVERSED_SCHEMA``.
            attempts: how often the shard was begun, this time included.
        """
        shapes = [None if shape is None else tuple(shape) for shape in traversed["working_shape"].to_pylist()]
        begun: dict[int, _Source] = {}

        def batches() -> Iterator[list[_Source]]:
            for places in self._batches_of(shapes):
                sources = [self._source(image, attempts) for image in from_table(traversed.take(places))]
                begun.update(zip(places, sources, strict=True))
                yield sources

        self._make_rows(batches())
        sources = (begun[place] for place in range(len(shapes)))
        rows = (source.rows or error_rows(source.row, self.config) for source in sources)
        return rows_table(vars(row) for each in rows for row in each)

    def _make_rows(self, batches: Iterator[list[_Source]]) -> None:
        """Make the rows of all images that can be done."""
        if self.config.output.traversal_only:
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
                    most = self._batch.most(height * width, self.editor.bytes_per_image(height, width))
                yield left[:most]
                left = left[most:]

    def _load(self, item: InputItem, accept_changed: bool) -> _Loaded:
        started = time.perf_counter()
        loaded = _Loaded(TraversedImage(item.id, item.uri))
        try:
            data = self._reader.read_item(item, accept_changed=accept_changed)
            loaded.image.input_sha256 = hashlib.sha256(data).hexdigest()
            decoded = self._decoded(data)
            loaded.image.frames, loaded.image.truncated = decoded.frames, decoded.truncated
            loaded.identity = self._job.identity(item, data, self.config, self._reader)
            loaded.image.mask = self._masks.read(item)
            loaded.picture = self.editor.working(decoded.rgb)
            loaded.image.working_shape = list(loaded.picture.shape)
            loaded.image.source = data
        except Exception as error:  # every reason is a row, never the end of the shard
            loaded.fail(error)
        loaded.image.seconds_read = time.perf_counter() - started
        return loaded

    def _decoded(self, data: bytes) -> DecodedImage:
        inputs = self.config.inputs
        return decode(data, max_pixels=inputs.max_pixels, accept_truncated=inputs.accept_truncated)

    def _traversed(self, loaded: Sequence[_Loaded]) -> list[bytes | Exception]:
        """Return the serialised displacement of each image, or what went wrong, in order."""
        shapes = [None if each.picture is None else each.picture.shape for each in loaded]
        moved: dict[int, bytes | Exception] = {}
        for places in same_shaped(shapes, len(loaded)):
            batch = [loaded[place] for place in places]
            results = run_bisecting(self._traverse_batch, batch, self._traversal_batch.note_out_of_memory)
            moved |= dict(zip(places, results, strict=True))
        return [moved[place] for place in range(len(loaded))]

    def _traverse_batch(self, batch: Sequence[_Loaded]) -> list[bytes]:
        pictures = np.stack([loaded.picture for loaded in batch if loaded.picture is not None])
        found = self.editor.traverse(pictures, [loaded.identity for loaded in batch])
        return [displacement.to_bytes() for displacement in found]

    def _source(self, image: TraversedImage, attempts: int) -> _Source:
        row = Row(
            id=image.id,
            uri=masked(image.uri),
            attempts=attempts,
            seconds_read=image.seconds_read,
            seconds_traverse=image.seconds_traverse,
            worker=self.worker,
            device=self._device_name,
            weights=self.weights_label,
            input_sha256=image.input_sha256,
            frames=image.frames,
            truncated=image.truncated,
            error_type=image.error_type,
            error=image.error,
        )
        source = _Source(row)
        if image.error_type is None and image.displacement is not None:
            source.data, source.mask_data = image.source, image.mask
            try:
                source.displacement = Displacement.from_bytes(image.displacement)
            except Exception as error:  # a damaged displacement costs its own row
                source.fail(error)
        return source

    def _displacement_rows(self, source: _Source) -> list[Row]:
        """Return the rows of an image whose displacement is all that is wanted."""
        if source.displacement is None:
            return error_rows(source.row, self.config)
        steps = [figures for step, figures in enumerate(source.displacement.steps) if step in self.editor.rows]
        row = source.shared_among(len(steps))
        kept = source.displacement.to_bytes()
        return [
            replace(row, step=step, status="ok", displacement=None if step else kept, **asdict(figures))
            for step, figures in enumerate(steps)
        ]

    def _inverted(self, decoded: Sequence[_Source]) -> list[Callable[[], None]]:
        """Invert a batch, in parts where less has been found to fit; return what makes the rows of each image."""
        calls: list[Callable[[], None]] = []
        for part in _batches(decoded, self._batch.limit):
            started = time.perf_counter()
            results = run_bisecting(self._reconstruct_batch, part, self._batch.note_out_of_memory)
            seconds = (time.perf_counter() - started) / len(part)
            for source, result in zip(part, results, strict=True):
                calls.append(functools.partial(self._finish, source, result, seconds))
        return calls

    def _decode(self, source: _Source) -> _Source:
        if source.data is None or source.displacement is None:
            return source
        try:
            rgb = self._decoded(source.data).rgb
            if source.mask_data is not None:
                source.mask = decode_mask(source.mask_data, rgb, self.config.inputs.max_pixels)
            source.rgb = rgb
            source.metadata = read_metadata(source.data, self.config.inputs.max_pixels)
        except Exception as error:
            source.fail(error)
        return source

    def _reconstruct_batch(self, batch: Sequence[_Source]) -> list[list[Edit]]:
        pictures = np.stack([self.editor.working(source.rgb) for source in batch if source.rgb is not None])
        height, width = pictures.shape[-2:]
        masks = [None if source.mask is None else working_mask(source.mask, height, width) for source in batch]
        displacements = [source.displacement for source in batch if source.displacement is not None]
        return self.editor.reconstruct(pictures, displacements, masks)

    def _finish(self, source: _Source, result: list[Edit] | Exception, seconds: float) -> None:
        """Make the rows of one image, or note in its row why there are none."""
        try:
            if isinstance(result, Exception):
                raise result
            shared = source.shared_among(len(result))
            self._deepen(source)
            for step, edit in enumerate(result):
                started = time.perf_counter()
                row = replace(shared, step=step, status="ok", **asdict(edit.figures))
                row = self._with_picture(row, source, edit)
                spent = seconds / len(result) + time.perf_counter() - started
                source.rows.append(replace(row, seconds_reconstruct=spent))
        except Exception as error:
            source.rows = []
            source.row = replace(source.row, seconds_reconstruct=seconds)
            source.fail(error)
        finally:
            source.rgb = source.mask = source.data = source.mask_data = None

    def _deepen(self, source: _Source) -> None:
        """Take the photo with all its bits where results of 16 bits are asked for; the method saw 8 of them."""
        output = self.config.output
        if output.image_format in DEEP_FORMATS and output.resolution == "native":
            data, rgb, metadata = source.data, source.rgb, source.metadata
            assert data is not None
            assert rgb is not None
            assert metadata is not None
            source.rgb = decode_image16(data, rgb, metadata)

    def _with_picture(self, row: Row, source: _Source, edit: Edit) -> Row:
        output = self.config.output
        verdict = edit.verdict
        assert source.rgb is not None
        picture = self.editor.assemble(source.rgb, edit, source.mask)
        height, width = picture.shape[:2]
        beside = self._beside(source, height, width)
        return replace(
            row,
            image=encode_image(picture, output.image_format, output.image_quality, beside.attached),
            image_format=output.image_format,
            width=width,
            height=height,
            digital_source_type=beside.digital_source_type,
            feature_loss_before=edit.feature_loss_before,
            feature_loss_after=edit.feature_loss_after,
            iterations=edit.iterations,
            psnr_to_input=edit.similarity.psnr,
            ssim_to_input=edit.similarity.ssim,
            lpips_to_input=edit.similarity.lpips,
            colorfulness=colorfulness(edit.picture),
            verdict_before=None if verdict is None else verdict.before,
            verdict_after=None if verdict is None else verdict.after,
            flipped=None if verdict is None else verdict.flipped,
            animation=encode_animation(edit.frames, output.path_format, attached=beside.animation)
            if edit.frames
            else None,
            warning=beside.warning,
        )

    def _beside(self, source: _Source, height: int, width: int) -> Beside:
        """Return what goes beside the pixels of all results of an image, which are of one size."""
        if source.beside is None:
            output, metadata = self.config.output, source.metadata
            assert metadata is not None
            source.beside = beside_pixels(
                metadata, self._provenance, width, height, output.image_format, keep=output.metadata == "keep"
            )
            if source.beside.warning is not None:
                logger.warning("%s: %s", source.row.id, source.beside.warning)
        return source.beside


@dataclass
class _Loaded:
    """An item on its way through the traversal, and its working picture when it could be read."""

    image: TraversedImage
    picture: Array | None = None
    identity: ImageIdentity = field(default_factory=ImageIdentity)

    def fail(self, error: Exception) -> None:
        """Note why there is no result."""
        self.image.error_type, self.image.error = describe_error(error)
        self.image.source = None


@dataclass
class _Source:
    """An image on its way through the reconstruction, with what its rows have in common."""

    row: Row
    data: bytes | None = None
    displacement: Displacement | None = None
    mask_data: bytes | None = None
    mask: Array | None = None
    rgb: Array | None = None
    metadata: Metadata | None = None
    beside: Beside | None = None
    rows: list[Row] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Note why there is no result."""
        kind, text = describe_error(error)
        self.row = replace(self.row, error_type=kind, error=text)

    def shared_among(self, steps: int) -> Row:
        """Return what the rows of all steps have in common, with the time spent divided among them."""
        read, traverse = self.row.seconds_read, self.row.seconds_traverse
        return replace(
            self.row,
            seconds_read=None if read is None else read / steps,
            seconds_traverse=None if traverse is None else traverse / steps,
        )


def crash_row(item: InputItem, config: JobConfig, *, error: str, attempts: int, weights_label: str) -> pa.Table:
    """Return the rows of an image whose process died each time it was tried."""
    row = Row(
        id=item.id, uri=masked(item.uri), error_type="crash", error=error, attempts=attempts, weights=weights_label
    )
    return rows_table(vars(each) for each in error_rows(row, config))


def error_rows(row: Row, config: JobConfig) -> list[Row]:
    """Return the rows, one per step as for every image, of one that failed."""
    return [
        replace(row, step=step, strength=strength, status="error") for step, strength in enumerate(config.strengths)
    ]


def describe_error(error: Exception) -> tuple[str, str]:
    """Return the ``error_type`` and the ``error`` of a row."""
    if isinstance(error, ImageError):
        kind = error.kind
    elif isinstance(error, DmtError):
        kind = "storage"
    else:
        kind = type(error).__name__
    return kind, str(error) or type(error).__name__


def _checked(saved: SavedDisplacement, input_sha256: str | None) -> bytes | Exception:
    """Return a saved displacement if it is of the bytes that were read now, else what is wrong."""
    if saved.error is not None:
        return saved.error
    if saved.input_sha256 is not None and saved.input_sha256 != input_sha256:
        return ImageError(
            "changed", "The photo is not the one that was traversed: its bytes have changed since then."
        )
    return saved.data or ImageError("bad-displacement", "The run of traversals saved no displacement for this image.")


def _batches(items: Sequence[Part], size: int) -> list[Sequence[Part]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
