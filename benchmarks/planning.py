"""Measure the driver's time and peak memory of planning a million inputs, against a plan of Python objects.

    python benchmarks/planning.py [--count 1000000]

Each form of input is listed and planned in a process of its own, as the driver does it: listed in batches, cut into
shards, written to a plan file, and read back a shard at a time. The reference holds every input of the list file as
an object, as a simple driver would. Counted is anonymous memory beyond what the process had after its imports. The
verdict: no form takes more than two thirds of the reference.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from _memory import anonymous_bytes, peak_memory

from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan import load_plan, make_plan, plan_bytes
from dmt_ray.storage.files import write_atomic
from dmt_ray.storage.inputs.registry import list_inputs, open_listing

SHARD_SIZE = 32
FORMS = ("objects (reference)", "list file", "CSV of URIs", "Parquet of URIs")


@dataclass(frozen=True)
class Options:
    """How many inputs."""

    count: int = 1_000_000
    """Inputs to plan."""
    one: tuple[str, str] | None = None
    """Form and place to plan in this process; the benchmark calls itself so."""
    data: str | None = None
    """Ignored: `make bench` gives it to every benchmark."""


def main(options: Options) -> int:
    """Print a table; return 0 when memory stayed within bounds."""
    if options.one is not None:
        form, place = options.one
        print(json.dumps(_measured(lambda: _plan(form, place))))
        return 0
    peaks = {}
    print(f"{options.count} inputs\n{'form':20} {'seconds':>8} {'peak MB':>8} {'of the reference':>17}")
    with tempfile.TemporaryDirectory() as folder:
        for form, file in zip(FORMS, _places(Path(folder), options.count), strict=True):
            command = [sys.executable, __file__, "--one", form, str(file)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            shards, seconds, peaks[form] = json.loads(done.stdout)
            assert shards == -(-options.count // SHARD_SIZE), shards
            share = peaks[form] / peaks[FORMS[0]]
            print(f"{form:20} {seconds:8.1f} {peaks[form] / 1e6:8.0f} {share:17.2f}", flush=True)
    good = max(peaks[form] for form in FORMS[1:]) <= peaks[FORMS[0]] * 2 / 3
    print(f"{'ok' if good else 'FAILED'}: every form within two thirds of the reference")
    return 0 if good else 1


def _places(folder: Path, count: int) -> list[Path]:
    uris = [f"s3://bucket/photos/{index // 1000:04d}/{index:08d}.jpg" for index in range(count)]
    names, rows, table = folder / "inputs.txt", folder / "inputs.csv", folder / "inputs.parquet"
    names.write_text("\n".join(uris) + "\n")
    rows.write_text("uri,label\n" + "".join(f"{uri},{index % 10}\n" for index, uri in enumerate(uris)))
    pq.write_table(pa.table({"uri": uris, "label": pa.array([index % 10 for index in range(count)])}), table)
    return [names, names, rows, table]


def _plan(form: str, place: str) -> int:
    """Plan one input and go through its shards; return how many there are."""
    if form == FORMS[0]:
        items = list_inputs(place)
        shards = [items[begin : begin + SHARD_SIZE] for begin in range(0, len(items), SHARD_SIZE)]
        return sum(bool(shard) for shard in shards)
    listing = open_listing(place)
    with tempfile.TemporaryDirectory() as output:
        plan = make_plan(listing, SHARD_SIZE, output_fields(listing.input_columns))
        write_atomic(f"{output}/plan.parquet", plan_bytes(plan))
        return sum(bool(shard.items) for shard in load_plan(output))


def _measured(action: Callable[[], int]) -> tuple[int, float, int]:
    """Return the action's value, its seconds, and its peak of anonymous memory beyond the start, in bytes."""
    before, started = anonymous_bytes(), time.perf_counter()
    with peak_memory() as peak:
        value = action()
        seconds = time.perf_counter() - started
    return value, seconds, peak[0] - before


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
