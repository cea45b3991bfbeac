"""Measure what estimates of runs rest on, and draw lost work against the size of a shard for docs/scaling.md.

    python benchmarks/scaling.py --data DIR                  measure on the photos of DIR
    python benchmarks/scaling.py --plot docs/scaling.svg     draw

Measured are, per megapixel of the first 24 photos, the time of one core for decoding twice, resizing, joining and
encoding, the bytes of a photo and of its result, and the bytes of a row without its image; and what a shard costs the
driver, on a local Ray. They stand in
dmt_ray/report/scaling_constants.py; the verdict: no measured one is off by more than a factor of two.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
import tyro
from _made_output import flat_ids, make_output
from _memory import anonymous_bytes

from dmt_ray.errors import DmtError
from dmt_ray.method.colorizer import assemble, working_luma
from dmt_ray.pipeline.attempts import Place
from dmt_ray.pipeline.dispatch import ShardStream
from dmt_ray.pipeline.no_progress import ProgressWatch
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan
from dmt_ray.pipeline.sharing import start_attempts
from dmt_ray.pipeline.summary import ShardSummary
from dmt_ray.report import scaling_constants as known
from dmt_ray.report.node_losses import mean_losses, simulate_losses
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image, encode_image

T = TypeVar("T")
SIZE = 256
REPEATS = 3
#: What a measurement may be off by on another machine.
FACTOR = 2.0


@dataclass(frozen=True)
class Options:
    """What to measure, and what to draw."""

    data: str | None = None
    """Folder of photos."""
    images: int = 24
    """How many photos."""
    plot: str | None = None
    """SVG file to draw."""


def main(options: Options) -> int:
    """Measure, draw, or both; return 0 when the constants hold."""
    if options.plot is not None:
        draw(options.plot)
    return 0 if options.data is None else measure(options.data, options.images)


def measure(data: str, images: int) -> int:
    """Print what was measured beside the constants; return 0 when they agree."""
    torch.set_num_threads(1)
    try:
        photos = [read_bytes(path) for path in list_files(data, {".jpg", ".jpeg"})[:images]]
        pictures = [decode_image(photo, max_pixels=10**9) for photo in photos]
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not photos:
        print(f"error: no JPEG photo in {data}.", file=sys.stderr)
        return 2
    pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
    seconds, chroma = 0.0, np.random.default_rng(0).normal(0, 5, (2, SIZE, SIZE)).astype(np.float32)
    encoded = {"png": 0, "jpeg": 0}
    for photo, picture in zip(photos, pictures, strict=True):
        seconds += 2 * _cpu(lambda photo=photo: decode_image(photo, max_pixels=10**9))[0]  # type: ignore[misc]
        seconds += 2 * _cpu(lambda picture=picture: working_luma(picture, SIZE))[0]  # type: ignore[misc]
        spent, made = _cpu(lambda picture=picture: assemble(picture, chroma, "native"))  # type: ignore[misc]
        seconds += spent + _cpu(lambda picture=picture: encode_image(picture, "png", 95))[0]  # type: ignore[misc]
        assert made.shape == picture.shape
        for name in encoded:
            encoded[name] += len(encode_image(picture, "png" if name == "png" else "jpeg", 95))
    measured = {
        known.PICTURE_SECONDS: seconds / (pixels / 1e6),
        known.INPUT_BYTES: sum(map(len, photos)) / pixels,
        **{known.OUTPUT_BYTES[name]: size / pixels for name, size in encoded.items()},
        known.ROW_BYTES: _row_bytes(),
        **_shard_costs(),
    }
    print(f"{len(photos)} photos of {pixels / len(photos) / 1e6:.3f} megapixels")
    good = True
    for constant, value in measured.items():
        good &= 1 / FACTOR <= value / constant.value <= FACTOR
        print(f"{constant.name:55} {value:8.3g} {constant.unit} (constant: {constant.value:g})")
    print("PASS" if good else f"FAIL: a constant is off by more than {FACTOR:g}")
    return 0 if good else 1


def _cpu(action: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of this process's cores, and the result."""
    began = time.process_time()
    results = [action() for _ in range(REPEATS)]
    return (time.process_time() - began) / REPEATS, results[0]


def _row_bytes(rows: int = 3200) -> float:
    with tempfile.TemporaryDirectory() as folder:
        size, pictures = make_output(folder, flat_ids(rows))
        return (size - pictures) / rows


class _Instant:
    """An actor that does nothing, at once."""

    def __init__(self, shared: Any, threads: int) -> None:
        self.place = Place("node", "ip", 0)

    def loaded(self) -> Place:
        return self.place

    def traverse_shard(self, number: int) -> tuple[bytes, int]:
        return bytes(200_000), 1  # too large to travel with the answer, as shards are

    def finish(self, number: int, payload: bytes, attempts: int) -> ShardSummary:
        return ShardSummary(number, 1, 0, 0.0, 0.0, 0.0)


def _shard_costs(shards: int = 3000) -> dict[known.Constant, float]:
    """Return bytes and seconds of the driver for each shard that it hands out and hears of, as a run does."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.WARNING)
    size = ActorPlan(1, 0.5, 0, 1)
    shared: Any = SimpleNamespace(attempts_actor=start_attempts())

    def run(count: int) -> int:
        kinds = (_Instant, _Instant)
        with ShardStream(range(count), shared, PoolPlan(size, size), ProgressWatch(600), kinds) as stream:
            return sum(summary.rows for summary in stream)

    run(50)  # the first shards load modules
    memory, began = anonymous_bytes(), time.process_time()
    assert run(shards) == shards
    spent, grown = time.process_time() - began, anonymous_bytes() - memory
    ray.shutdown()
    return {known.SHARD_BYTES: grown / shards, known.SHARD_SECONDS: spent / shards}


def draw(place: str, sizes: Sequence[float] = (0.2, 0.5, 1, 2, 5, 10, 20, 60, 120), runs: int = 20) -> None:
    """Draw lost work against how long a shard takes, in minutes, for fleets that lose more and fewer nodes."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams |= {"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 10}
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for losses, label in ((0.1, "0.1 a day"), (1.0, "1 a day"), (4.0, "4 a day"), (24.0, "24 a day")):
        shares = []
        for minutes in sizes:
            shards = round(8 * 8 * 48 * 60 / minutes)  # two days of 8 nodes with 8 GPUs
            simulated = (
                simulate_losses(
                    shards, minutes / 60, 8, 8, losses_per_node_day=losses, hours_to_replace=1 / 6, seed=seed
                )
                for seed in range(runs)
            )
            shares.append(100 * mean_losses(simulated).lost)
        axes.plot(sizes, shares, marker="o", markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="minutes that a shard takes on its GPU", ylabel="work lost, %")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks(sizes, [f"{each:g}" for each in sizes])
    axes.grid(alpha=0.3)
    axes.legend(title="losses of a node", frameon=False)
    figure.tight_layout()
    figure.savefig(place, format="svg", metadata={"Date": None})
    print(f"drawn: {place}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
