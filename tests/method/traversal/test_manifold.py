import numpy as np
import pytest
import torch

from dmt_ray.method.traversal import device_blocks as module
from dmt_ray.method.traversal.manifold import DEVIATION_FLOOR, Manifold, ManifoldBuilder, standardisation

CPU = torch.device("cpu")


def maps(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(count, 6, 8, 8), (count, 10, 4, 4), (count, 12, 2, 2)]
    return [np.maximum(rng.normal(1, 2, shape), 0).astype(np.float16) for shape in shapes]


def build(standardise: str, *sets: list[np.ndarray]) -> dict[str, np.ndarray]:
    builder = ManifoldBuilder(sum(len(one[0]) for one in sets), standardise)
    for one in sets:
        builder.add([torch.from_numpy(tap) for tap in one])
    return builder.finish(len(sets[0][0]), len(sets[1][0]), CPU)


@pytest.mark.parametrize("standardise", ["channel", "unit", "none"])
def test_gram_and_moves_equal_plain_matrix_products(standardise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 37 * 9 * 8)  # many ragged blocks
    arrays = build(standardise, maps(0, 5), maps(1, 4))
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
        assert deviation.min() >= DEVIATION_FLOOR * 0.99 * deviation.mean() * 0.9
        assert deviation.min() > 0
    mean, deviation = standardisation(np.zeros((3, 2, 4, 4), np.float16), "unit")
    assert (deviation == 1).all()
    assert (mean == 0).all()


@pytest.mark.parametrize("standardise", ["channel", "unit"])
def test_a_streamed_manifold_equals_one_made_of_all_at_once(standardise: str) -> None:
    source, target, basis = maps(0, 5), maps(1, 4), maps(2, 3)
    whole = build(standardise, source, target, basis)
    assert len(whole["features"]) == 12
    everything = [np.concatenate(taps) for taps in zip(source, target, basis, strict=True)]
    flat = []
    for k, tap in enumerate(everything):
        mean, deviation = standardisation(tap, standardise)
        np.testing.assert_allclose(whole[f"mean_{k}"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(whole[f"deviation_{k}"], deviation, rtol=1e-5)
        flat.append(((tap - mean) / deviation).reshape(12, -1))
    np.testing.assert_allclose(whole["features"].astype(np.float32), np.concatenate(flat, 1), rtol=2e-3, atol=2e-3)
    builder = ManifoldBuilder(20, standardise)  # room for some that turn out unreadable
    for row in range(12):
        builder.add([torch.from_numpy(tap[row : row + 1]) for tap in everything])
    for name, array in builder.finish(5, 4, CPU).items():
        np.testing.assert_allclose(array.astype(np.float64), whole[name].astype(np.float64), rtol=1e-9, atol=1e-9)


def test_moving_by_few_exemplars_equals_moving_by_all() -> None:
    manifold = Manifold(build("channel", maps(0, 5), maps(1, 4)), 3, CPU)
    x = manifold.standardise([torch.tensor(tap).float() for tap in maps(2, 1)])
    r = torch.zeros(1, 10, dtype=torch.float64)
    r[0, [1, 7]] = torch.tensor([-0.4, 0.6], dtype=torch.float64)
    features = torch.tensor(manifold.features).float()
    torch.testing.assert_close(manifold.move(x, r), x - 0.4 * features[1] + 0.6 * features[7], rtol=1e-4, atol=1e-4)


def test_features_that_are_kept_on_the_device_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 37 * 9 * 8)
    arrays = build("channel", maps(0, 5), maps(1, 4))
    kept, travelling = (Manifold(arrays, 3, CPU, resident=resident) for resident in (True, False))
    x = kept.standardise([torch.tensor(tap).float() for tap in maps(2, 2)])
    assert torch.equal(kept.border(x).cross, travelling.border(x).cross)
    r = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept.move(x, r), travelling.move(x, r))
    r[:, 2:7] = 0  # few neighbours
    assert torch.equal(kept.move(x, r), travelling.move(x, r))


@pytest.mark.parametrize("standardise", ["channel", "none"])
def test_evidence_is_of_the_classes_and_the_basis_has_no_say(
    standardise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 37 * 9 * 8)
    sets = maps(0, 5), maps(1, 4)
    arrays = build(standardise, *sets)
    np.testing.assert_array_equal(build("none", *sets, maps(2, 3))["f_ratio"], build("none", *sets)["f_ratio"])
    flat = [np.concatenate([tap.reshape(len(tap), -1) for tap in one], 1).astype(np.float64) for one in sets]
    a, b = flat
    variance = (4 * a.var(0, ddof=1) + 3 * b.var(0, ddof=1)) / 7 * (1 / 5 + 1 / 4)
    ratio = (b.mean(0) - a.mean(0)) ** 2 / variance
    corner = ratio[:384].reshape(6, 8, 8)[:, :2, :2].mean((1, 2))
    middle = ratio[:384].reshape(6, 8, 8)[:, 3:6, 2:5].mean((1, 2))
    found = arrays["f_ratio"][:384].reshape(6, 8, 8)
    np.testing.assert_allclose(found[:, 0, 0], corner, rtol=0.02)  # features are kept in half precision
    np.testing.assert_allclose(found[:, 4, 3], middle, rtol=0.02)
