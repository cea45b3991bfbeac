"""What is done to the images of one shard, without Ray: read, traverse, reconstruct, and a row for each, good or bad.

A bad image becomes an error row. When a whole batch fails, it is cut in half until the image that is to blame stands
alone; the same cut lets a batch that does not fit into memory go through in smaller ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from dmt_ray.config import ColorizeConfig
from dmt_ray.errors import DmtError, ImageError, SettingsError
from dmt_ray.method.recolor import (
    Displacement,
    Recolorer,
    Reconstruction,
    assemble,
    build_exemplars,
    is_grey,
    working_luma,
)
from dmt_ray.method.recolor import working_rgb as to_working_rgb
from dmt_ray.method.vgg import VGG
from dmt_ray.pipeline.commit import rows_table
from dmt_ray.storage.files import masked
from dmt_ray.storage.images import decode_image, encode_image
from dmt_ray.storage.inputs import InputItem, ItemReader

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
        ("displacement", pa.large_binary()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
    ]
)

#: Threads that read and decode beside the model; reading from an object store is mostly waiting.
READER_THREADS = 4


class Workbench:
    """A model on a device, with all that one actor needs to turn items into rows.

    Parameters:
        arrays: network weights by torchvision name.
        exemplars: what ``build_exemplars`` made.
        config: the run's options.
        device: torch device, such as ``cuda:0``.
        weights_label: goes into every row.
        worker: names this process in every row.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: ColorizeConfig,
        *,
        device: str,
        weights_label: str,
        worker: str,
    ) -> None:
        self.network = make_network(arrays, config, device)
        self.recolorer = Recolorer(self.network, exemplars, config)
        self.config = config
        self.weights_label = weights_label
        self.worker = worker
        self._reader = SharedReader()
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="images")

    def traverse(self, items: Sequence[InputItem]) -> pa.Table:
        """Read the items and move their features; return a table of ``TRAVERSED_SCHEMA``, one row per item."""
        rows: list[dict[str, Any]] = []
        for batch in _batches(items, self.config.compute.batch_size):
            loaded = list(self._threads.map(self._load, batch))
            good = [one for one in loaded if one.luma is not None]
            started = time.perf_counter()
            moved = guarded(self._traverse_batch, good)
            seconds = (time.perf_counter() - started) / max(1, len(good))
            for one, displacement in zip(good, moved, strict=True):
                if isinstance(displacement, Exception):
                    one.row |= _error_fields(displacement) | {"source": None}
                else:
                    one.row["displacement"] = displacement.to_bytes()
                one.row["seconds_traverse"] = seconds
            rows += [one.row for one in loaded]
        return pa.Table.from_pylist(
            [{name: row.get(name) for name in TRAVERSED_SCHEMA.names} for row in rows], TRAVERSED_SCHEMA
        )

    def reconstruct(self, traversed: pa.Table, attempts: int) -> pa.Table:
        """Turn moved features into encoded pictures; return a table of ``ROW_SCHEMA``, one row per row."""
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
            one.luma = working_luma(rgb, self.config.model.size)
            one.row["source"] = data
        except Exception as error:  # every reason is a row, never the end of the shard
            one.row |= _error_fields(error)
        one.row["seconds_read"] = time.perf_counter() - started
        return one

    def _traverse_batch(self, batch: Sequence[_Loaded]) -> list[Displacement]:
        return self.recolorer.traverse(np.stack([one.luma for one in batch if one.luma is not None]))

    def _reconstruct_rows(self, batch: pa.Table, attempts: int) -> list[dict[str, Any]]:
        sources: list[_Source] = []
        rows: list[dict[str, Any]] = []
        for index, row in enumerate(batch.drop_columns(["source", "displacement"]).to_pylist()):
            rows.append(
                row
                | {
                    "uri": masked(row["uri"]),
                    "strength": self.config.traversal.strength,
                    "status": "ok" if row["error_type"] is None else "error",
                    "attempts": attempts,
                    "worker": self.worker,
                    "weights": self.weights_label,
                }
            )
            if row["error_type"] is None:
                source = batch["source"][index].as_buffer().to_pybytes()
                displacement = Displacement.from_bytes(batch["displacement"][index].as_py())
                sources.append(_Source(rows[-1], source, displacement))
        # Only now are the pictures as large as they are: one batch of them at a time.
        decoded = [one for one in self._threads.map(self._decode, sources) if one.rgb is not None]
        started = time.perf_counter()
        results = guarded(self._reconstruct_batch, decoded)
        seconds = (time.perf_counter() - started) / max(1, len(decoded))
        list(self._threads.map(self._finish, decoded, results, [seconds] * len(decoded)))
        return rows

    def _decode(self, one: _Source) -> _Source:
        try:
            one.rgb = decode_image(one.data, max_pixels=self.config.inputs.max_pixels)
        except Exception as error:
            one.row |= _error_fields(error) | {"status": "error"}
        return one

    def _reconstruct_batch(self, batch: Sequence[_Source]) -> list[Reconstruction]:
        size = self.config.model.size
        luma = np.stack([working_luma(one.rgb, size) for one in batch if one.rgb is not None])
        return self.recolorer.reconstruct(luma, [one.displacement for one in batch])

    def _finish(self, one: _Source, result: Reconstruction | Exception, seconds: float) -> None:
        started = time.perf_counter()
        output = self.config.output
        try:
            if isinstance(result, Exception):
                raise result
            assert one.rgb is not None
            picture = assemble(one.rgb, result.chroma, output.resolution)
            moved = one.displacement
            one.row |= {
                "image": encode_image(picture, output.image_format, output.image_quality),
                "image_format": output.image_format,
                "width": picture.shape[1],
                "height": picture.shape[0],
                "strength": moved.strength,
                "budget_weight": moved.budget_weight,
                "displacement_norm": moved.displacement_norm,
                "witness_before": moved.witness_before,
                "witness_after": moved.witness_after,
                "feature_loss_before": result.feature_loss_before,
                "feature_loss_after": result.feature_loss_after,
                "iterations": result.iterations,
                "psnr_to_input": result.psnr_to_input,
                "ssim_to_input": result.ssim_to_input,
            }
        except Exception as error:
            one.row |= _error_fields(error) | {"status": "error"}
        finally:
            one.rgb = None
            one.row["seconds_reconstruct"] = seconds + time.perf_counter() - started


@dataclass
class _Loaded:
    """An item on its way through the traversal: its row so far, and its working luma when it could be read."""

    row: dict[str, Any]
    luma: Array | None = None


@dataclass
class _Source:
    """An item on its way through the reconstruction."""

    row: dict[str, Any]
    data: bytes
    displacement: Displacement
    rgb: Array | None = None


class SharedReader:
    """An ``ItemReader`` for several threads: plain files side by side, Parquet cells one by one."""

    def __init__(self) -> None:
        self._reader = ItemReader()
        self._lock = threading.Lock()

    def read(self, uri: str) -> bytes:
        """Return the encoded bytes at ``uri``; raises ``StorageError``."""
        if "#row=" in uri:
            with self._lock:
                return self._reader.read(uri)
        return self._reader.read(uri)


class DeviceLostError(RuntimeError):
    """The accelerator of this process does not answer any more; only a new process helps."""


def guarded(step: Callable[[Sequence[Input]], Sequence[Output]], batch: Sequence[Input]) -> list[Output | Exception]:
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
    return guarded(step, batch[:middle]) + guarded(step, batch[middle:])


def _is_device_lost(error: Exception) -> bool:
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not isinstance(error, torch.OutOfMemoryError)


def make_network(arrays: Mapping[str, Array], config: ColorizeConfig, device: str) -> VGG:
    """Build the run's network on a device."""
    model = config.model
    return VGG(arrays, model.backbone, model.taps, precision=model.precision, device=torch.device(device))


def learn_exemplars(
    arrays: Mapping[str, Array], references: Sequence[InputItem], config: ColorizeConfig, device: str
) -> tuple[dict[str, Array], list[str]]:
    """Read the reference photos and make what all actors share.

    Returns the exemplars, and one sentence for each reference that had to be left out.

    Raises:
        SettingsError: no reference can be read, or none has colour.
    """
    reader = SharedReader()

    def load(item: InputItem) -> Array | str:
        try:
            rgb = decode_image(reader.read(item.uri), max_pixels=config.inputs.max_pixels)
            picture = to_working_rgb(rgb, config.model.size)
        except DmtError as error:
            return f"{item.id}: {error}"
        # A grey reference would teach that what it shows has no colour.
        return f"{item.id}: The picture is grey, and a reference must have colour." if is_grey(picture) else picture

    with ThreadPoolExecutor(READER_THREADS) as threads:
        loaded = list(threads.map(load, references))
    pictures = [one for one in loaded if not isinstance(one, str)]
    skipped = [one for one in loaded if isinstance(one, str)]
    if not pictures:
        raise SettingsError(f"None of the {len(references)} references can be used; the first one: {skipped[0]}")
    return build_exemplars(make_network(arrays, config, device), np.stack(pictures), config), skipped


def crash_row(item: InputItem, config: ColorizeConfig, *, error: str, attempts: int, weights_label: str) -> pa.Table:
    """Return the row of an image whose process died each time it was tried."""
    return rows_table(
        [
            {
                "id": item.id,
                "uri": masked(item.uri),
                "strength": config.traversal.strength,
                "status": "error",
                "error_type": "crash",
                "error": error,
                "attempts": attempts,
                "weights": weights_label,
            }
        ]
    )


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
