"""A model in somebody's own Ray Data pipeline: a class for ``map_batches`` that loads the model once per actor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray

from dmt_ray.api.editing import FIGURES, edit_rows, make_processor
from dmt_ray.errors import ImageError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.learning import LearnedModel
from dmt_ray.output.schema import ROW_SCHEMA
from dmt_ray.pipeline.devices import claim_device

#: The columns that an edit adds to a batch, before their prefix.
COLUMNS = ("image", "status", "error_type", "error", *FIGURES)


@dataclass(frozen=True)
class SharedModel:
    """What the actors are made from; the model lies once in the object store of each node."""

    model: ray.ObjectRef[LearnedModel]
    config: JobConfig
    column: str
    prefix: str


class BatchEditor:
    """Edits the photos of batches; ``class_for`` makes the classes that Ray takes of it."""

    shared: ClassVar[SharedModel]

    def __init__(self) -> None:
        config = self.shared.config
        allow_cpu = config.compute.allow_cpu_fallback
        device = claim_device(ray.get_gpu_ids(), ray.util.get_node_ip_address(), allow_cpu=allow_cpu)
        context = ray.get_runtime_context()
        assigned = {} if context.get_actor_id() is None else context.get_assigned_resources()
        share = float(assigned.get("GPU", 1.0))
        self._processor = make_processor(ray.get(self.shared.model), config, device, "ray", share)

    def __call__(self, batch: Any) -> Any:
        """Return a batch, a dict of arrays or a data frame, with the columns of the edits.

        Raises:
            KeyError: it has no column of photos.
            TypeError: it is of another format.
        """
        column, prefix = self.shared.column, self.shared.prefix
        if isinstance(batch, pa.Table):
            raise TypeError(
                "Batches must be of the format 'numpy' or 'pandas': map_batches(..., batch_format='numpy')."
            )
        if column not in batch:
            raise KeyError(f"The batch has no column {column!r}; it has {', '.join(map(str, batch))}.")
        made = {f"{prefix}{name}": values for name, values in self._columns(list(batch[column])).items()}
        return {**batch, **made} if isinstance(batch, dict) else batch.assign(**made)

    def _columns(self, photos: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the columns of the edits of some photos."""
        photos = [_of_struct(photo) for photo in photos]
        empty = [photo is None or isinstance(photo, float) for photo in photos]  # pandas says None by NaN
        given = [photo for photo, nothing in zip(photos, empty, strict=True) if not nothing]
        edits = iter(edit_rows(self._processor, given))
        rows = []
        for nothing in empty:
            found = ImageError("empty", "The column has no photo here.") if nothing else next(edits)
            if isinstance(found, ImageError):
                rows.append({"status": "error", "error_type": found.kind, "error": str(found)})
            else:
                rows.append(found[0])
        return {name: _column(name, [row.get(name) for row in rows]) for name in COLUMNS}


def class_for(model: LearnedModel, config: JobConfig, column: str, prefix: str) -> type:
    """Return a class for ``map_batches`` that edits with a model; puts the model into the object store.

    Parameters:
        model: what was learned.
        config: the options of the edits.
        column: of the photos.
        prefix: of the names of the new columns.
    """
    plain = replace(model, exemplars={name: np.asarray(array) for name, array in model.exemplars.items()})
    shared = SharedModel(ray.put(plain), config, column, prefix)
    return type(f"{config.job.title()}Batches", (BatchEditor,), {"shared": shared})


def _of_struct(photo: Any) -> Any:
    """Return the bytes, else the path, of a photo as Hugging Face's Parquet files have it; others as they are."""
    if isinstance(photo, dict):
        data = photo.get("bytes")
        return photo.get("path") if data is None else data
    return photo


def _column(name: str, values: list[Any]) -> np.ndarray:
    """Return values as an array: numbers as float64 with NaN for none, others as objects."""
    if pa.types.is_floating(ROW_SCHEMA.field(name).type) or pa.types.is_integer(ROW_SCHEMA.field(name).type):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return column
