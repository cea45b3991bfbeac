"""Displacements that are saved and read back: what is damaged, not finite or of other exemplars is told."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from dmt_ray.errors import ImageError
from dmt_ray.method.displacement import Displacement, Figures

STEP = Figures(2.0, 1.5, budget_weight=3.0)


def saved(steps: object, **arrays: np.ndarray) -> bytes:
    return save(arrays or {"r": np.ones((1, 3), np.float32)}, metadata={"steps": json.dumps(steps)})


def kind_of(action) -> str:
    with pytest.raises(ImageError) as caught:
        action()
    return caught.value.kind


def test_what_is_saved_is_read_back():
    made = Displacement({"r": np.array([[0.5, -1.0, 0.0]], np.float16)}, [STEP])
    read = Displacement.from_bytes(made.to_bytes())
    assert read.steps == [STEP]
    assert read.arrays["r"].dtype == np.float16
    np.testing.assert_array_equal(read.arrays["r"], made.arrays["r"])


@pytest.mark.parametrize(
    "steps",
    [
        [],
        {},
        "steps",
        [3],
        [{"strength": 1.0}],
        [{"strength": None, "displacement_norm": 1.0}],
        [{"strength": True, "displacement_norm": 1.0}],
        [{"strength": 1.0, "displacement_norm": "far"}],
        [{"strength": 1.0, "displacement_norm": 1.0, "witness_after": [1.0]}],
        [{"strength": 1.0, "displacement_norm": 1.0, "colour": 1.0}],
    ],
)
def test_steps_that_are_none(steps):
    assert kind_of(lambda: Displacement.from_bytes(saved(steps))) == "bad-displacement"


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_bytes_that_are_cut(cut):
    data = Displacement({"r": np.ones((1, 3), np.float32)}, [STEP]).to_bytes()
    assert kind_of(lambda: Displacement.from_bytes(data[:cut])) == "bad-displacement"


def test_numbers_that_are_not_finite():
    step = {"strength": 1.0, "displacement_norm": 1.0}
    arrays = saved([step], r=np.array([[1.0, np.nan, 0.0]], np.float16))
    assert kind_of(lambda: Displacement.from_bytes(arrays)) == "not-finite"
    figures = saved([step | {"displacement_norm": float("inf")}])
    assert kind_of(lambda: Displacement.from_bytes(figures)) == "not-finite"
    assert kind_of(lambda: Displacement({}, [Figures(1.0, float("nan"))])) == "not-finite"


def test_arrays_of_other_exemplars():
    made = Displacement(
        {"r": np.ones((1, 3), np.float32), "index": np.array([[0, 4]]), "whole": np.ones((1, 3), np.int32)}, [STEP]
    )
    made.check("r", (1, 3))
    made.check("r", (1, None))
    made.check("index", (1, None), below=5)
    for action in (
        lambda: made.check("gone", (1, 3)),
        lambda: made.check("r", (1, 4)),
        lambda: made.check("r", (3,)),
        lambda: made.check("whole", (1, 3)),
        lambda: made.check("index", (1, 2), below=4),
        lambda: made.check("r", (1, 3), below=4),
    ):
        assert kind_of(action) == "bad-displacement"
