"""A whole output without a run: rows as a run makes them, committed shard by shard."""

import numpy as np

from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.storage.images import encode_image

#: The strength of each step.
STRENGTHS = (1.0, 2.0)


def row(id_, step=0, seed=0):
    picture = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return {
        "id": id_,
        "step": step,
        "strength": STRENGTHS[step],
        "status": "ok",
        "displacement_norm": 1.0,
        "image": encode_image(picture, "png", 95),
        "image_format": "png",
        "width": 16,
        "height": 12,
        "digital_source_type": "algorithmicallyEnhanced",
    }


def error_row(id_, step=0):
    return {"id": id_, "step": step, "strength": STRENGTHS[step], "status": "error", "error_type": "e", "error": "x"}


def todo(configure):
    return prepare_run(configure(strength=STRENGTHS)).todo.numbers
