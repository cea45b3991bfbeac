"""Weights of exemplars reach every mean over a class, against definitions written out in feature space."""

import numpy as np
import pytest
import torch

from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.inversion.pixel_difference import ClassPictures
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import TransformerSettings, TransformTraversalConfig
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.interpolation import interpolate
from dmt_ray.method.traversal.selection import ImageIdentity, Selector, describe_identities, sub_gram
from dmt_ray.method.traversal.shrinkage import squared_differences
from dmt_ray.method.traversal.solving import traverse_to_strength
from dmt_ray.method.traversal.witness import BorderedGram, bandwidth, half_bandwidth, objective, witness

SOURCES, TARGETS, BASIS, IMAGES = 5, 4, 2, 3


def draw_weights(seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(np.concatenate([rng.dirichlet(np.ones(SOURCES)), rng.dirichlet(np.ones(TARGETS))]))


def features(seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((SOURCES + TARGETS + BASIS + IMAGES, 30)))


def bordered(rows: torch.Tensor, weights: torch.Tensor | None) -> BorderedGram:
    exemplars, own = rows[:-IMAGES], rows[-IMAGES:]
    return BorderedGram(exemplars @ exemplars.T, own @ exemplars.T, own.square().sum(1), SOURCES, TARGETS, weights)


def brute_witness(rows: torch.Tensor, weights: torch.Tensor, r: torch.Tensor, variance: torch.Tensor) -> list[float]:
    """The weighted witness function of each image, by a loop over images and exemplars."""
    found = []
    for b in range(IMAGES):
        own = rows[len(rows) - IMAGES + b]
        z = own * (1 + r[b, -1])
        for k in range(SOURCES + TARGETS + BASIS):
            z = z + r[b, k] * rows[k]
        total = 0.0
        for k in range(SOURCES + TARGETS):
            kernel = float(torch.exp(-(z - rows[k]).square().sum() / (2 * variance[b])))
            total += float(weights[k]) * kernel * (1 if k < SOURCES else -1)
        found.append(total)
    return found


@pytest.mark.parametrize("per_image", [False, True])
def test_the_witness_function_and_its_gradient(per_image: bool) -> None:
    rows, weights = features(), draw_weights(1)
    each = torch.stack([draw_weights(seed) for seed in range(IMAGES)]) if per_image else weights.expand(IMAGES, -1)
    gram = bordered(rows, each if per_image else weights)
    r = torch.tensor(np.random.default_rng(2).standard_normal((IMAGES, len(rows) - IMAGES + 1))) * 0.2
    variance = torch.tensor([5.0, 10.0, 20.0], dtype=torch.float64)
    expected = [brute_witness(rows, each[b], r, variance)[b] for b in range(IMAGES)]
    assert witness(gram, r, variance).tolist() == pytest.approx(expected, rel=1e-10)
    part = torch.tensor([2, 0])
    assert witness(gram.rows(part), r[part], variance[part]).tolist() == pytest.approx(
        [expected[2], expected[0]], rel=1e-10
    )
    budget = torch.full((IMAGES,), 1e-3, dtype=torch.float64)
    _, gradient = objective(gram, r, variance, budget)
    for k in range(r.shape[1]):
        step = torch.zeros_like(r)
        step[:, k] = 1e-6
        rise = objective(gram, r + step, variance, budget)[0] - objective(gram, r - step, variance, budget)[0]
        torch.testing.assert_close(gradient[:, k], rise / 2e-6, rtol=1e-5, atol=1e-8)


def test_direction_distance_of_the_means_and_bandwidth() -> None:
    rows, weights = features(), draw_weights(3)
    gram = bordered(rows, weights)
    w, v = weights[:SOURCES], weights[SOURCES:]
    mean = v @ rows[SOURCES : SOURCES + TARGETS] - w @ rows[:SOURCES]
    direction = gram.direction()
    torch.testing.assert_close(direction[1] @ rows[:-IMAGES], mean)
    assert not direction[:, SOURCES + TARGETS :].any()
    torch.testing.assert_close(gram.mean_difference(), mean.norm().expand(IMAGES))
    for b in range(IMAGES):
        square = (rows[len(rows) - IMAGES + b] - rows[SOURCES : SOURCES + TARGETS]).square().sum(1) @ v
        assert float(torch.exp(-square / (2 * bandwidth(gram, 0.7)[b]))) == pytest.approx(0.7, rel=1e-9)
    [(r, _)] = interpolate(gram, [torch.full((IMAGES,), 2.0)])
    torch.testing.assert_close(r[0, :-1] @ rows[:-IMAGES], 2 * mean)


def test_uniform_weights_are_no_weights_and_these_leave_every_number_as_it_was() -> None:
    rows = features()
    uniform = torch.tensor([1 / SOURCES] * SOURCES + [1 / TARGETS] * TARGETS, dtype=torch.float64)
    gram, weighted = bordered(rows, None), bordered(rows, uniform)
    r = torch.tensor(np.random.default_rng(2).standard_normal((IMAGES, len(rows) - IMAGES + 1))) * 0.2
    variance = half_bandwidth(gram)
    torch.testing.assert_close(half_bandwidth(weighted), variance)
    torch.testing.assert_close(witness(weighted, r, variance), witness(gram, r, variance))
    plain = torch.zeros_like(gram.cross)
    plain[:, :SOURCES], plain[:, SOURCES : SOURCES + TARGETS] = -1 / SOURCES, 1 / TARGETS
    assert torch.equal(gram.direction(), plain)
    s = r.clone()
    s[:, -1] += 1
    kernel = torch.exp(-gram.squared_distances(s, gram.apply(s)) / (2 * variance[:, None]))
    signs = torch.tensor([1 / SOURCES] * SOURCES + [-1 / TARGETS] * TARGETS, dtype=torch.float64)
    assert torch.equal(witness(gram, r, variance), (kernel * signs).sum(1))


def test_a_traversal_is_as_if_exemplars_without_weight_were_not_there() -> None:
    rows, weights = features(), draw_weights(4)
    weights[[1, SOURCES + 2]] = 0
    weights[:SOURCES] /= weights[:SOURCES].sum()
    weights[SOURCES:] /= weights[SOURCES:].sum()
    gram = bordered(rows, weights)
    kept = torch.tensor([k for k in range(len(rows) - IMAGES) if k not in (1, SOURCES + 2)])
    whole = traverse_to_strength(gram, 1.0, bandwidth(gram, 0.9))
    for b in range(IMAGES):
        part = sub_gram(gram, b, kept)
        assert part.weights is not None
        torch.testing.assert_close(part.weights.sum(), torch.tensor(2.0, dtype=torch.float64))
        alone = traverse_to_strength(part, 1.0, bandwidth(part, 0.9))
        moved = [
            r @ torch.cat([rows[index], rows[len(rows) - IMAGES + b][None]])
            for r, index in ((whole.r[b], torch.arange(len(rows) - IMAGES)), (alone.r[0], kept))
        ]
        assert float((moved[0] - moved[1]).norm() / moved[1].norm()) < 0.01


def test_chosen_exemplars_share_the_weight_among_themselves() -> None:
    gram = bordered(features(), draw_weights(5))
    chosen = torch.tensor([0, 3, SOURCES, SOURCES + 1, SOURCES + 3, SOURCES + TARGETS])
    assert gram.weights is not None
    for weights in (gram.weights, gram.weights.expand(IMAGES, -1)):
        part = sub_gram(bordered(features(), weights), 1, chosen)
        assert (part.sources, part.targets) == (2, 3)
        expected = gram.weights[chosen[:-1]].clone()
        expected[:2] /= expected[:2].sum()
        expected[2:] /= expected[2:].sum()
        assert part.weights is not None
        torch.testing.assert_close(part.weights, expected)


def selector(weights: torch.Tensor | None, neighbors: int | None) -> Selector:
    identities = [ImageIdentity(group=f"g{k}") for k in range(SOURCES + TARGETS + BASIS)]
    arrays = describe_identities(identities) | {"sources": np.array(SOURCES), "targets": np.array(TARGETS)}
    if weights is not None:
        arrays["exemplar_weights"] = weights.numpy()
    return Selector(arrays, SOURCES, TARGETS, neighbors=neighbors, by_attributes=False)


def test_an_exemplar_without_weight_is_chosen_for_no_image() -> None:
    weights = torch.tensor([0.5, 0.5, 0, 0, 1e-9, 0.25, 0.25, 0.5, 1e-8], dtype=torch.float64)
    gram = bordered(features(), weights)
    somebody, first = ImageIdentity(), ImageIdentity(group="g0")
    assert selector(weights, None).choose(gram, [somebody] * IMAGES) == [None] * IMAGES
    [chosen, *_] = selector(weights, None).choose(gram, [first] * IMAGES)
    assert chosen is not None
    assert chosen.tolist() == [1, 5, 6, 7, 9, 10]
    for chosen in selector(weights, 2).choose(gram, [somebody] * IMAGES):
        assert chosen is not None
        assert chosen.tolist()[:2] == [0, 1]
        assert set(chosen.tolist()[2:4]) < {5, 6, 7}
    assert selector(None, None).allowed(first).tolist() == [False] + [True] * 10


def test_the_f_ratio_has_weighted_means_and_their_variance_by_chance() -> None:
    rng = np.random.default_rng(0)
    sources, targets = rng.normal(0, 2, (6, 11)), rng.normal(1, 3, (5, 11))
    weights = np.concatenate([rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))])
    difference, chance = squared_differences(*map(torch.tensor, (sources, targets, weights)))
    for unit in range(11):
        parts = []
        for values, w in ((sources[:, unit], weights[:6]), (targets[:, unit], weights[6:])):
            mean = sum(a * x for a, x in zip(w, values, strict=True))
            square = sum(a * a for a in w)
            within = sum(a * (x - mean) ** 2 for a, x in zip(w, values, strict=True))
            parts.append((mean, square, within / square, 1 / square))
        pooled = (parts[0][2] + parts[1][2]) / (parts[0][3] + parts[1][3] - 2)
        assert float(difference[unit]) == pytest.approx((parts[1][0] - parts[0][0]) ** 2)
        assert float(chance[unit]) == pytest.approx(pooled * (parts[0][1] + parts[1][1]))
    uniform = torch.tensor([1 / 6] * 6 + [1 / 5] * 5, dtype=torch.float64)
    for weighted, plain in zip(
        squared_differences(torch.tensor(sources), torch.tensor(targets), uniform),
        squared_differences(torch.tensor(sources), torch.tensor(targets)),
        strict=True,
    ):
        torch.testing.assert_close(weighted, plain)


def test_the_variance_of_a_weighted_mean_is_right_on_average() -> None:
    """Of noise of variance 4, sum w^2 s^2 must be 4 sum w^2 on average, and the F ratio 1 for equal classes."""
    rng = np.random.default_rng(1)
    weights = torch.tensor(np.concatenate([rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(9))]))
    noise = torch.tensor(rng.normal(0, 2, (21, 20000)))
    difference, chance = squared_differences(noise[:12], noise[12:], weights)
    expected = 4 * float(weights.square().sum())
    assert float(chance.mean()) == pytest.approx(expected, rel=0.02)
    assert float(difference.mean()) == pytest.approx(expected, rel=0.03)


def summed(pictures: torch.Tensor, weights: torch.Tensor | None) -> ClassPictures:
    made = ClassPictures(44)
    for begin in range(0, len(pictures), 3):
        part = slice(begin, begin + 3)
        made.add(pictures[part], None if weights is None else weights[part])
    return made


def test_weighted_pictures() -> None:
    rng = np.random.default_rng(2)
    sources, targets = (torch.tensor(rng.normal(120 + lift, 5, (8, 3, 44, 44))).float() for lift in (0, 20))
    odd = targets.clone()
    odd[5:] += 60
    weights = torch.tensor([0.2] * 5 + [0.0] * 3, dtype=torch.float64)
    plain = summed(sources, None)
    without, weighted = summed(targets[:5], None), summed(odd, weights)
    assert weighted.effective_size == pytest.approx(5)
    torch.testing.assert_close(plain.difference_to(weighted), plain.difference_to(without), rtol=1e-9, atol=1e-6)
    scaled = summed(odd, 7 * weights)
    torch.testing.assert_close(plain.difference_to(scaled), plain.difference_to(without), rtol=1e-9, atol=1e-6)
    alone = summed(odd, torch.tensor([1.0] + [0.0] * 7, dtype=torch.float64))
    assert not plain.difference_to(alone).any()


def test_pictures_without_weights_sum_to_the_bits_as_before() -> None:
    rng = np.random.default_rng(3)
    sources, targets = (torch.tensor(rng.integers(0, 256, (7, 3, 44, 44))).float() for _ in range(2))

    def mean_and_variance(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = torch.zeros((3, 44, 44), dtype=torch.float64)
        square = torch.zeros_like(total)
        for batch in pictures.split(3):
            total += batch.double().sum(0)
            square += batch.double().square().sum(0)
        count = len(pictures)
        mean = total / count
        return mean, (square - count * mean.square()).clamp_min(0) / (count - 1) / count

    for pictures in (sources, targets):
        made, (mean, variance) = summed(pictures, None), mean_and_variance(pictures)
        assert torch.equal(made._mean(), mean)
        assert torch.equal(made._variance_of_mean(), variance)


def test_a_manifold_of_weighted_exemplars(network: FeatureNetwork, pictures: np.ndarray) -> None:
    """An exemplar of weight zero has no part in what the classes differ in, nor in where an image is moved."""
    settings = TransformerSettings(64, TransformTraversalConfig(strength=(1.0,)))
    sources, targets = pictures[:3], 255 - pictures[3:6]

    def build(sets: list[tuple[np.ndarray, list[float | None]]]) -> dict[str, np.ndarray]:
        given = [
            [(rgb, ImageIdentity(weight=weight)) for rgb, weight in zip(rows, weights, strict=True)]
            for rows, weights in sets
        ]
        return build_manifold(network, [*given, [(pictures[7], ImageIdentity())]], 8, settings)

    plain = build([(sources, [None] * 3), (targets, [None] * 3)])
    assert "exemplar_weights" not in plain
    uniform = build([(sources, [1 / 3] * 3), (targets, [1 / 3] * 3)])
    stranger = np.concatenate([targets, pictures[6:7] // 3])
    weighted = build([(sources, [0.25] * 3), (stranger, [0.1] * 3 + [0.0])])
    assert weighted["exemplar_weights"].dtype == np.float64
    np.testing.assert_allclose(weighted["exemplar_weights"], [1 / 3] * 6 + [0])
    for other in (uniform, weighted):
        np.testing.assert_allclose(other["pixel_difference"], plain["pixel_difference"], atol=1e-4)
    np.testing.assert_allclose(uniform["f_ratio"], plain["f_ratio"], rtol=2e-3)
    np.testing.assert_array_equal(uniform["gram"], plain["gram"])
    image = pictures[6].transpose(2, 0, 1)[None].astype(np.float32)
    moved = {}
    for name, arrays in (("plain", plain), ("uniform", uniform), ("weighted", weighted)):
        transformer = Transformer(network, arrays, settings)
        [moved[name]] = transformer.traverse(image, [ImageIdentity()])
    np.testing.assert_allclose(moved["uniform"].arrays["r"], moved["plain"].arrays["r"], atol=1e-3)
    r = moved["weighted"].arrays["r"][0]
    assert np.abs(r[6]) < 1e-3 * np.abs(r[:6]).max()
    with pytest.raises(ValueError, match="no weights to balance them by"):
        build([(sources, [0.5, None, 0.5]), (targets, [1.0] * 3)])
