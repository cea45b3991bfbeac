"""Measure the peak memory of saving and of reading a manifold that is larger than what either may take.

    python benchmarks/manifold_memory.py [--gigabytes 2]

Features are made a block of rows at a time in a mapped file, as a job makes them, then saved, opened, and gone
through once in column chunks, as the Gram matrix is made. The reference is the size of the features: what a writer or
a reader without streaming would take. Counted is anonymous memory, sampled every few milliseconds; pages of mapped
files are the kernel's to drop.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro
from _memory import anonymous_bytes, peak_memory

from dmt_ray.storage.models.manifolds import open_arrays, save_arrays
from dmt_ray.storage.scratch import allocate

_ROWS_PER_BLOCK = 16
_COLUMNS_PER_CHUNK = 65536
#: The verdict: anonymous memory beyond what the process had, in bytes, whatever the features' size.
_MOST = 192 * 2**20


@dataclass(frozen=True)
class Options:
    """How much to save."""

    gigabytes: float = 2.0
    """Size of the features."""
    rows: int = 256
    """Exemplars; the number of columns follows."""
    data: str | None = None
    """Ignored: `make bench` gives it to every benchmark."""


def main(options: Options) -> int:
    """Print a table; return 0 when memory stayed within bounds."""
    columns = int(options.gigabytes * 2**30 / 2 / options.rows)
    shape = (options.rows, columns)
    size = 2 * options.rows * columns

    print(f"features {shape[0]} x {shape[1]} float16, {size / 2**20:.0f} MiB")
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:

        def save() -> None:
            features, random = allocate(shape, np.float16), np.random.default_rng(0)
            for begin in range(0, options.rows, _ROWS_PER_BLOCK):
                rows = features[begin : begin + _ROWS_PER_BLOCK]
                rows[:] = random.normal(size=(len(rows), 1))
            save_arrays(folder, {}, {"features": features})

        def read() -> None:
            features = open_arrays(folder)[1]["features"]
            gram = np.zeros((options.rows, options.rows))
            for begin in range(0, columns, _COLUMNS_PER_CHUNK):
                chunk = features[:, begin : begin + _COLUMNS_PER_CHUNK].astype(np.float32)
                gram += chunk @ chunk.T

        for name, action in (("make, save", save), ("open, verify, read", read)):
            seconds, peaks[name] = _measure(action)
            print(f"{name:20} {peaks[name] / 2**20:6.0f} MiB  {size / 2**20 / seconds:6.0f} MiB/s")
    good = max(peaks.values()) <= min(_MOST, size / 2)
    print(f"{'ok' if good else 'FAILED'}: at most {_MOST / 2**20:.0f} MiB, and half of the features")
    return 0 if good else 1


def _measure(action: Callable[[], None]) -> tuple[float, int]:
    """Run an action; return its seconds and the peak of anonymous memory beyond that at its start, in bytes."""
    before, started = anonymous_bytes(), time.perf_counter()
    with peak_memory() as peak:
        action()
        seconds = time.perf_counter() - started
    return seconds, peak[0] - before


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
