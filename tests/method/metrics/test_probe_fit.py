"""The probe behind a judge: what it separates, how honestly its accuracy is measured, and what weights do."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dmt_ray.method.metrics.probe_fit import Probe, balanced_accuracy, fit_probe, held_out_splits
from dmt_ray.method.metrics.verdicts import ProbeJudge


def classes(sources: int, targets: int, gap: float = 3.0, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features (K, width) float32 whose first column tells the classes apart, and which of them are targets."""
    random = np.random.default_rng(0)
    target = np.arange(sources + targets) >= sources
    features = 5 + 2 * random.normal(size=(len(target), width))
    features[:, 0] += gap * target
    return features.astype(np.float32), target


def values(probe: Probe, features: np.ndarray) -> np.ndarray:
    judge = ProbeJudge({}, probe.arrays, torch.device("cpu"))
    return judge.score(torch.from_numpy(features)).numpy()


def test_two_classes_are_told_apart_and_every_time_alike():
    features, target = classes(40, 30, gap=16.0, width=8)
    probe = fit_probe(features, target, [None] * 70)
    assert (probe.folds, probe.accuracy) == (5, 1.0)
    assert ((values(probe, features) > 0) == target).all()
    again = fit_probe(features.copy(), target.copy(), [None] * 70)
    assert (again.accuracy, again.strength) == (probe.accuracy, probe.strength)
    assert all(np.array_equal(probe.arrays[name], again.arrays[name]) for name in probe.arrays)


def test_the_score_is_scikit_learns_decision_function():
    features, target = classes(60, 15)
    probe = fit_probe(features, target, [None] * 75)
    model = LogisticRegression(C=probe.strength, class_weight="balanced", tol=1e-8, max_iter=5000)
    reference = make_pipeline(StandardScaler(), model).fit(features.astype(np.float64), target)
    others = classes(10, 10, gap=1.0)[0]
    expected = reference.decision_function(others.astype(np.float64))
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(values(probe, others), expected, atol=1e-4)


def test_the_accuracy_is_that_of_exemplars_held_out():
    random = np.random.default_rng(1)
    features, target = random.normal(size=(60, 400)).astype(np.float32), np.arange(60) >= 30
    probe = fit_probe(
        features, target, [None] * 60
    )  # noise in many columns: all exemplars are separated, none foreseen
    assert balanced_accuracy(values(probe, features), target) == 1.0
    assert 0.3 < probe.accuracy < 0.7


def test_no_two_folds_share_a_group():
    random = np.random.default_rng(2)
    groups = [f"person-{index // 6}" for index in range(60)]
    target = np.arange(60) // 6 % 2 == 1
    persons = random.normal(size=(10, 200))[np.arange(60) // 6]  # what a person looks like, and nothing of the class
    features = (persons + 0.1 * random.normal(size=(60, 200))).astype(np.float32)
    for train, test in held_out_splits(target, groups):
        assert not {groups[index] for index in train} & {groups[index] for index in test}
    alone = fit_probe(features, target, [None] * 60)
    grouped = fit_probe(features, target, groups)
    assert (alone.accuracy, alone.folds, grouped.folds) == (1.0, 5, 5)
    assert grouped.accuracy < 0.75


@pytest.mark.parametrize(
    ("target", "groups", "folds"),
    [
        ([0, 0, 0, 1, 1, 1, 1, 1, 1], [None] * 9, 3),
        ([0, 1, 1, 1], [None] * 4, 0),
        ([0, 1], [None] * 2, 0),
        ([0, 0, 1, 1], list("aabc"), 0),
        ([0, 0, 1, 1], list("abcd"), 2),
        ([0, 1, 0, 1], list("aabb"), 2),
        ([0] * 9 + [1] * 9, ["a"] * 5 + [None] * 13, 5),
    ],
)
def test_few_exemplars_or_groups_make_fewer_folds(target, groups, folds):
    target = np.array(target, bool)
    features = np.random.default_rng(3).normal(size=(len(target), 8)).astype(np.float32)
    features[:, 0] += 9 * target
    probe = fit_probe(features, target, groups)
    assert probe.folds == folds
    assert (probe.accuracy is None) == (folds == 0)
    assert ((values(probe, features) > 0) == target).all()


def test_folds_that_could_learn_only_one_class_are_not_made():
    target, groups = np.array([0, 1, 0, 1], bool), list("abba")
    for train, _ in held_out_splits(target, groups):
        assert set(target[train]) == {False, True}
    target = np.array([0] * 6 + [1] * 2, bool)
    splits = held_out_splits(target, list("aaabbb") + list("ab"))
    assert len(splits) == 2
    assert all(set(target[train]) == {False, True} for train, _ in splits)


def test_weights_count_within_their_class():
    features, target = classes(40, 40)
    features[:, 1] += 6 * target  # a second sign of the class, which half of the targets do not have
    features[60:, 1] -= 6
    groups = [None] * 80
    alike = fit_probe(features, target, groups)
    np.testing.assert_allclose(
        fit_probe(features, target, groups, np.full(80, 0.25)).arrays["judge_coefficients"],
        alike.arrays["judge_coefficients"],
    )
    weights = np.where(np.arange(80) < 60, 1.0, 20.0)
    weighted = fit_probe(features, target, groups, weights)
    shares = [
        abs(probe.arrays["judge_coefficients"][1] / probe.arrays["judge_coefficients"][0])
        for probe in (alike, weighted)
    ]
    assert shares[1] < 0.7 * shares[0]


def test_an_exemplar_of_weight_0_is_as_if_it_were_not_there():
    features, target = classes(20, 20)
    weights = np.where(np.arange(40) % 4 == 0, 0.0, 1.0)
    kept = weights > 0
    probe = fit_probe(features, target, [None] * 40, weights)
    without = fit_probe(features[kept], target[kept], [None] * 30)
    assert probe.accuracy == without.accuracy
    assert all(np.array_equal(probe.arrays[name], without.arrays[name]) for name in probe.arrays)
    with pytest.raises(ValueError, match="no exemplar of any weight"):
        fit_probe(features, target, [None] * 40, target.astype(float))


def test_the_accuracy_counts_both_classes_alike():
    target = np.arange(10) >= 8
    assert balanced_accuracy(np.full(10, -1.0), target) == 0.5
    assert balanced_accuracy(np.where(target, 1.0, -1.0), target) == 1.0
    assert balanced_accuracy(np.array([1.0, *[-1.0] * 9]), target, np.array([4.0, *[1.0] * 7, 1.0, 0.0])) == (
        pytest.approx((7 / 11 + 0) / 2)
    )
