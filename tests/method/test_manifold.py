import numpy as np
import pytest
import torch

from dmt_ray.method import manifold as module
from dmt_ray.method.manifold import Manifold, standardisation

CPU = torch.device("cpu")


def maps(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(count, 6, 8, 8), (count, 10, 4, 4), (count, 12, 2, 2)]
    return [np.maximum(rng.normal(1, 2, shape), 0).astype(np.float16) for shape in shapes]


@pytest.mark.parametrize("standardise", ["channel", "unit"])
def test_gram_and_moves_equal_plain_matrix_products(standardise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 37)  # many ragged chunks
    arrays = Manifold.build(maps(0, 5), maps(1, 4), standardise, device=CPU)
    manifold = Manifold(arrays, 3, CPU)
    features = torch.tensor(arrays["features"]).double()
    assert features.shape == (9, 6 * 64 + 10 * 16 + 12 * 4)
    torch.testing.assert_close(manifold.shared, features @ features.T)
    assert (manifold.sources, manifold.targets) == (5, 4)

    images = [torch.tensor(tap).float() for tap in maps(2, 2)]
    x = manifold.standardise(images)
    gram = manifold.border(x)
    torch.testing.assert_close(gram.cross, x.double() @ features.T)
    torch.testing.assert_close(gram.own, x.double().square().sum(1))

    r = torch.randn(2, 10, dtype=torch.float64) * 0.1
    moved = manifold.move(x, r)
    expected = x + r[:, :-1].float() @ features.float() + r[:, -1:].float() * x
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
    for back, original in zip(manifold.unstandardise(x, images), images, strict=True):
        torch.testing.assert_close(back, original, rtol=1e-4, atol=1e-4)


def test_standardised_exemplars_have_zero_mean_and_unit_deviation_per_channel() -> None:
    (tap,) = maps(3, 40)[:1]
    mean, deviation = standardisation(tap, "channel")
    assert mean.shape == (6, 1, 1)
    z = (tap.astype(np.float64) - mean) / deviation
    assert np.abs(z.mean((0, 2, 3))).max() < 1e-5
    assert z.std((0, 2, 3)) == pytest.approx(np.ones(6), abs=1e-4)


def test_a_unit_that_is_dead_among_the_exemplars_cannot_throw_an_image_away() -> None:
    (tap,) = maps(4, 10)[:1]
    tap[:, 2] = 0
    for standardise in ("channel", "unit"):
        _, deviation = standardisation(tap, standardise)
        assert deviation.min() >= module.DEVIATION_FLOOR * 0.99 * deviation.mean() * 0.9
        assert deviation.min() > 0
    mean, deviation = standardisation(np.zeros((3, 2, 4, 4), np.float16), "unit")
    assert (deviation == 1).all()
    assert (mean == 0).all()
