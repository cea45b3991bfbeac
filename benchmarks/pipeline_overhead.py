"""Measure what a whole job costs beyond its model: against a bare loop, in images per second, and in memory.

    python benchmarks/pipeline_overhead.py --data DIR

DIR holds colour photos, of which crops are taken. Three tables:

- A colorization at 128 px on a local Ray, from its first shard's begin, against a loop over the same processor in one
  process that reads, traverses, reconstructs and encodes, and writes nothing; alternating. The verdict: at most 5 %
  more in the quickest rounds.
- A job whose model costs next to nothing (tests/tint_job.py) on many tiny photos, alternating with the same loop. The
  verdict: at least 100 images per second.
  In both, "start, end" are the job's seconds beyond: learning, the actors' start, and verifying the output.
- The driver's peak of anonymous memory in that job with a few photos and with ten times as many. The verdict: at most
  64 MB more, which are buffers for listing, planning and verifying in batches.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import tyro
from _memory import peak_memory
from PIL import Image

from dmt_ray.cli import parse_options
from dmt_ray.errors import DmtError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.pipeline.resources import DEFAULT_THREADS
from dmt_ray.pipeline.run import run_job
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image

#: The verdicts.
MOST_OVERHEAD = 0.05
FEWEST_PER_SECOND = 100.0
MOST_GROWTH_BYTES = 64e6

TESTS = Path(__file__).parents[1] / "tests"
SECONDS = re.compile(r"rows? in ([\d.]+) s after start-up")


@dataclass(frozen=True)
class Options:
    """How much to do."""

    data: str
    """Folder of colour photos."""
    images: int = 200
    """Photos to colorize; 0 leaves that out, here and below. With few, it counts most that the first traversed shards
    wait for a reconstruction actor that still loads its model."""
    size: int = 128
    """Their side in pixels, and the working size."""
    tiny: int = 3000
    """Tiny photos for the light job."""
    tiny_size: int = 64
    """Their side in pixels."""
    memory: int = 1000
    """Tiny photos whose job's memory is compared with that of ten times as many."""
    rounds: int = 2
    """How often each is measured, alternating."""


def main(options: Options) -> int:
    """Print three tables; return 0 when the verdicts hold."""
    try:
        photos = [
            decode_image(read_bytes(path), max_pixels=10**9)
            for path in list_files(options.data, {".jpg", ".jpeg", ".png"})[:64]
        ]
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    photos = [photo for photo in photos if min(photo.shape[:2]) >= options.size]
    if len(photos) < 2:
        print(f"error: {options.data} has fewer than two photos of {options.size} px or more.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, _local_ray():
        bench = Bench(Path(folder), photos, options)
        wanted = ((options.images, bench.colorize), (options.tiny, bench.tint), (options.memory, bench.memory))
        good = [measure() for count, measure in wanted if count]
    return 0 if all(good) else 1


@contextlib.contextmanager
def _local_ray() -> Iterator[None]:
    """Start a Ray as a local run does, whose workers can import the light job."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path.insert(0, str(TESTS))
    importlib.import_module("tint_job")
    ray.init(address="local", logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


class Bench:
    """Photos in a folder, and what is measured on them."""

    def __init__(self, folder: Path, photos: Sequence[np.ndarray], options: Options) -> None:
        self.folder, self.photos, self.options = folder, photos, options
        self._random = np.random.default_rng(0)
        self._outputs = 0
        self._beyond = 0.0

    def colorize(self) -> bool:
        """Compare a colorization with a bare loop."""
        size, images = self.options.size, self.options.images
        words = ["--reference", self._crops("references", 8, size), "--reference-limit", 8, "--neighbors", 8]
        words += ["--input", self._crops("photos", images, size), "--size", size, "--shard-size", 4]
        return self._compare(f"{images} photos of {size} px, colorized", "colorize", words, images)

    def tint(self) -> bool:
        """Compare a job whose model costs nothing with a bare loop."""
        images = self.options.tiny
        what = f"{images} photos of {self.options.tiny_size} px, tinted"
        return self._compare(what, "tint", self._tint_words(images), images)

    def memory(self) -> bool:
        """Compare the driver's memory in a small job and in a large one."""
        print(f"{'driver, photos tinted':40} {'peak MB':>9}")
        peaks = []
        for images in (self.options.memory, 10 * self.options.memory):
            with peak_memory() as peak:
                self._job("tint", self._tint_words(images))
            peaks.append(peak[0])
            print(f"{images:<40} {peaks[-1] / 1e6:9.1f}", flush=True)
        return _verdict(peaks[1] - peaks[0] <= MOST_GROWTH_BYTES, f"grown by {(peaks[1] - peaks[0]) / 1e6:.1f} MB")

    def _compare(self, what: str, command: str, words: list[Any], images: int) -> bool:
        print(f"{what:40} {'seconds':>9} {'images/s':>9} {'of the loop':>12} {'start, end':>11}")
        loops, jobs = [], []
        for _ in range(self.options.rounds):
            loops.append(self._loop(command, words))
            print(f"{'bare loop':40} {loops[-1]:9.1f} {images / loops[-1]:9.1f}", flush=True)
            jobs.append(self._job(command, words))
            ratio = jobs[-1] / loops[-1]
            print(
                f"{'whole job':40} {jobs[-1]:9.1f} {images / jobs[-1]:9.1f} {ratio:12.2f} {self._beyond:11.1f}",
                flush=True,
            )
        if command == "colorize":
            overhead = min(jobs) / min(loops) - 1
            return _verdict(overhead <= MOST_OVERHEAD, f"the job takes {overhead:+.1%}")
        rate = images / min(jobs)
        return _verdict(rate >= FEWEST_PER_SECOND, f"{rate:.0f} images per second")

    def _loop(self, command: str, words: list[Any]) -> float:
        """Return the seconds of a bare loop, in a process of Ray's, which has the same priority as a job's actors."""
        task: Any = ray.remote(num_cpus=0, max_calls=1)(loop_over_shards)
        seconds: float = ray.get(task.remote(self._config(command, words)))
        return seconds

    def _job(self, command: str, words: list[Any]) -> float:
        """Return the seconds of a job from its first shard's begin to its last one's end; note those beyond."""
        said: list[str] = []
        began = time.perf_counter()
        code = run_job(self._config(command, words), said.append)
        found = SECONDS.search("\n".join(said))
        assert code == 0, said
        assert found is not None, said
        self._beyond = time.perf_counter() - began - float(found[1])
        return float(found[1])

    def _config(self, command: str, words: list[Any]) -> Any:
        self._outputs += 1
        output = self.folder / f"output-{self._outputs}"
        always = ["--output", output, "--weights", "random:0", "--no-lpips", "--no-progress"]
        return parse_options(command, [*map(str, (*words, *always))])

    def _tint_words(self, images: int) -> list[Any]:
        size = self.options.tiny_size
        words = ["--input", self._crops("tiny", images, size), "--limit", images, "--size", 32, "--strength", 0.5]
        return [*words, "--tint", self._crops("tint", 1, size)]

    def _crops(self, name: str, count: int, size: int) -> Path:
        """Write so many crops of the photos, unless they are there; return their folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for index in range(len(list(folder.iterdir())), count):
            photo = self.photos[index % len(self.photos)]
            top, left = (int(self._random.integers(0, side - size + 1)) for side in photo.shape[:2])
            Image.fromarray(photo[top : top + size, left : left + size]).save(folder / f"{index:06d}.jpg", quality=92)
        return folder


def loop_over_shards(config: JobConfig) -> float:
    """Do a job's images in this process, one shard after the other, and drop the rows; return the seconds."""
    run, processor, _ = importlib.import_module("made_processor").made_processor(config)
    torch.set_num_threads(min(DEFAULT_THREADS, os.cpu_count() or 1))
    began = time.perf_counter()
    for shard in run.shards:
        processor.reconstruct(processor.traverse(shard.items), 1)
    return time.perf_counter() - began


def _verdict(good: bool, what: str) -> bool:
    print(f"{'PASS' if good else 'FAIL'}: {what}\n", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
