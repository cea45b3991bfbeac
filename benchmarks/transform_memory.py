"""Hold the formula of docs/memory.md against the measured peak memory of the three stages, at three sizes.

    python benchmarks/transform_memory.py [--sizes 96 224 512] [--exemplars 60]

Each size runs in a process of its own, without Ray, on random pictures and random weights. Counted is anonymous
memory, sampled every few milliseconds, beyond what the process had before the stage; pages of mapped files (the
features) are the kernel's to drop and are shown beside it. The verdict: no stage takes more than the formula says,
and at the largest size none takes less than a third of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.memory import FORWARD_BYTES, inversion_bytes
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH
from dmt_ray.method.settings import (
    ModelConfig,
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.device_blocks import BLOCK_BYTES
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.models.weights import resolve_weights
from dmt_ray.storage.scratch import allocate

MIB = 2**20


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sizes: tuple[int, ...] = (96, 224, 512)
    """Working sizes in pixels."""
    exemplars: int = 60
    """Sources and targets together."""
    batch_size: int = 2
    """Images inverted side by side."""
    one: int | None = None
    """Measure one size in this process and print JSON; the benchmark calls itself so."""
    data: str | None = None
    """Ignored: `make bench` gives it to every benchmark."""


def formula(size: int, exemplars: int, batch: int) -> dict[str, float]:
    """Return the bytes that docs/memory.md says, by stage; the default taps have D = 26 values per pixel."""
    pixels, values = size**2, 26 * size**2
    gram = 8 * exemplars**2
    maps = 4 * values * BATCH
    blocks = 2 * min(BLOCK_BYTES, 8 * values * exemplars)
    small = 2 * values * exemplars if 2 * values * exemplars <= 2**28 else 0  # kept in memory below 256 MiB
    return {
        "fit": FORWARD_BYTES * pixels * BATCH + 2 * maps + max(gram + blocks, small) + small,
        "traverse": FORWARD_BYTES * pixels * BATCH + 2 * maps + 4 * gram + blocks,
        "reconstruct": batch * inversion_bytes(pixels, 26) + 2 * gram + blocks,
    }


def measure(options: Options, size: int) -> dict[str, list[float]]:
    """Return [anonymous, of mapped files] bytes beyond the start, by stage."""
    torch.set_num_threads(1)
    settings = TransformerSettings(
        size, TransformTraversalConfig(strength=(1.0,)), TransformInversionConfig(iterations=12)
    )
    weights = resolve_weights("vgg16", "random:0")
    network = FeatureNetwork(weights.arrays, "vgg16", ModelConfig.taps, precision="fp32", device=torch.device("cpu"))
    half = options.exemplars // 2

    def pictures(seed: int, count: int) -> Iterator[tuple[np.ndarray, ImageIdentity]]:
        random = np.random.default_rng(seed)
        for _ in range(count):
            coarse = random.integers(0, 256, (size // 16, size // 16, 3), np.uint8)
            yield np.kron(coarse, np.ones((16, 16, 1), np.uint8)), ImageIdentity()

    result: dict[str, list[float]] = {}

    def stage(name: str, action: Callable[[], object]) -> object:
        value, result[name] = _watched(action)
        return value

    sets = [pictures(0, half), pictures(1, options.exemplars - half), iter(())]
    arrays = stage("fit", lambda: build_manifold(network, sets, options.exemplars, settings, allocate))
    transformer = Transformer(network, arrays, settings)  # type: ignore[arg-type]
    inputs = np.stack([transformer.working(rgb) for rgb, _ in pictures(2, BATCH)])
    identities = [ImageIdentity()] * BATCH
    moved = stage("traverse", lambda: transformer.traverse(inputs, identities))
    few = inputs[: options.batch_size]
    masks = [None] * len(few)
    stage("reconstruct", lambda: transformer.reconstruct(few, moved[: len(few)], masks))  # type: ignore[index]
    return result


def _watched(action: Callable[[], object]) -> tuple[object, list[float]]:
    start = _resident()
    peak = list(start)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[:] = map(max, peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        value = action()
    finally:
        done.set()
        watcher.join()
    return value, [float(high - low) for high, low in zip(peak, start, strict=True)]


def _resident() -> list[int]:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = [re.search(rf"Rss{kind}:\s+(\d+) kB", text) for kind in ("Anon", "File")]
    return [int(match[1]) * 1024 for match in found if match is not None]


def main(options: Options) -> int:
    """Print the table; return 0 when the formula holds."""
    if options.one is not None:
        print(json.dumps(measure(options, options.one)))
        return 0
    print(f"{'size':>5} {'stage':12} {'measured':>9} {'formula':>9} {'ratio':>6}   mapped files, MiB")
    good = True
    for size in options.sizes:
        words = ["--one", size, "--exemplars", options.exemplars, "--batch-size", options.batch_size]
        done = subprocess.run(
            [sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
        )
        said = formula(size, options.exemplars, options.batch_size)
        for name, (anonymous, mapped) in json.loads(done.stdout).items():
            ratio = anonymous / said[name]
            good &= ratio <= 1 and (ratio >= 1 / 3 or size < max(options.sizes))
            measured = f"{anonymous / MIB:9.0f} {said[name] / MIB:9.0f} {ratio:6.2f}"
            print(f"{size:5} {name:12} {measured}   {mapped / MIB:.0f}", flush=True)
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
