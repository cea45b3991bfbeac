"""Build banks of many references and colorize with them: time, bytes, memory of each process, seconds per image.

    python benchmarks/reference_scale.py --data DIR [--counts 500 2000 20000]

References are crops of the photos in DIR. Each bank is built by a process of its own; then processes of their own use
the banks, in turns, and the quickest turn of each counts. Memory is anonymous memory, sampled every few milliseconds;
pages of mapped files are the kernel's to drop. The first pass over the inputs opens and checks chunks, the second is
what an image costs from then on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from _memory import peak_memory
from PIL import Image

from dmt_ray.config import InputConfig, OutputConfig
from dmt_ray.jobs.color_bank import build_color_bank
from dmt_ray.jobs.colorize import ColorizeConfig, ReferenceConfig
from dmt_ray.jobs.exemplars import content_checksum, list_exemplars, make_editor
from dmt_ray.method.settings import ModelConfig
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.manifolds import open_arrays
from dmt_ray.storage.models.weights import resolve_weights

#: The verdict: how many times as long an image may take with the most references as with the fewest.
_MOST_TIMES = 1.5
#: And how many MiB more of memory a process may take, beside 1 KiB for each reference more.
_MORE_MEMORY = 64
#: Below about so many references, the samples that descriptors and prior are learned from grow with their number.
_SAMPLES_FULL = 500


@dataclass(frozen=True)
class Options:
    """How much to build."""

    data: str
    """Folder of colour photos."""
    counts: tuple[int, ...] = (500, 2000, 20000)
    """References of each bank."""
    size: int = 96
    """Side of the crops in pixels, and the working size."""
    inputs: int = 32
    """Photos to colorize."""
    rounds: int = 3
    """How often each bank is used."""
    threads: int = 4
    """Threads that make the crops."""
    stage: str = ""
    """Internal: what this process does."""
    place: str = ""
    """Internal: where."""


def make_crops(options: Options, folder: Path, count: int, seed: int = 0) -> None:
    """Write crops of the photos as JPEG files."""
    photos = sorted(Path(options.data).rglob("*.jpg"))

    def make(number: int) -> None:
        random = np.random.default_rng([seed, number])
        with Image.open(photos[number % len(photos)]) as photo:
            rgb = photo.convert("RGB")
        side = int(min(rgb.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, full - side + 1)) for full in rgb.size)
        crop = rgb.resize((options.size,) * 2, Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        crop.save(folder / f"{number:06d}.jpg", quality=92)

    with ThreadPoolExecutor(options.threads) as threads:
        list(threads.map(make, range(count)))


def config_of(options: Options, references: str | None, place: str | None) -> ColorizeConfig:
    """Return the options of a run."""
    return ColorizeConfig(
        inputs=InputConfig("unused"),
        output=OutputConfig("unused"),
        references=ReferenceConfig(references, manifold=place),
        model=ModelConfig(size=options.size),
    )


def build(options: Options, place: str) -> dict[str, float]:
    """Build a bank of the crops in PLACE/crops; return figures."""
    config = config_of(options, f"{place}/crops", None)
    weights = resolve_weights("vgg16", "auto")
    references = list_exemplars(config)["reference"]
    with peak_memory() as peak:
        started = time.perf_counter()
        content = content_checksum(config, "reference", references)
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        built = build_color_bank(f"{place}/bank", config, references, weights.arrays, weights.sha256, content, device)
        seconds = time.perf_counter() - started
    return {
        "build": seconds,
        "bytes": built.nbytes,
        "built": built.references,
        "peak": peak[0] / 2**20,
        "prior": built.prior,
    }


def use(options: Options, place: str) -> dict[str, float]:
    """Colorize with the bank; return figures."""
    config = config_of(options, None, f"{place}/bank")
    photos = sorted(Path(options.data).rglob("*.jpg"))[:: 640 // options.inputs][: options.inputs]
    inputs = [decode_image(path.read_bytes(), max_pixels=10**9) for path in photos]
    with peak_memory() as peak:
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        weights = resolve_weights("vgg16", "auto")
        editor = make_editor(weights.arrays, open_arrays(f"{place}/bank")[1], config, device)
        passes = []
        for _ in range(2):
            seconds = {"find": 0.0, "whole": 0.0}
            for rgb in inputs:
                started = time.perf_counter()
                picture = editor.working(rgb)[None]
                moved = editor.traverse(picture, [])
                seconds["find"] += time.perf_counter() - started
                editor.reconstruct(picture, moved, [None])
                seconds["whole"] += time.perf_counter() - started
            passes.append({name: value / len(inputs) for name, value in seconds.items()})
    return {"first": passes[0]["whole"], **passes[1], "peak": peak[0] / 2**20}


def in_process(options: Options, stage: str, place: str) -> dict[str, float]:
    """Run a stage in a process of its own; return its figures."""
    words = ["--data", options.data, "--size", str(options.size), "--inputs", str(options.inputs)]
    command = [sys.executable, __file__, *words, "--stage", stage, "--place", place]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> int:
    """Print a table; return 0 when an image takes hardly longer and memory stays flat."""
    options = tyro.cli(Options, description=__doc__)
    if options.stage:
        print(json.dumps((build if options.stage == "build" else use)(options, options.place)))
        return 0
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{options.size} px, {options.inputs} inputs, {device}")
    counts = sorted(options.counts)
    with tempfile.TemporaryDirectory() as folder:
        builds = print_builds(options, counts, folder)
        uses = print_uses(options, counts, folder)
    return 0 if check(counts, builds, uses) else 1


def print_builds(options: Options, counts: list[int], folder: str) -> list[dict[str, float]]:
    """Build the banks and print what that took; return its figures."""
    builds = []
    print(f"{'references':>10}{'crops s':>9}{'build s':>9}{'bytes each':>12}{'build MiB':>11}", flush=True)
    for count in counts:
        place = Path(folder, str(count))
        (place / "crops").mkdir(parents=True)
        started = time.perf_counter()
        make_crops(options, place / "crops", count)
        crops = time.perf_counter() - started
        built = in_process(options, "build", str(place))
        shutil.rmtree(place / "crops")
        builds.append(built)
        each = built["bytes"] / built["built"]
        print(f"{count:10}{crops:9.1f}{built['build']:9.1f}{each:12.0f}{built['peak']:11.0f}", flush=True)
    return builds


def print_uses(options: Options, counts: list[int], folder: str) -> list[dict[str, float]]:
    """Use the banks in turns and print what that took; return the least of each figure, and the most memory."""
    turns: list[list[dict[str, float]]] = [[] for _ in counts]
    for _ in range(options.rounds):
        for count, found in zip(counts, turns, strict=True):
            found.append(in_process(options, "use", str(Path(folder, str(count)))))
    print(f"{'references':>10}{'use MiB':>9}{'first s/img':>13}{'s/img':>8}{'of it find':>12}")
    uses = []
    for count, found in zip(counts, turns, strict=True):
        used = {name: min(turn[name] for turn in found) for name in found[0]}
        used["peak"] = max(turn["peak"] for turn in found)
        uses.append(used)
        print(
            f"{count:10}{used['peak']:9.0f}{used['first']:13.3f}{used['whole']:8.3f}{used['find']:12.3f}", flush=True
        )
    return uses


def check(counts: list[int], builds: list[dict[str, float]], uses: list[dict[str, float]]) -> bool:
    """Print the verdicts; return whether all are met."""
    times = uses[-1]["whole"] / uses[0]["whole"]
    good = times <= _MOST_TIMES
    print(f"{'met   ' if good else 'MISSED'} {times:.2f} times as long per image (aim: at most {_MOST_TIMES})")
    if counts[0] < _SAMPLES_FULL:
        print(
            f"Memory is judged from {_SAMPLES_FULL} references on, where the samples that are learned from are full."
        )
        return good
    more = _MORE_MEMORY + (counts[-1] - counts[0]) / 1024
    for name, figures in (("build", builds), ("use", uses)):
        rise = figures[-1]["peak"] - figures[0]["peak"]
        good = good and rise <= more
        verdict = "met   " if rise <= more else "MISSED"
        print(f"{verdict} {name}: {rise:.0f} MiB more memory (aim: at most {more:.0f})")
    return good


if __name__ == "__main__":
    sys.exit(main())
