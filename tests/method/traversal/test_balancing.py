"""Entropy balancing against its primal, its limits, and what it refuses."""

import numpy as np
import pytest
from scipy.optimize import minimize

from dmt_ray.errors import SettingsError
from dmt_ray.method.traversal.balancing import (
    Balance,
    balance_classes,
    counting,
    exemplar_weights,
    normalised_weights,
)


def divergence(weights: np.ndarray) -> float:
    """Kullback-Leibler divergence from uniform."""
    kept = weights[weights > 0]
    return float((kept * np.log(kept * len(weights))).sum())


def attributes(seed: int, count: int, columns: int, shift: float) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(seed).normal(0, 1, (count, columns)) * 3 + shift
    return made


def balanced(sources: np.ndarray, targets: np.ndarray) -> Balance:
    found = balance_classes(sources, targets, [f"c{k}" for k in range(sources.shape[1])])
    for side, values in ((found.sources, sources), (found.targets, targets)):
        assert side.weights.dtype == np.float64
        assert side.weights.sum() == pytest.approx(1, abs=1e-12)
        assert side.weights.min() >= 0
        assert 1 - 1e-9 <= side.effective_size <= len(values) + 1e-9
        np.testing.assert_allclose(side.means_before, values.mean(0))
        np.testing.assert_allclose(side.means_after, side.weights @ values)
    return found


def test_it_solves_the_primal() -> None:
    sources, targets = attributes(0, 7, 2, 0.0), attributes(1, 6, 2, 2.0)

    def total(weights: np.ndarray) -> float:
        return divergence(weights[:7]) + divergence(weights[7:])

    constraints = [
        {"type": "eq", "fun": lambda w: w[:7].sum() - 1},
        {"type": "eq", "fun": lambda w: w[7:].sum() - 1},
        {"type": "eq", "fun": lambda w: w[:7] @ sources - w[7:] @ targets},
    ]
    uniform = np.concatenate([np.full(7, 1 / 7), np.full(6, 1 / 6)])
    primal = minimize(
        total, uniform, bounds=[(1e-12, 1)] * 13, constraints=constraints, method="SLSQP", options={"ftol": 1e-14}
    )
    assert primal.success
    found = balanced(sources, targets)
    np.testing.assert_allclose(np.concatenate([found.sources.weights, found.targets.weights]), primal.x, atol=1e-5)
    np.testing.assert_allclose(found.sources.means_after, found.targets.means_after, atol=1e-7)
    assert not [fault for fault in found.faults() if "unequal" in fault]


def test_equal_classes_keep_uniform_weights() -> None:
    sources = attributes(2, 9, 3, 0.0)
    found = balanced(sources, sources[::-1])
    np.testing.assert_allclose(found.sources.weights, 1 / 9, atol=1e-9)
    np.testing.assert_allclose(found.targets.weights, 1 / 9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter(scale: float) -> None:
    sources, targets = attributes(3, 20, 2, 0.0), attributes(4, 15, 2, 1.0)
    plain, scaled = balanced(sources, targets), balanced(sources * scale + 7 * scale, targets * scale + 7 * scale)
    np.testing.assert_allclose(scaled.targets.weights, plain.targets.weights, rtol=1e-6)


def test_what_one_class_lacks_weighs_next_to_nothing_in_the_other() -> None:
    rng = np.random.default_rng(5)
    sources = np.stack([np.zeros(40), rng.random(40) < 0.7], 1).astype(float)
    targets = np.stack([rng.random(30) < 0.4, rng.random(30) < 0.5], 1).astype(float)
    found = balanced(sources, targets)
    spectacled = targets[:, 0] > 0
    assert spectacled.any()
    assert (found.targets.weights[spectacled] * len(targets)).max() < 1e-6
    assert found.targets.means_after[0] < 1e-6
    assert found.targets.means_after[1] == pytest.approx(found.sources.means_after[1], abs=1e-7)
    rest = balanced(sources[:, 1:], targets[~spectacled][:, 1:])  # as if they had never been there
    np.testing.assert_allclose(found.targets.weights[~spectacled], rest.targets.weights, atol=1e-6)
    assert not found.faults()


def test_classes_that_lie_apart_meet_as_near_as_they_can_with_a_warning() -> None:
    found = balanced(np.array([[0.0], [1.0], [1.0]]), np.array([[2.0], [3.0], [4.0]]))
    np.testing.assert_allclose(found.sources.weights, [0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.targets.weights, [1, 0, 0], atol=1e-6)
    few, fewer, unequal = found.faults()
    assert few.startswith("The 3 sources count as only 2.0 once")
    assert fewer.startswith("The 3 targets count as only 1.0 once")
    assert "Column 'c0' stays unequal: its mean is 1 in the sources and 2 in the targets, 0.74 standard" in unequal


def test_a_column_that_is_the_class_itself_moves_no_weight() -> None:
    sources = np.stack([np.zeros(12), attributes(6, 12, 1, 0.0)[:, 0]], 1)
    targets = np.stack([np.ones(9), attributes(7, 9, 1, 1.0)[:, 0]], 1)
    found = balanced(sources, targets)
    np.testing.assert_allclose(
        found.targets.weights, balanced(sources[:, 1:], targets[:, 1:]).targets.weights, rtol=1e-6
    )
    assert [fault.split()[:3] for fault in found.faults()] == [["Column", "'c0'", "stays"]]


@pytest.mark.parametrize("seed", range(25))
def test_whatever_the_classes_the_weights_are_finite_and_the_same_each_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 5))
    sources = attributes(seed, int(rng.integers(2, 200)), columns, 0.0)
    targets = attributes(seed + 100, int(rng.integers(2, 200)), columns, float(rng.choice([0, 1, 5, 40])))
    if seed % 3 == 0:
        sources, targets = (
            np.column_stack([values, values[:, 0], values[:, 0] > 1]) for values in (sources, targets)
        )
    found, again = balanced(sources, targets), balanced(sources, targets)
    np.testing.assert_array_equal(found.sources.weights, again.sources.weights)
    gap = np.abs(found.sources.means_after - found.targets.means_after) / found.deviations
    assert gap.max() < 1e-6 or found.faults()
    # No weights bring the means nearer: along the gap, the classes' nearest points are where the means lie.
    between = (found.targets.means_after - found.sources.means_after) / found.deviations
    reach = (targets / found.deviations @ between).min() - (sources / found.deviations @ between).max()
    assert reach <= between @ between + 1e-9
    assert between @ between <= max(reach, 0) + 1e-4


def test_what_cannot_be_balanced_is_refused() -> None:
    sources, targets = attributes(0, 4, 2, 0.0), attributes(1, 3, 2, 0.0)
    sources[:, 1] = targets[:, 1] = 5
    with pytest.raises(SettingsError, match=r"Column 'b' to balance by is 5 for all 7 exemplars.*leave it out"):
        balance_classes(sources, targets, ["a", "b"])
    targets[2, 0] = np.nan
    with pytest.raises(SettingsError, match="Column 'a' to balance by has no number for target 2"):
        balance_classes(sources, targets, ["a", "b"])


def test_the_record_has_plain_numbers() -> None:
    found = balance_classes(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0], [1.0]]), ["male"])
    assert found.targets.as_json() == {
        "count": 3,
        "effective_size": pytest.approx(found.targets.effective_size),
        "means_before": {"male": pytest.approx(2 / 3)},
        "means_after": {"male": pytest.approx(found.targets.weights[1:].sum())},
    }


def test_weights_of_a_manifold() -> None:
    sizes = {"sources": np.array(2), "targets": np.array(4)}
    np.testing.assert_array_equal(exemplar_weights(sizes), [0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    assert counting(sizes).all()
    given = np.array([1 - 1e-8, 1e-8, 0.5, 0.5 - 1e-6, 1e-6, 0])
    np.testing.assert_array_equal(exemplar_weights(sizes | {"exemplar_weights": given}), given)
    assert counting(sizes | {"exemplar_weights": given}).tolist() == [True, False, True, True, True, False]


def test_exemplars_that_are_left_out_leave_their_weight_to_the_others() -> None:
    found = normalised_weights([0.2, 0.2], [0.5])
    assert found is not None
    np.testing.assert_allclose(found, [0.5, 0.5, 1])
    assert normalised_weights([None, None], [None]) is None
    for sources, targets in (([0.5, None], [1.0]), ([None], [1.0]), ([0.0, 0.0], [1.0])):
        with pytest.raises(ValueError, match="no weights to balance them by"):
            normalised_weights(sources, targets)
