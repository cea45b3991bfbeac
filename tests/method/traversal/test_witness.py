from pathlib import Path

import numpy as np
import pytest
import torch

from dmt_ray.method.traversal.solving import traverse, traverse_to_strength
from dmt_ray.method.traversal.witness import BorderedGram, displacement_norm, half_bandwidth, objective, witness

GOLDEN = Path(__file__).parents[2] / "data" / "traversal_golden.npz"


def golden(case: int) -> tuple[dict[str, np.ndarray], BorderedGram, torch.Tensor]:
    with np.load(GOLDEN) as file:
        data = {key.split("_", 1)[1]: file[key] for key in file.files if key.startswith(f"case{case}_")}
    gram = torch.tensor(data["gram"])
    sources, targets, _ = (int(n) for n in data["counts"])
    bordered = BorderedGram(gram[:-1, :-1], gram[-1:, :-1], gram[-1:, -1], sources, targets)
    return data, bordered, torch.tensor([float(data["rbf_variance"])], dtype=torch.float64)


def feature_gram(seed: int, images: int, sources: int = 12, targets: int = 9, basis: int = 4) -> BorderedGram:
    """Gram matrices of random features; the targets lie off to one side."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((sources + targets + basis + images, 60))
    features[sources : sources + targets, :5] += 3
    rows = torch.tensor(features)
    exemplars, own = rows[:-images], rows[-images:]
    return BorderedGram(exemplars @ exemplars.T, own @ exemplars.T, own.square().sum(1), sources, targets)


@pytest.mark.parametrize("case", range(4))
def test_value_and_gradient_equal_the_published_solver(case: int) -> None:
    data, gram, variance = golden(case)
    zero = torch.zeros(1, len(data["gram"]), dtype=torch.float64)
    for weight, expected in zip(data["budget_weights"], data["objective_start"], strict=True):
        value, _ = objective(gram, zero, variance, torch.tensor([weight]))
        assert float(value) == pytest.approx(expected, rel=1e-9)
    _, gradient = objective(gram, zero, variance, torch.tensor(data["budget_weights"][-1:]))
    expected = data["gradient_start_last"]
    assert np.abs(gradient[0].numpy() - expected).max() <= 1e-9 * np.abs(expected).max()
    for r, weight, end in zip(data["displacement"], data["budget_weights"], data["objective_end"], strict=True):
        value, _ = objective(gram, torch.tensor(r)[None], variance, torch.tensor([weight]))
        assert float(value) == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize("case", range(4))
def test_objective_is_never_above_the_published_solver(case: int) -> None:
    data, gram, variance = golden(case)
    weights = torch.tensor(data["budget_weights"])
    results = traverse(gram, variance, weights)
    assert len(results) == len(weights)
    for result, weight, end in zip(results, weights, data["objective_end"], strict=True):
        value, _ = objective(gram, result.r, variance, weight[None])
        assert float(value) <= end + 1e-9 * abs(end)


def test_gradient_equals_finite_differences() -> None:
    gram = feature_gram(0, images=2)
    r = torch.randn(2, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
    variance, weight = half_bandwidth(gram), torch.tensor([1e-3, 1e-2], dtype=torch.float64)
    _, gradient = objective(gram, r, variance, weight)
    for k in (0, 13, 23, 25):  # a source, a target, a basis row, the image's own
        step = torch.zeros_like(r)
        step[:, k] = 1e-6
        rise = objective(gram, r + step, variance, weight)[0] - objective(gram, r - step, variance, weight)[0]
        torch.testing.assert_close(gradient[:, k], rise / 2e-6, rtol=1e-6, atol=1e-8)


def test_witness_equals_its_definition_in_feature_space() -> None:
    rng = np.random.default_rng(5)
    features = torch.tensor(rng.standard_normal((10, 7)))
    gram = features @ features.T
    bordered = BorderedGram(gram[:-1, :-1], gram[-1:, :-1], gram[-1:, -1], 4, 3)
    r = torch.tensor(rng.standard_normal((1, 10))) * 0.2
    variance = half_bandwidth(bordered)
    z = features[-1] + r[0] @ features
    kernel = torch.exp(-(z - features[:-1]).square().sum(1) / (2 * variance))
    expected = kernel[:4].mean() - kernel[4:7].mean()
    assert float(witness(bordered, r, variance)) == pytest.approx(float(expected), rel=1e-10)
    assert float(displacement_norm(bordered, r)) == pytest.approx(float((r[0] @ features).norm()), rel=1e-10)
    mean = features[4:7].mean(0) - features[:4].mean(0)
    assert float(bordered.mean_difference()) == pytest.approx(float(mean.norm()), rel=1e-10)
    distance = (features[-1] - features[4:7]).square().sum(1).mean()
    assert float(torch.exp(-distance / (2 * variance))) == pytest.approx(0.5, rel=1e-10)


@pytest.mark.parametrize("strength", [0.2, 0.8, 1.4])
def test_strength_is_met_within_one_percent_for_a_whole_batch(strength: float) -> None:
    gram = feature_gram(1, images=5)
    found = traverse_to_strength(gram, strength)
    ratio = found.norm / gram.mean_difference()
    assert ratio.numpy() == pytest.approx(np.full(5, strength), rel=0.01)
    assert (found.witness_after < found.witness_before).all()


def test_a_batch_gives_what_its_images_give_alone() -> None:
    gram = feature_gram(2, images=4)
    together = traverse_to_strength(gram, 1.0)
    for b in range(4):
        alone = traverse_to_strength(gram.rows(torch.tensor([b])), 1.0)
        assert float(alone.norm) == pytest.approx(float(together.norm[b]), rel=1e-3)
        assert float(alone.witness_after) == pytest.approx(float(together.witness_after[b]), rel=1e-2)


def test_no_strength_is_no_displacement() -> None:
    found = traverse_to_strength(feature_gram(3, images=2), 0.0)
    assert float(found.r.abs().max()) == 0
    assert torch.equal(found.witness_before, found.witness_after)


def test_a_strength_out_of_reach_goes_as_far_as_it_can() -> None:
    _, gram, _ = golden(0)
    found = traverse_to_strength(gram, 50.0)
    assert torch.isfinite(found.r).all()
    assert 0 < float(found.norm / gram.mean_difference()) < 50
