"""What tests of the output share: rows as a run writes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dmt_ray.output.commit import commit_shard
from dmt_ray.output.plan import Shard
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.prepare import PreparedRun
from dmt_ray.storage.images import encode_image


@pytest.fixture
def commit_rows() -> Callable[[PreparedRun, Shard], None]:
    """Commit a shard of a run with one sound row per image and step."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image = {"image": encode_image(picture, "png", 95), "image_format": "png", "width": 16, "height": 12}
    image["digital_source_type"] = "algorithmicallyEnhanced"

    def commit(run: PreparedRun, shard: Shard) -> None:
        rows = [
            {"id": item.id, "uri": item.uri, "step": step, "strength": strength, "status": "ok"}
            | {"displacement_norm": 1.0}
            | image
            for item in shard.items
            for step, strength in enumerate(run.config.strengths)
        ]
        commit_shard(shard, rows_table(rows), run.expected)

    return commit
