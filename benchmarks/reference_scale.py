"""Build banks of many references and colorize with them: time, bytes, memory of each process, seconds per image.

    python benchmarks/reference_scale.py --data DIR [--counts 500 2000 20000]

References are crops of the photos in DIR. Each bank is built by a process of its own and used by another one. Counted
is anonymous memory, sampled every few milliseconds; pages of mapped files are the kernel's to drop. The first pass
over the inputs opens and checks chunks, the second is what an image costs from then on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
    print(
        f"{'references':>10}{'crops s':>9}{'build s':>9}{'bytes each':>12}{'build MiB':>11}{'use MiB':>9}"
        f"{'first s/img':>13}{'s/img':>8}{'of it find':>12}",
        flush=True,
    )
    rows = []
    for count in sorted(options.counts):
        with tempfile.TemporaryDirectory() as place:
            Path(place, "crops").mkdir()
            started = time.perf_counter()
            make_crops(replace(options), Path(place, "crops"), count)
            crops = time.perf_counter() - started
            built, used = in_process(options, "build", place), in_process(options, "use", place)
        rows.append((count, built, used))
        print(
            f"{count:10}{crops:9.1f}{built['build']:9.1f}{built['bytes'] / built['built']:12.0f}{built['peak']:11.0f}"
            f"{used['peak']:9.0f}{used['first']:13.3f}{used['whole']:8.3f}{used['find']:12.3f}",
            flush=True,
        )
    (few, built, used), (many, built_many, used_many) = rows[0], rows[-1]
    more = _MORE_MEMORY + (many - few) / 1024
    times = used_many["whole"] / used["whole"]
    good = times <= _MOST_TIMES
    print(f"{'met   ' if good else 'MISSED'} {times:.2f} times as long per image (aim: at most {_MOST_TIMES})")
    for name, low, high in (("build", built, built_many), ("use", used, used_many)):
        flat = high["peak"] - low["peak"] <= more
        good = good and flat
        rise = high["peak"] - low["peak"]
        print(f"{'met   ' if flat else 'MISSED'} {name}: {rise:.0f} MiB more memory (aim: at most {more:.0f})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
