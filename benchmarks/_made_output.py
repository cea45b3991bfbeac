"""What the benchmarks of finished runs share: an output with made-up rows, a dozen small pictures among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dmt_ray.output.commit import commit_shard
from dmt_ray.output.expected import Expected
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan import load_plan, make_plan
from dmt_ray.output.plan_file import PLAN_FILE
from dmt_ray.output.run_record import RUN_FILE
from dmt_ray.output.schema import SCHEMA_VERSION, rows_table
from dmt_ray.storage import files
from dmt_ray.storage.images import encode_image
from dmt_ray.storage.inputs.listing import Listing, listing_batch

SHARD_SIZE = 32


def make_output(folder: str, ids: Sequence[str]) -> tuple[int, int]:
    """Write an output with a sound row for each id into a folder that may not be there yet.

    Returns:
        The bytes of its Parquet files, and of the pictures in them.
    """
    random = np.random.default_rng(0)
    pictures = [encode_image(random.integers(0, 256, (96, 96, 3), np.uint8), "png", 95) for _ in range(12)]
    listing = Listing(lambda: iter([listing_batch(list(ids), list(ids))]), pa.schema([]))
    plan = make_plan(listing, SHARD_SIZE, output_fields(pa.schema([])))
    output = Path(folder)
    output.mkdir(exist_ok=True)
    (output / PLAN_FILE).write_bytes(files.read_bytes(plan.file.uri))
    record = {"program": "dmt_ray colorize", "steps": 1, "fingerprint": "made up", "schema_version": SCHEMA_VERSION}
    (output / RUN_FILE).write_text(json.dumps(record))
    plan = load_plan(folder)
    expected = Expected.of(folder, plan, steps=1, fingerprint="made up")
    for shard in plan:
        made = [
            {"id": item.id, "uri": item.uri, "step": 0, "strength": 2.0, "status": "ok"}
            | {"displacement_norm": 1.0, "width": 96, "height": 96}
            | {"image": pictures[index % len(pictures)], "image_format": "png"}
            | {"digital_source_type": "algorithmicallyEnhanced"}
            for index, item in enumerate(shard.items)
        ]
        commit_shard(shard, rows_table(made), expected)
    size = sum(path.stat().st_size for path in output.rglob("*.parquet"))
    return size, sum(len(pictures[index % len(pictures)]) for shard in plan for index in range(len(shard.items)))


def flat_ids(rows: int) -> list[str]:
    """Return the paths of so many photos in one folder."""
    return [f"/photos/{index:07d}.jpg" for index in range(rows)]
