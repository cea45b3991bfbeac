"""What a run takes, for its dry run: bytes and memory from three of its photos, and time where these are timed."""

from __future__ import annotations

import itertools
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmt_ray.errors import DmtError
from dmt_ray.jobs.exemplars import ExemplarSets, learn_exemplars
from dmt_ray.jobs.job import ExemplarList
from dmt_ray.jobs.learning import usable_device
from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.method.pictures import BATCH
from dmt_ray.output.displacements import SavedDisplacement, saved_displacements
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.resources import PoolPlan, plan_pools
from dmt_ray.pipeline.shard_processor import ShardProcessor
from dmt_ray.report import scaling_constants as known
from dmt_ray.report.scaling_text import bytes_text, hours_text
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader

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


def estimate_sentences(run: PreparedRun) -> Iterator[str]:
    """Yield the lines of a dry run that say what the run takes: with ``--estimate``, after timing some photos."""
    if not run.todo:
        return
    items = sample_items(run)
    if run.config.run.estimate:
        pools = plan_pools([_this_machine()], run.config.compute, len(run.todo))
        yield from timed_sentences(run, time_sample(run, items, pools.reconstruction.threads), pools)
        return
    yield from _byte_sentences(run, items)
    yield f"Memory: about {bytes_text(_actor_bytes(run))} for each actor, at a batch of {_batch(run)}, by formula."
    yield "Time: give --estimate too; it times three of the photos in this process."


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
    batch = list(itertools.islice(itertools.cycle(items), _batch(run))) if device != "cpu" else items
    began = time.perf_counter()
    traversed = processor.traverse(batch, saved)
    between = time.perf_counter()
    rows = processor.reconstruct(traversed, 1)
    ended = time.perf_counter()
    steps = len(config.strengths)
    good = rows["status"].to_pylist().count("ok") / steps
    whole = _count(run.exemplars) / max(1, _count(sets)) if sets else 1.0
    failed = {row["id"]: row["error"] for row in rows.select(["id", "error"]).to_pylist() if row["error"] is not None}
    written = sum(_size(value) for name in _WRITTEN for value in rows[name])
    read = [_size(value) for value in traversed["source"] if value.is_valid]
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else _peak() + (_batch(run) - len(batch)) * _each(run)
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


def timed_sentences(run: PreparedRun, timed: Timed, pools: PoolPlan) -> Iterator[str]:
    """Yield what a run takes, from what some photos took.

    Parameters:
        run: what was prepared.
        timed: what they took.
        pools: the actors that a Ray on this machine has.
    """
    for reason in timed.failed:
        yield f"Of the photos that were timed, one cannot be used: {reason}"
    if not timed.images:
        yield "Time: not known, as none of the photos that were timed can be used."
        return
    images, traversal, reconstruction = run.todo.images, pools.traversal, pools.reconstruction
    each = timed.reading + timed.reconstructing
    if 0 < traversal.num_gpus < 1:  # both kinds of actor share a GPU
        seconds = each / reconstruction.actors
    else:
        seconds = max(timed.reading / traversal.actors, timed.reconstructing / reconstruction.actors)
    where = "on a GPU" if timed.device != "cpu" else f"on {reconstruction.threads} threads of a CPU"
    yield (
        f"Time: {each:.2f} s per photo {where} ({timed.reading:.2f} to read and traverse, {timed.reconstructing:.2f} "
        f"to reconstruct). {images:,} photos take {hours_text(images * each / 3600)} of one actor, and about "
        f"{hours_text(images * seconds / 3600)} on this machine (traversal {traversal}, reconstruction "
        f"{reconstruction})."
    )
    if run.exemplars:
        count = _count(run.exemplars)
        yield f"Before that, {count:,} exemplars are learned from in about {hours_text(timed.learning / 3600)}."
    yield (
        f"Memory: about {bytes_text(timed.peak)} for each actor at a batch of {_batch(run)}; what is learned of the "
        f"exemplars takes {bytes_text(timed.learned)}, once on each node."
    )
    yield (
        f"Bytes: about {bytes_text(images * timed.bytes_in)} to read and {bytes_text(images * timed.bytes_out)} to "
        f"write{_as_format(run)}."
    )


def _byte_sentences(run: PreparedRun, items: list[InputItem]) -> Iterator[str]:
    """Yield what some photos say of the bytes of all; nothing where none of them can be read."""
    config = run.config
    sizes, pixels = [], []
    with InputReader(config.inputs.max_bytes, run.shards.containers, config.inputs.allow_uri) as reader:
        for item in items:
            try:
                data = reader.read_item(item)
                height, width = decode_image(data, max_pixels=config.inputs.max_pixels).shape[:2]
            except DmtError:  # such as a photo that becomes an error row
                continue
            sizes.append(len(data))
            pixels.append(height * width)
    if not sizes:
        return
    images, output = run.todo.images, config.output
    line = f"Bytes: about {bytes_text(images * sum(sizes) / len(sizes))} to read"
    constant = known.OUTPUT_BYTES.get(output.image_format)
    if constant is not None and not output.traversal_only:
        picture = config.model.size**2 if output.resolution == "working" else sum(pixels) / len(pixels)
        rows = images * len(config.strengths)
        line += f" and {bytes_text(rows * (picture * constant.value + known.ROW_BYTES.value))} to write"
    yield f"{line}{_as_format(run) if constant is not None else ''}, going by {len(sizes)} of the photos."


def _as_format(run: PreparedRun) -> str:
    return "" if run.config.output.traversal_only else f" as {run.config.output.image_format}"


def _few(found: ExemplarList) -> ExemplarList:
    """Return some exemplars of a set, evenly, all counting alike."""
    if len(found.items) <= MOST_EXEMPLARS:
        return found
    places = [place * len(found.items) // MOST_EXEMPLARS for place in range(MOST_EXEMPLARS)]
    return replace(found, items=[found.items[place] for place in places], balance=None, balance_values=None)


def _count(sets: ExemplarSets) -> int:
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


def _batch(run: PreparedRun) -> int:
    """Return how many photos an actor inverts side by side; as many as on the CPU where the GPU decides."""
    asked = run.config.compute.batch_size
    return BATCH if asked == "auto" else asked


def _each(run: PreparedRun) -> float:
    """Return the bytes that the inversion of one more photo takes."""
    model = run.config.model
    return inversion_bytes(model.size**2, values_per_pixel(model.backbone, model.taps))


def _actor_bytes(run: PreparedRun) -> float:
    return known.PROCESS_BYTES.value + _batch(run) * _each(run)


def _peak() -> float:
    """Return the most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _this_machine() -> dict[str, float]:
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
