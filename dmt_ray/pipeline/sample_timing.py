"""Edits a few photos of a run in this process, as its actors will, and measures what that takes."""

from __future__ import annotations

import itertools
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmt_ray.jobs.exemplars import ExemplarSets, learn_exemplars
from dmt_ray.jobs.job import ExemplarList
from dmt_ray.jobs.learning import usable_device
from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.method.pictures import BATCH
from dmt_ray.output.displacements import SavedDisplacement, saved_displacements
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.shard_processor import ShardProcessor
from dmt_ray.report import scaling_constants as known
from dmt_ray.storage.inputs.listing import InputItem

#: Photos that are looked at.
SAMPLE = 3
#: Exemplars of each set that are learned from; the rest is counted in proportion.
MOST_EXEMPLARS = 64

_WRITTEN = ("image", "animation", "displacement")


@dataclass(frozen=True)
class Timed:
    """What a few photos took in this process.

    Attributes:
        device: where, such as ``cuda:0``.
        images: how many could be used.
        reading: seconds per photo to read and move its features.
        reconstructing: seconds per photo to make and encode its pictures.
        learning: seconds to learn from all exemplars.
        learned: bytes of what was learned of all of them, which lie once on each node.
        peak: bytes of memory of this process, or of its GPU, at a whole batch.
        bytes_in, bytes_out: per photo.
        failed: why photos could not be used.
    """

    device: str
    images: int
    reading: float
    reconstructing: float
    learning: float
    learned: float
    peak: float
    bytes_in: float
    bytes_out: float
    failed: list[str]


def sample_items(run: PreparedRun) -> list[InputItem]:
    """Return up to three of the photos that are to be done, from the first, the middle and the last shard."""
    numbers = run.todo.numbers
    chosen = dict.fromkeys([numbers[0], numbers[len(numbers) // 2], numbers[-1]])
    shards = [run.todo.file.shard(number).items for number in chosen]
    return [items[place] for place in range(SAMPLE) for items in shards if place < len(items)][:SAMPLE]


def time_sample(run: PreparedRun, items: list[InputItem], threads: int) -> Timed:
    """Learn from the exemplars, and edit some photos as the actors will.

    Parameters:
        run: what was prepared.
        items: the photos.
        threads: of torch, on a CPU.
    """
    device, before = usable_device(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _time_sample(run, items, device)
    finally:
        torch.set_num_threads(before)


def _time_sample(run: PreparedRun, items: list[InputItem], device: str) -> Timed:
    config = run.config
    sets = {option: _few(found) for option, found in run.exemplars.items()}
    began = time.perf_counter()
    exemplars, _ = learn_exemplars(run.weights.arrays, sets, config, device, run.judge)
    learning = time.perf_counter() - began
    processor = ShardProcessor(
        run.weights.arrays,
        exemplars,
        config,
        device=device,
        weights_label=run.weights_label,
        fingerprint=run.fingerprint,
        worker="estimate",
        lpips=None if run.lpips is None else run.lpips.arrays,
        judge=run.judge,
        containers=run.shards.containers,
    )
    saved = _saved(run, items)
    processor.reconstruct(processor.traverse(items[:1], saved), 1)  # what is loaded once is not timed
    # A GPU takes a whole batch about as quickly as a part of it; a CPU takes each photo's time.
    batch = list(itertools.islice(itertools.cycle(items), batch_of(run))) if device != "cpu" else items
    began = time.perf_counter()
    traversed = processor.traverse(batch, saved)
    between = time.perf_counter()
    rows = processor.reconstruct(traversed, 1)
    ended = time.perf_counter()
    steps = len(config.strengths)
    good = rows["status"].to_pylist().count("ok") / steps
    whole = exemplar_count(run.exemplars) / max(1, exemplar_count(sets)) if sets else 1.0
    failed = {row["id"]: row["error"] for row in rows.select(["id", "error"]).to_pylist() if row["error"] is not None}
    written = sum(_size(value) for name in _WRITTEN for value in rows[name])
    read = [_size(value) for value in traversed["source"] if value.is_valid]
    peak = (
        torch.cuda.max_memory_allocated()
        if device != "cpu"
        else _peak() + (batch_of(run) - len(batch)) * bytes_of_one_more(run)
    )
    return Timed(
        device,
        images=round(good),
        reading=(between - began) / len(batch) * whole,
        reconstructing=(ended - between) / len(batch),
        learning=learning * whole,
        learned=sum(array.nbytes for array in exemplars.values()) * whole,
        peak=peak,
        bytes_in=sum(read) / max(1, len(read)),
        bytes_out=written / max(1.0, good) + steps * known.ROW_BYTES.value,
        failed=[f"{id_}: {reason}" for id_, reason in failed.items()],
    )


def _few(found: ExemplarList) -> ExemplarList:
    """Return some exemplars of a set, evenly, all counting alike."""
    if len(found.items) <= MOST_EXEMPLARS:
        return found
    places = [place * len(found.items) // MOST_EXEMPLARS for place in range(MOST_EXEMPLARS)]
    return replace(found, items=[found.items[place] for place in places], balance=None, balance_values=None)


def exemplar_count(sets: ExemplarSets) -> int:
    """Return the exemplars of all sets."""
    return sum(len(found.items) for found in sets.values())


def _saved(run: PreparedRun, items: list[InputItem]) -> dict[str, SavedDisplacement] | None:
    """Return what an earlier run of traversals made of the photos; None when this run moves them."""
    place = run.config.inputs.displacements
    if place is None:
        return None
    ids = {item.id for item in items}
    shards = (shard for shard in run.todo if ids & {item.id for item in shard.items})
    return {id_: found for shard in shards for id_, found in saved_displacements(place, shard).items()}


def _size(value: Any) -> int:
    """Return the bytes of a binary value of Arrow."""
    return len(value.as_buffer()) if value.is_valid else 0


def batch_of(run: PreparedRun) -> int:
    """Return how many photos an actor inverts side by side; as many as on the CPU where the GPU decides."""
    asked = run.config.compute.batch_size
    return BATCH if asked == "auto" else asked


def bytes_of_one_more(run: PreparedRun) -> float:
    """Return the bytes that the inversion of one more photo takes."""
    model = run.config.model
    return inversion_bytes(model.size**2, values_per_pixel(model.backbone, model.taps))


def _peak() -> float:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
