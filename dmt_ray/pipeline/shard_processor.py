"""What is done to the images of one shard, without Ray: read, traverse, reconstruct, and a row for each, good or bad.

A bad image becomes an error row. When a whole batch fails, it is cut in half until the image that is to blame stands
alone; the same cut lets a batch that does not fit into memory go through in smaller ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from dmt_ray.errors import DmtError, ImageError
from dmt_ray.jobs.editors import JobConfig, make_editor
from dmt_ray.jobs.exemplars import READER_THREADS, image_identity
from dmt_ray.method.displacement import Displacement, Edit
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.output.commit import rows_table
from dmt_ray.output.displacements import Saved
from dmt_ray.pipeline.masks import MaskReader, decode_mask, working_mask
from dmt_ray.storage.files import masked
from dmt_ray.storage.images import decode_image, encode_animation, encode_image
from dmt_ray.storage.inputs.registry import InputItem
from dmt_ray.storage.inputs.shared_reader import SharedReader

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Input = TypeVar("Input")
Output = TypeVar("Output")

#: What travels from the traversal to the reconstruction: the source as it was read, and a small displacement.
TRAVERSED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("source", pa.large_binary()),
        ("mask", pa.large_binary()),
        ("displacement", pa.large_binary()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
    ]
)


class ShardProcessor:
    """A model on a device, with all that one actor needs to turn items into rows.

    Parameters:
        arrays: network weights by torchvision name.
        exemplars: what ``learn_exemplars`` made.
        config: the run's options.
        device: torch device, such as ``cuda:0``.
        weights_label: goes into every row.
        worker: names this process in every row.
        lpips: what LPIPS to the input is measured with; None leaves it null.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: JobConfig,
        *,
        device: str,
        weights_label: str,
        worker: str,
        lpips: Mapping[str, Array] | None = None,
    ) -> None:
        self.device = device
        self.editor = make_editor(arrays, exemplars, config, device, lpips)
        self.config = config
        self.weights_label = weights_label
        self.worker = worker
        self._reader = SharedReader(config.inputs.max_bytes)
        self._masks = MaskReader(config, self._reader)
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="images")

    def traverse(self, items: Sequence[InputItem], saved: Mapping[str, Saved] | None = None) -> pa.Table:
        """Read the items and move their features; return a table of ``TRAVERSED_SCHEMA``, one row per item.

        Parameters:
            items: what to read.
            saved: what an earlier traversal made of them, by id; None moves them now.
        """
        rows: list[dict[str, Any]] = []
        for batch in _batches(items, self.config.compute.batch_size):
            loaded = list(self._threads.map(self._load, batch))
            good = [one for one in loaded if one.picture is not None]
            started = time.perf_counter()
            moved = (
                run_bisecting(self._traverse_batch, good) if saved is None else [saved[one.row["id"]] for one in good]
            )
            seconds = (time.perf_counter() - started) / max(1, len(good))
            for one, displacement in zip(good, moved, strict=True):
                if isinstance(displacement, Exception):
                    one.row |= _error_fields(displacement) | {"source": None}
                else:
                    one.row["displacement"] = (
                        displacement if isinstance(displacement, bytes) else displacement.to_bytes()
                    )
                one.row["seconds_traverse"] = seconds
            rows += [one.row for one in loaded]
        return pa.Table.from_pylist(
            [{name: row.get(name) for name in TRAVERSED_SCHEMA.names} for row in rows], TRAVERSED_SCHEMA
        )

    def reconstruct(self, traversed: pa.Table, attempts: int) -> pa.Table:
        """Turn moved features into encoded pictures; return a table of ``ROW_SCHEMA``, one row per image and step.

        A run of traversals alone keeps the displacements instead.
        """
        if self.config.output.traversal_only:
            return rows_table(row for one in self._sources(traversed, attempts) for row in self._displaced(one))
        rows: list[dict[str, Any]] = []
        for start in range(0, traversed.num_rows, self.config.compute.batch_size):
            batch = traversed.slice(start, self.config.compute.batch_size)
            rows += self._reconstruct_rows(batch, attempts)
        return rows_table(rows)

    def _load(self, item: InputItem) -> _Loaded:
        started = time.perf_counter()
        one = _Loaded({"id": item.id, "uri": item.uri})
        try:
            data = self._reader.read(item.uri)
            rgb = decode_image(data, max_pixels=self.config.inputs.max_pixels)
            one.identity = image_identity(item, data, self.config, self._reader)
            one.row["mask"] = self._masks.read(item)
            one.picture = self.editor.working(rgb)
            one.row["source"] = data
        except Exception as error:  # every reason is a row, never the end of the shard
            one.row |= _error_fields(error)
        one.row["seconds_read"] = time.perf_counter() - started
        return one

    def _traverse_batch(self, batch: Sequence[_Loaded]) -> list[Displacement]:
        pictures = np.stack([one.picture for one in batch if one.picture is not None])
        return self.editor.traverse(pictures, [one.identity for one in batch])

    def _sources(self, batch: pa.Table, attempts: int) -> list[_Source]:
        sources: list[_Source] = []
        for index, row in enumerate(batch.drop_columns(["source", "mask", "displacement"]).to_pylist()):
            row |= {
                "uri": masked(row["uri"]),
                "attempts": attempts,
                "worker": self.worker,
                "weights": self.weights_label,
            }
            one = _Source(row)
            if row["error_type"] is None:
                one.data = batch["source"][index].as_buffer().to_pybytes()
                one.mask_data = batch["mask"][index].as_py()
                one.displacement = Displacement.from_bytes(batch["displacement"][index].as_py())
            sources.append(one)
        return sources

    def _displaced(self, one: _Source) -> list[dict[str, Any]]:
        """Return the rows of an image whose displacement is all that is wanted."""
        if one.displacement is None:
            return error_rows(one.row, self.config)
        steps = [figures for step, figures in enumerate(one.displacement.steps) if step in self.editor.rows]
        shares = {name: one.row[name] / len(steps) for name in ("seconds_read", "seconds_traverse")}
        kept = {"displacement": one.displacement.to_bytes()}
        return [
            one.row | shares | {"step": step, "status": "ok"} | asdict(figures) | ({} if step else kept)
            for step, figures in enumerate(steps)
        ]

    def _reconstruct_rows(self, batch: pa.Table, attempts: int) -> list[dict[str, Any]]:
        sources = self._sources(batch, attempts)
        # Only now are the pictures as large as they are: one batch of them at a time.
        decoded = [one for one in self._threads.map(self._decode, sources) if one.rgb is not None]
        started = time.perf_counter()
        results = run_bisecting(self._reconstruct_batch, decoded)
        seconds = (time.perf_counter() - started) / max(1, len(decoded))
        list(self._threads.map(self._finish, decoded, results, [seconds] * len(decoded)))
        return [row for one in sources for row in (one.rows or error_rows(one.row, self.config))]

    def _decode(self, one: _Source) -> _Source:
        if one.data is None:
            return one
        try:
            rgb = decode_image(one.data, max_pixels=self.config.inputs.max_pixels)
            if one.mask_data is not None:
                one.mask = decode_mask(one.mask_data, rgb, self.config.inputs.max_pixels)
            one.rgb = rgb
        except Exception as error:
            one.row |= _error_fields(error)
        return one

    def _reconstruct_batch(self, batch: Sequence[_Source]) -> list[list[Edit]]:
        pictures = np.stack([self.editor.working(one.rgb) for one in batch if one.rgb is not None])
        size = self.config.model.size
        masks = [None if one.mask is None else working_mask(one.mask, size) for one in batch]
        return self.editor.reconstruct(
            pictures, [one.displacement for one in batch if one.displacement is not None], masks
        )

    def _finish(self, one: _Source, result: list[Edit] | Exception, seconds: float) -> None:
        """Make the rows of one image, or note in its row why there are none."""
        try:
            if isinstance(result, Exception):
                raise result
            assert one.rgb is not None
            for step, edit in enumerate(result):
                started = time.perf_counter()
                row = self._row(one, edit) | asdict(edit.figures)
                row["seconds_reconstruct"] = seconds / len(result) + time.perf_counter() - started
                shares = {name: one.row[name] / len(result) for name in ("seconds_read", "seconds_traverse")}
                one.rows.append(one.row | shares | {"step": step, "status": "ok"} | row)
        except Exception as error:
            one.rows = []
            one.row |= _error_fields(error) | {"seconds_reconstruct": seconds}
        finally:
            one.rgb = one.mask = None

    def _row(self, one: _Source, edit: Edit) -> dict[str, Any]:
        output = self.config.output
        assert one.rgb is not None
        picture = self.editor.assemble(one.rgb, edit, one.mask)
        return {
            "image": encode_image(picture, output.image_format, output.image_quality),
            "image_format": output.image_format,
            "width": picture.shape[1],
            "height": picture.shape[0],
            "feature_loss_before": edit.feature_loss_before,
            "feature_loss_after": edit.feature_loss_after,
            "iterations": edit.iterations,
            "psnr_to_input": edit.likeness.psnr,
            "ssim_to_input": edit.likeness.ssim,
            "lpips_to_input": edit.likeness.lpips,
            "path": encode_animation(edit.frames, output.path_format) if edit.frames else None,
        }


@dataclass
class _Loaded:
    """An item on its way through the traversal: its row so far, and its working picture when it could be read."""

    row: dict[str, Any]
    picture: Array | None = None
    identity: ImageIdentity = field(default_factory=ImageIdentity)


@dataclass
class _Source:
    """An item on its way through the reconstruction."""

    row: dict[str, Any]
    data: bytes | None = None
    displacement: Displacement | None = None
    mask_data: bytes | None = None
    mask: Array | None = None
    rgb: Array | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)


class DeviceLostError(RuntimeError):
    """The accelerator of this process does not answer any more; only a new process helps."""


def run_bisecting(
    step: Callable[[Sequence[Input]], Sequence[Output]], batch: Sequence[Input]
) -> list[Output | Exception]:
    """Run ``step`` on a batch; on failure cut the batch in half until each culprit stands alone.

    Returns one output or one exception per input, in order.

    Raises:
        DeviceLostError: the device is gone, and no image is to blame.
    """
    if not batch:
        return []
    try:
        return list(step(batch))
    except Exception as error:
        if _is_device_lost(error):
            raise DeviceLostError(str(error)) from error
        if len(batch) == 1:
            logger.warning("An image failed: %s: %s", type(error).__name__, error)
            return [error]
        logger.info("A batch of %d failed and is cut in half: %s", len(batch), error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return run_bisecting(step, batch[:middle]) + run_bisecting(step, batch[middle:])


def _is_device_lost(error: Exception) -> bool:
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not isinstance(error, torch.OutOfMemoryError)


def crash_row(item: InputItem, config: JobConfig, *, error: str, attempts: int, weights_label: str) -> pa.Table:
    """Return the rows of an image whose process died each time it was tried."""
    row = {
        "id": item.id,
        "uri": masked(item.uri),
        "error_type": "crash",
        "error": error,
        "attempts": attempts,
        "weights": weights_label,
    }
    return rows_table(error_rows(row, config))


def error_rows(row: Mapping[str, Any], config: JobConfig) -> list[dict[str, Any]]:
    """Return the rows, one per step as for every image, of one that failed."""
    return [
        dict(row) | {"step": step, "strength": strength, "status": "error"}
        for step, strength in enumerate(config.strengths)
    ]


def _error_fields(error: Exception) -> dict[str, str]:
    if isinstance(error, ImageError):
        kind = error.kind
    elif isinstance(error, DmtError):
        kind = "storage"
    else:
        kind = type(error).__name__
    return {"error_type": kind, "error": str(error) or type(error).__name__}


def _batches(items: Sequence[Input], size: int) -> list[Sequence[Input]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
