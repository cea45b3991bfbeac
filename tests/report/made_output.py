"""Outputs for the tests of the report: committed by the project's own writer, without a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from material import photo

from dmt_ray.output.commit import commit_shard
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan, make_plan, plan_bytes
from dmt_ray.output.plan_file import PLAN_FILE, Binding
from dmt_ray.output.run_record import RUN_FILE, RunRecord
from dmt_ray.output.schema import SCHEMA_VERSION, rows_table
from dmt_ray.storage import files
from dmt_ray.storage.images import encode_animation, encode_image
from dmt_ray.storage.inputs.listing import InputItem, Listing, listing_batch

Rows = Callable[[int, InputItem], list[dict[str, Any]]]


def make_output(
    output: str,
    photos: Sequence[tuple[str, str]],
    rows: Rows,
    *,
    steps: int = 1,
    shard_size: int = 8,
    job: str = "transform",
    config: Mapping[str, Any] | None = None,
    only: Sequence[int] | None = None,
) -> Plan:
    """Write the output of a run.

    Parameters:
        output: where.
        photos: ids and URIs.
        rows: gives the rows of a photo, by its number and item: what they say beside id, uri and step.
        only: shards to commit; None: all.
    """
    ids, uris = zip(*photos, strict=True)
    identities = [files.identity(uri) if files.is_local(uri) else None for uri in uris]
    batch = listing_batch(ids, uris, identities=identities)
    binding = Binding("0" * 64, "plan-of-the-test")
    plan = make_plan(Listing(lambda: iter([batch]), pa.schema([])), shard_size, pa.schema([]), binding)
    record = RunRecord(
        uri=files.join(output, RUN_FILE),
        job=job,
        fingerprint=binding.fingerprint,
        steps=steps,
        config=config or {"inputs": {"input": str(Path(uris[0]).parent)}, "output": {"output": output}},
        plan=binding.name,
        planned={"images": plan.images, "shards": len(plan)},
        schema_version=SCHEMA_VERSION,
        details={"versions": {"dmt_ray": "0.1.0"}, "weights": {"backbone": "vgg16", "sha256": "ab" * 32}},
    )
    record.write()
    files.write_atomic(files.join(output, PLAN_FILE), plan_bytes(plan))
    expected = Expected.of(output, plan, steps, binding.fingerprint)
    number = 0
    for shard in plan:
        table = []
        for item in shard.items:
            for step, row in enumerate(rows(number, item)):
                table.append({"id": item.id, "uri": files.masked(item.uri), "step": step, "attempts": 1} | row)
            number += 1
        if only is None or shard.number in only:
            commit_shard(shard, rows_table(table), expected)
    return plan


def good_row(picture: np.ndarray, seed: int, *, strength: float = 2.0, frames: int = 0) -> dict[str, Any]:
    """Return what a row says of a result, with figures drawn by the seed."""
    random = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    path = [np.clip(picture.astype(int) - 8 * (frames - index), 0, 255).astype(np.uint8) for index in range(frames)]
    return {
        "status": "ok",
        "strength": strength,
        "image": encode_image(picture, "png", 95),
        "image_format": "png",
        "width": width,
        "height": height,
        "digital_source_type": "algorithmicallyEnhanced",
        "animation": encode_animation(path, "webp") if frames else None,
        "displacement_norm": float(random.gamma(4, strength)),
        "iterations": int(random.integers(5, 20)),
        "psnr_to_input": float(random.normal(27, 3)),
        "ssim_to_input": float(random.beta(9, 2)),
        "lpips_to_input": float(random.beta(2, 9)),
        "verdict_before": float(random.normal(-1.5, 1.2)),
        "verdict_after": float(random.normal(strength - 2.5, 1)),
        "seconds_read": float(random.gamma(2, 0.01)),
        "seconds_traverse": float(random.gamma(4, 0.1)),
        "seconds_reconstruct": float(random.gamma(6, 0.5)),
        "worker": "10.0.0.1:1234",
        "weights": "vgg16:abababababab",
    }


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with ``flipped`` as its verdicts say."""
    return row | {"flipped": None if row["verdict_before"] > 0 else row["verdict_after"] > 0}


def error_row(error_type: str, error: str, *, strength: float = 2.0) -> dict[str, Any]:
    """Return what an error row says."""
    return {"status": "error", "strength": strength, "error_type": error_type, "error": error}


def save_photos(folder: Path, names: Sequence[str], width: int = 96, height: int = 72) -> list[tuple[str, str]]:
    """Save synthetic photos and return their names and paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        photo(index, width, height).save(folder / name, "PNG")
    return [(name, str(folder / name)) for name in names]


def tinted(path: str, strength: float) -> np.ndarray:
    """Return a photo, redder by the strength: what stands in for a result."""
    from dmt_ray.storage.images import decode_image

    picture = decode_image(files.read_bytes(path), max_pixels=10**9).astype(np.float32)
    picture[..., 0] += 12 * strength
    picture[..., 2] -= 12 * strength
    return np.clip(picture, 0, 255).astype(np.uint8)
