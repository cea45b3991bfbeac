"""Edits of single photos by what the pipeline's actors edit shards with, so that both make the same pictures."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from dmt_ray.api.pictures import Picture, as_items, encoded
from dmt_ray.config import InputConfig
from dmt_ray.errors import ImageError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.learning import LearnedModel
from dmt_ray.output.schema import RESULT_COLUMNS
from dmt_ray.pipeline.fingerprint import deciding_settings, fingerprint
from dmt_ray.pipeline.shard_processor import ShardProcessor
from dmt_ray.storage import files
from dmt_ray.storage.images import decode_animation, decode_image
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.models.weights import load_lpips

#: Columns of a row that are figures of the edit: numbers, and whether the judge calls the result the target class.
FIGURES = (
    "strength",
    "width",
    "height",
    *RESULT_COLUMNS[RESULT_COLUMNS.index("budget_weight") :],
    *(f"seconds_{stage}" for stage in ("read", "traverse", "reconstruct")),
)


@dataclass(frozen=True)
class EditedPhoto:
    """The result of an edit at one strength.

    Attributes:
        data: the encoded image file as a run would write it, in ``image_format``, with the photo's own metadata and
            what was done to it.
        figures: the row's figures by column: ``strength``, ``psnr_to_input`` (dB), ``ssim_to_input``,
            ``lpips_to_input``, ``displacement_norm``, ``feature_loss_before`` and ``feature_loss_after``,
            ``iterations``, ``verdict_before``, ``verdict_after``, ``flipped``, ``width`` and ``height`` (pixels),
            seconds and more; docs/output.md tells what each means. None where there is none, as for verdicts without
            a judge.
        animation: the encoded way from the photo to the result, with ``save_path``; else None.
        warning: what is not as it should be, such as metadata that does not fit in the format; else None.
    """

    data: bytes
    figures: Mapping[str, float | int | bool | None]
    animation: bytes | None = None
    warning: str | None = None

    @functools.cached_property
    def picture(self) -> Image.Image:
        """The result as a PIL image, RGB, at the photo's own size (size x size with ``resolution="working"``)."""
        return Image.fromarray(decode_image(self.data, max_pixels=2**62))

    @functools.cached_property
    def frames(self) -> list[Image.Image]:
        """The animation's pictures, from the photo to the result, at working size; none without ``save_path``."""
        return (
            [] if self.animation is None else [Image.fromarray(frame) for frame in decode_animation(self.animation)]
        )

    def save(self, place: str) -> None:
        """Write the encoded file to a path or URI, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        files.write_atomic(files.absolute(place), self.data)


def make_processor(
    model: LearnedModel, config: JobConfig, device: str, worker: str, gpu_share: float = 1.0
) -> ShardProcessor:
    """Load a model on a device.

    Parameters:
        model: what was learned.
        config: the options of the edits.
        device: torch device, such as ``cuda:0``.
        worker: names this process in logs.
        gpu_share: of the GPU that is the device; others may have the rest.
    """
    settings = deciding_settings(config, model.weights.sha256, model.sets, None, model.judge)
    return ShardProcessor(
        model.weights.arrays,
        model.exemplars,
        config,
        device=device,
        weights_label=f"{model.weights.backbone}:{model.weights.sha256[:12]}",
        fingerprint=fingerprint(settings),
        worker=worker,
        lpips=load_lpips().arrays if config.output.lpips else None,
        judge=model.judge,
        gpu_share=gpu_share,
    )


def edit_rows(
    processor: ShardProcessor, photos: Sequence[Picture], masks: Sequence[Picture | None] = ()
) -> list[list[dict[str, Any]] | ImageError]:
    """Return the rows of each photo, one per strength, or why there are none.

    Parameters:
        processor: the loaded model.
        photos: what to edit.
        masks: one for each photo, where there are any.
    """
    with as_items(photos, "photo") as found:
        items = [item for item in found if not isinstance(item, ImageError)]
        traversed = processor.traverse(items)
        if masks:
            inputs = processor.config.inputs
            chosen = [mask for mask, item in zip(masks, found, strict=True) if not isinstance(item, ImageError)]
            read = [None if mask is None else _encoded_mask(mask, inputs) for mask in chosen]
            column = pa.array(read, pa.large_binary())
            place = traversed.schema.get_field_index("mask")
            traversed = traversed.set_column(place, traversed.schema.field(place), column)
        rows = processor.reconstruct(traversed, attempts=1).to_pylist()
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    return [item if isinstance(item, ImageError) else _checked(by_id[item.id]) for item in found]


def _encoded_mask(mask: Picture, inputs: InputConfig) -> bytes:
    """Return a mask's encoded bytes; raises as ``InputReader.read_file`` and ``encoded``."""
    if isinstance(mask, str | os.PathLike):
        with InputReader(inputs.max_bytes, allowed=inputs.allow_uri) as reader:
            return reader.read_file(files.absolute(os.fspath(mask)))
    return encoded(mask)


def _checked(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | ImageError:
    return ImageError(rows[0]["error_type"], rows[0]["error"]) if rows[0]["status"] == "error" else rows


def edited(row: Mapping[str, Any]) -> EditedPhoto:
    """Return a row as the result of an edit."""
    return EditedPhoto(row["image"], {name: row[name] for name in FIGURES}, row["animation"], row["warning"])
