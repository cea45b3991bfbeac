"""Time `dmt-ray verify` on 100,000 rows, quick and deep: python benchmarks/verify_speed.py"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dmt_ray.output.commit import commit_shard
from dmt_ray.output.expected import Expected
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan import PLAN_FILE, load_plan, make_plan
from dmt_ray.output.run_record import RUN_FILE
from dmt_ray.output.schema import SCHEMA_VERSION, rows_table
from dmt_ray.output.verify import verify_output
from dmt_ray.storage import files
from dmt_ray.storage.images import encode_image
from dmt_ray.storage.inputs.registry import open_listing

SHARD_SIZE = 32
#: The quick check must take less than this share of the deep check's time.
LARGEST_SHARE = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", help="not used: the output is made up")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        size, _ = make_output(folder, rows)
        print(f"{rows} rows, {size / 1e6:.0f} MB in shards of {SHARD_SIZE}")
        seconds = {}
        for deep in (False, True):
            began = time.perf_counter()
            report = verify_output(folder, deep=deep)
            seconds[deep] = time.perf_counter() - began
            if not report.complete or report.rows != rows:
                print("FAIL", *report.sentences(), sep="\n")
                return 1
            print(f"{'deep' if deep else 'quick'}: {seconds[deep]:.1f} s, {rows / seconds[deep]:.0f} rows/s")
    fast = seconds[False] < LARGEST_SHARE * seconds[True]
    print("PASS" if fast else f"FAIL: the quick check takes more than {LARGEST_SHARE:.0%} of the deep one's time")
    return 0 if fast else 1


def make_output(folder: str, rows: int) -> tuple[int, int]:
    """Write an output with made-up rows, a dozen different small pictures among them.

    Returns the bytes of its files, and of the pictures in them.
    """
    random = np.random.default_rng(0)
    pictures = [encode_image(random.integers(0, 256, (96, 96, 3), np.uint8), "png", 95) for _ in range(12)]
    listing = Path(folder, "inputs.csv")
    listing.write_text("uri\n" + "".join(f"/photos/{index:07d}.jpg\n" for index in range(rows)), encoding="utf-8")
    plan = make_plan(open_listing(str(listing), limit=None), SHARD_SIZE, output_fields(pa.schema([])))
    listing.unlink()
    output = Path(folder)
    (output / PLAN_FILE).write_bytes(files.read_bytes(plan.file.uri))
    record = {"program": "dmt_ray colorize", "steps": 1, "fingerprint": "made up", "schema_version": SCHEMA_VERSION}
    (output / RUN_FILE).write_text(json.dumps(record))
    plan = load_plan(folder)
    expected = Expected.of(folder, plan, steps=1, fingerprint="made up")
    for shard in plan:
        made = [
            {"id": item.id, "uri": item.uri, "step": 0, "strength": 2.0, "status": "ok"}
            | {"displacement_norm": 1.0, "width": 96, "height": 96}
            | {
                "image": pictures[index % len(pictures)],
                "image_format": "png",
                "digital_source_type": "algorithmicallyEnhanced",
            }
            for index, item in enumerate(shard.items)
        ]
        commit_shard(shard, rows_table(made), expected)
    size = sum(path.stat().st_size for path in output.rglob("*.parquet"))
    return size, sum(len(pictures[index % len(pictures)]) for shard in plan for index in range(len(shard.items)))


if __name__ == "__main__":
    raise SystemExit(main())
