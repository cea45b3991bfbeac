"""The estimate of a run in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from dmt_ray.report import scaling_constants as known
from dmt_ray.report.node_losses import Losses
from dmt_ray.report.scaling import (
    SIMULATIONS,
    Estimate,
    PlanCommand,
    best_division,
    better_shard_size,
    estimate,
    losses_by_shard_size,
)
from dmt_ray.words import counted

#: Below this share of the fullest resource, the others are not worth a word.
WORTH_TELLING = 0.01
#: By so much another division of the GPUs must be quicker to be told.
WORTH_CHANGING = 1.05


def plan_sentences(
    plan: PlanCommand, found: Estimate, traversal_gpus: int, reconstruction_gpus: int
) -> Iterator[str]:
    """Yield the lines that tell of an estimate.

    Parameters:
        plan: the run and the cluster.
        found: the estimate.
        traversal_gpus, reconstruction_gpus: as they were given to ``estimate``.
    """
    hours = plan.images / found.rate / 3600
    pools = f"{traversal_gpus or 'shared'} for the traversal, {reconstruction_gpus} for the reconstruction"
    images, results = counted(plan.images, "image", spec=","), counted(plan.steps, "result")
    yield f"{images} at {plan.size} px, {results} each, on {plan.gpus} x {plan.gpu} ({pools})."
    yield "Times come from counted operations and the utilisation that was measured on one card, an H200."
    yield ""
    yield f"Time: {hours_text(hours)} at {counted(found.rate, 'image', spec=',.0f')}/s."
    yield f"  reconstruction, an image on one GPU: {_parts(found.reconstruction)}"
    yield f"  traversal, an image on one GPU: {_parts(found.traversal)}"
    first, *others = found.use.items()
    yield f"Saturates first: {first[0]}, by {_largest(first[0], found)}."
    yield "  then: " + ", ".join(f"{name} {share:.0%}" for name, share in others if share >= WORTH_TELLING)
    if traversal_gpus:
        best = best_division(plan, found)
        rate = estimate(plan, best, plan.gpus - best).rate
        if rate > WORTH_CHANGING * found.rate:
            yield f"  --traversal-actors {best} would make it {counted(rate, 'image', spec=',.0f')}/s."
    seconds = plan.shard_size * plan.gpus / found.rate
    size_text = counted(plan.shard_size, "image")
    yield f"Shards: {plan.shards:,} of {size_text}, {hours_text(seconds / 3600)} each on a GPU."
    if (size := better_shard_size(plan, found)) >= 2 * plan.shard_size:
        longer = hours_text(seconds / 3600 * size / plan.shard_size)
        yield f"  --shard-size {size} makes {math.ceil(plan.images / size):,}, {longer} each."
    yield f"Bytes: {bytes_text(found.bytes_in)} in, {bytes_text(found.bytes_out)} out as {plan.image_format}."
    yield (
        f"Object store of each node: {bytes_text(found.features)} of features of "
        f"{counted(plan.exemplars, 'exemplar')}, {bytes_text(found.in_flight)} of shards in flight."
    )
    memory = known.CARDS[plan.gpu].memory_gb * 1e9
    fits = "" if found.card <= memory else ": too little; the batch is cut in half until it fits"
    yield f"GPU memory: {bytes_text(found.card)} of {bytes_text(memory)} at a batch of {plan.batch_size}{fits}."
    milliseconds = known.SHARD_SECONDS.value * 1e3
    yield f"Driver: {bytes_text(found.driver)} of memory, and {milliseconds:.2g} ms of its time for each shard."
    if plan.price_per_gpu_hour is not None:
        total = hours * plan.gpus * plan.price_per_gpu_hour
        yield f"Cost: {total:,.2f}, which is {total / plan.images * 1000:.4f} per thousand images."
    yield ""
    gpus, times = min(plan.gpus, plan.gpus_per_node), counted(plan.losses_per_node_day, "time", spec="g")
    yield (
        f"Lost nodes: {counted(plan.nodes, 'node')} with {counted(gpus, 'GPU')} each, lost "
        f"{times} a day and replaced in {plan.minutes_to_replace:g} min; "
        f"the mean of {SIMULATIONS} simulated runs, seed {plan.seed}:"
    )
    yield from losses_table(losses_by_shard_size(plan, found.rate), plan.gpus / found.rate)
    yield ""
    yield "Constants:"
    for each in known.CONSTANTS:
        asked = {known.UTILISATION: plan.utilisation, known.COPY_BYTES: plan.copy_rate * 1e9}
        yield f"  {_constant(each, asked.get(each, each.value))}"
    card = known.CARDS[plan.gpu]
    rates = f"{card.matrix_tflops:g} TFLOP/s, in float64 {card.double_tflops:g}; {card.memory_gb:g} GB"
    yield f"  {plan.gpu}: {rates} (not measured: its data sheet)"


def losses_table(losses: Mapping[int, Losses], seconds_per_image: float) -> Iterator[str]:
    """Yield a table of lost work against the size of a shard; ``seconds_per_image`` on one GPU."""
    yield f"  {'images/shard':>12}{'a shard takes':>15}{'work lost':>11}{'idle':>8}{'nodes lost':>12}{'time':>11}"
    for size, each in losses.items():
        shard = hours_text(size * seconds_per_image / 3600)
        yield f"  {size:12}{shard:>15}{each.lost:11.3%}{each.idle:8.1%}{each.nodes:12.1f}{hours_text(each.hours):>11}"


def _constant(constant: known.Constant, value: float) -> str:
    unit, size = constant.unit, f"{value:,g}"
    if unit.startswith("bytes") and value >= 1e6:
        size, unit = bytes_text(value), unit.removeprefix("bytes")
    elif unit:
        unit = f" {unit}"
    mark = "measured" if constant.measured else "not measured"
    return f"{constant.name}: {size}{unit} ({mark}: {constant.source})"


def _largest(resource: str, found: Estimate) -> str:
    parts = {"reconstruction actors": found.reconstruction, "traversal actors": found.traversal}
    if resource not in parts:
        return "what is asked of them"
    return max(parts[resource].items(), key=lambda item: item[1])[0]


def _parts(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name} {1000 * each:.2g}" for name, each in seconds.items())
    return f"{1000 * sum(seconds.values()):.3g} ms ({parts})"


def hours_text(hours: float) -> str:
    """Return a duration in its best unit."""
    if math.isinf(hours):
        return "never"
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.2g} s"


def bytes_text(count: float) -> str:
    """Return a number of bytes in its best unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
