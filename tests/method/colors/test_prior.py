"""The colour prior: what it learns, that it is the same each time, and when there is none."""

import numpy as np
import pytest
import torch

from dmt_ray.method.colors.bank import ArrayStore, ColorBank
from dmt_ray.method.colors.building import PRIOR_FROM, learns_prior, scenes_of
from dmt_ray.method.colors.describing import Described, row_width
from dmt_ray.method.colors.prior import ColorPrior, PriorSample, PriorSettings, fit_prior
from dmt_ray.method.settings import TraversalConfig
from dmt_ray.storage.models.manifolds import open_arrays, save_arrays

CPU = torch.device("cpu")
SIZE = 64
PATCHES = (SIZE // 8) ** 2
SMALL = PriorSettings(members=2, hidden=(64, 32), dropout=0.1, epochs=30, batch=256, rate=5e-3)


def references(count: int, seed: int) -> np.ndarray:
    """Rows whose chroma is told by two of many directions of the descriptor, as by a texture: no two are near."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, PATCHES, row_width()), np.float32)
    rows[..., :64] = random.standard_normal((count, PATCHES, 64)) / 8
    rows[..., -4] = 30 * np.tanh(12 * rows[..., 3])
    rows[..., -3] = 30 * np.tanh(12 * rows[..., 17])
    rows[..., -2:] = random.uniform(0.2, 0.6, (count, PATCHES, 2))
    return rows.astype(np.float16)


def described(rows: np.ndarray) -> Described:
    found = torch.tensor(rows).float()
    return Described(found[..., :-4], found[..., -2:])


def learned(rows: np.ndarray, seed: int = 0, settings: PriorSettings = SMALL) -> dict[str, np.ndarray]:
    sample = PriorSample(len(rows), SIZE, seed, settings)
    sample.add(rows, range(len(rows)))
    return fit_prior(sample, CPU)


def error(chroma: torch.Tensor, rows: np.ndarray) -> float:
    return float((chroma - torch.tensor(rows[..., -4:-2]).float()).square().mean())


def test_a_rule_of_texture_is_learned_and_the_nearest_patches_miss_it():
    seen, new = references(60, 0), references(5, 1)
    prior = ColorPrior(learned(seen), SIZE, CPU)(described(new)).mean(0)
    bank = ColorBank(scenes_of(seen), ArrayStore(seen), CPU)
    near = bank.search(described(new), TraversalConfig(neighbors=64))
    grey = error(torch.zeros(()), new)
    assert error(prior, new) < 0.3 * grey
    assert error(prior, new) < 0.5 * error(near.chroma, new)


def test_the_same_seed_learns_the_same_and_leaves_the_process_alone():
    rows = references(6, 0)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, two, other = learned(rows), learned(rows), learned(rows, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])
    assert not np.array_equal(one["prior_weight_0"], other["prior_weight_0"])


def test_a_prior_is_small_and_the_same_when_it_was_saved(tmp_path):
    rows = references(3, 0)
    arrays = learned(rows, settings=PriorSettings(epochs=1, batch=64))
    assert sum(array.nbytes for array in arrays.values()) < 5_000_000
    save_arrays(str(tmp_path), {}, arrays)
    saved = open_arrays(str(tmp_path))[1]
    assert ColorPrior.has(saved)
    np.testing.assert_array_equal(
        ColorPrior(saved, SIZE, CPU)(described(rows)), ColorPrior(arrays, SIZE, CPU)(described(rows))
    )


def test_what_is_kept_to_learn_from_does_not_grow_with_the_references():
    settings = PriorSettings(most_patches=100)
    few, many = (PriorSample(count, SIZE, 0, settings) for count in (4, 50))
    few.add(references(4, 0), range(4))
    for seed in range(5):
        many.add(references(10, seed), range(10 * seed, 10 * seed + 10))
    assert len(few.tensors()[0]) == len(many.tensors()[0]) == 100
    assert len(many) == 50


def test_a_prior_without_some_references_is_the_one_of_the_others():
    rows = references(6, 0)
    sample = PriorSample(6, SIZE, 0, SMALL)
    sample.add(rows, range(6))
    few = fit_prior(sample.without({1, 4}, members=1), CPU)
    assert len(few["prior_weight_0"]) == 1
    changed = rows.copy()
    changed[[1, 4], ..., -4:-2] *= -1  # nothing of those that are left out counts
    other = PriorSample(6, SIZE, 0, SMALL)
    other.add(changed, range(6))
    for name, array in fit_prior(other.without({1, 4}, members=1), CPU).items():
        np.testing.assert_array_equal(array, few[name])


def test_references_may_be_taken_in_any_order():
    rows = references(6, 0)
    one, other = PriorSample(6, SIZE, 0, SMALL), PriorSample(6, SIZE, 0, SMALL)
    one.add(rows, range(6))
    for number in (3, 0, 5, 2, 1, 4):
        other.add(rows[number : number + 1], [number])
    for a, b in zip(one.tensors(), other.tensors(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("use", "count", "expected"),
    [
        ("auto", PRIOR_FROM - 1, False),
        ("auto", PRIOR_FROM, True),
        ("on", 1, True),
        ("off", 10**6, False),
    ],
)
def test_a_prior_is_learned_from_enough_references(use, count, expected):
    assert learns_prior(use, count) is expected
