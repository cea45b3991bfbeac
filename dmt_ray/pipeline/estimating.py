"""What a run takes, for its dry run: bytes and memory from three of its photos, and time where these are timed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from dmt_ray.config import is_elastic
from dmt_ray.errors import DmtError
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.pipeline.resources import PoolPlan, plan_pools
from dmt_ray.pipeline.sample_timing import (
    Timed,
    batch_of,
    bytes_of_one_more,
    exemplar_count,
    sample_items,
    time_sample,
)
from dmt_ray.report import scaling_constants as known
from dmt_ray.report.scaling_text import bytes_text, hours_text
from dmt_ray.storage.files import masked
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.words import agreed, counted


def estimate_sentences(run: PreparedRun) -> Iterator[str]:
    """Yield the lines of a dry run that say what the run takes: with ``--estimate``, after timing some photos."""
    if not run.todo:
        return
    items = sample_items(run)
    if run.config.run.estimate:
        compute = run.config.compute
        if is_elastic(compute.reconstruction_actors) or is_elastic(compute.traversal_actors):
            compute = replace(compute, reconstruction_actors=None, traversal_actors=None)  # no machine grows
        pools = plan_pools([_this_machine()], compute, len(run.todo))
        yield from timed_sentences(run, time_sample(run, items, pools.reconstruction.threads), pools)
        return
    yield from _byte_sentences(run, items)
    yield f"Memory: about {bytes_text(_actor_bytes(run))} for each actor, at a batch of {batch_of(run)}, by formula."
    yield "Time: give --estimate too; it times three of the photos in this process."


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
    where = "on a GPU" if timed.device != "cpu" else f"on {counted(reconstruction.threads, 'thread')} of a CPU"
    yield (
        f"Time: {each:.2f} s per photo {where} ({timed.reading:.2f} to read and traverse, {timed.reconstructing:.2f} "
        f"to reconstruct). {counted(images, 'photo', spec=',')} {agreed(images, 'takes', 'take')} "
        f"{hours_text(images * each / 3600)} of one actor, and about {hours_text(images * seconds / 3600)} on this "
        f"machine (traversal {traversal}, reconstruction {reconstruction})."
    )
    if run.exemplars:
        count = exemplar_count(run.exemplars)
        exemplars = f"{counted(count, 'exemplar', spec=',')} {agreed(count, 'is', 'are')}"
        yield f"Before that, {exemplars} learned from in about {hours_text(timed.learning / 3600)}."
    yield (
        f"Memory: about {bytes_text(timed.peak)} for each actor at a batch of {batch_of(run)}; what is learned of "
        f"the exemplars takes {bytes_text(timed.learned)}, once on each node."
    )
    yield (
        f"Bytes: about {bytes_text(images * timed.bytes_in)} to read and {bytes_text(images * timed.bytes_out)} to "
        f"write{_as_format(run)}."
    )


def _byte_sentences(run: PreparedRun, items: list[InputItem]) -> Iterator[str]:
    """Yield which of some photos cannot be used, and what the others say of the bytes of all."""
    config = run.config
    sizes, pixels = [], []
    with InputReader(config.inputs.max_bytes, run.shards.containers, config.inputs.allow_uri) as reader:
        for item in items:
            try:
                data = reader.read_item(item)
                height, width = decode_image(data, max_pixels=config.inputs.max_pixels).shape[:2]
            except DmtError as error:  # it becomes an error row
                read = agreed(len(items), "photo that was", "photos that were")
                reason = masked(str(error))
                yield f"Of the {len(items)} {read} read, one cannot be used: {item.id}: {reason}"
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


def _actor_bytes(run: PreparedRun) -> float:
    return known.PROCESS_BYTES.value + batch_of(run) * bytes_of_one_more(run)


def _this_machine() -> dict[str, float]:
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
