import numpy as np
import pytest
import torch

from dmt_ray.method.traversal.shrinkage import pooled_f_ratio, shrinkage, squared_differences

SHAPES = [(4, 16, 16), (6, 8, 8)]
WIDTH = sum(int(np.prod(shape)) for shape in SHAPES)


def features(seed: int, count: int, lift: float = 0.0) -> torch.Tensor:
    """Make noise (count, D); ``lift`` is added to rows 4 to 7 of the first tap's first channel."""
    made = torch.tensor(np.random.default_rng(seed).normal(0, 2, (count, WIDTH)))
    made[:, 4 * 16 : 8 * 16] += lift
    return made


def f_ratio(sources: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    difference, chance = squared_differences(sources, targets)
    return pooled_f_ratio(difference.float().numpy(), chance.float().numpy(), SHAPES).astype(np.float64)


def test_the_difference_and_its_chance_are_those_of_a_t_test() -> None:
    sources, targets = features(0, 7), features(1, 5, 1.0)
    difference, chance = squared_differences(sources, targets)
    a, b = sources.numpy(), targets.numpy()
    pooled = (6 * a.var(0, ddof=1) + 4 * b.var(0, ddof=1)) / 10
    np.testing.assert_allclose(difference, (b.mean(0) - a.mean(0)) ** 2)
    np.testing.assert_allclose(chance, pooled * (1 / 7 + 1 / 5))


def test_without_a_difference_the_evidence_is_one_and_little_is_believed() -> None:
    found = f_ratio(features(0, 40), features(1, 60))
    assert found.mean() == pytest.approx(1, abs=0.1)
    assert shrinkage(torch.tensor(found), 1.5).mean() < 0.1


def test_what_the_classes_differ_in_is_believed_and_the_rest_is_not() -> None:
    kept = shrinkage(torch.tensor(f_ratio(features(0, 40), features(1, 60, 3.0))), 1.5)
    assert kept[5 * 16 : 7 * 16].min() > 0.9
    assert kept[12 * 16 :].mean() < 0.1
    assert kept.min() >= 0


def test_no_shrinking_believes_everything() -> None:
    assert torch.equal(shrinkage(torch.tensor(f_ratio(features(0, 5), features(1, 5))), 0), torch.ones(WIDTH))


def test_dead_units_are_no_evidence_and_two_photos_neither() -> None:
    sources, targets = features(0, 9), features(1, 9)
    sources[:, :256] = targets[:, :256] = 0
    assert f_ratio(sources, targets)[:256].max() < 1e-3
    assert not shrinkage(torch.tensor(f_ratio(features(0, 1), features(1, 1, 50))), 1.5).any()
