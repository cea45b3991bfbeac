"""Fit a linear probe that tells two classes apart, and measure on exemplars held out how well it does.

It is scikit-learn's logistic regression with an L2 penalty on standardised features; every class has the same total
weight, however many exemplars it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: Folds of the cross-validation, where there are exemplars for so many.
FOLDS = 5
#: Inverse strengths of the penalty that the cross-validation chooses from, and what is taken without one.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_STRENGTH = 1e-2
_ITERATIONS = 2000
#: Of the gradient; scikit-learn's default leaves decision values uncertain in the third digit.
_TOLERANCE = 1e-6

Splits = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        arrays: ``judge_mean``, ``judge_scale`` and ``judge_coefficients`` (D,), ``judge_intercept`` (), float64.
        accuracy: balanced over the two classes, of the exemplars held out, 0 to 1; None without a cross-validation.
        folds: of the cross-validation; 0 without one.
        strength: the inverse strength of the penalty, scikit-learn's ``C``.
    """

    arrays: dict[str, np.ndarray]
    accuracy: float | None
    folds: int
    strength: float


def fit_probe(
    features: np.ndarray, target: np.ndarray, groups: Sequence[str | None], weights: np.ndarray | None = None
) -> Probe:
    """Fit a probe whose decision value is above 0 for targets; the same input gives the same probe.

    The strength of the penalty is the one with the least log loss on the exemplars held out, whose accuracy is the
    one that is told: it was not chosen by accuracy itself.

    Parameters:
        features: (K, D), what is known of the exemplars of both classes.
        target: (K,) bool, which of them are targets.
        groups: K names, such as of the person shown, that no two folds share; None is a group of its own.
        weights: (K,) at least 0, how much each exemplar counts within its class; None counts all alike.

    Raises:
        ValueError: a class has no exemplar, or none of any weight.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    if weights is not None:
        used = np.asarray(weights) > 0
        features, target, weights = features[used], target[used], np.asarray(weights, np.float64)[used]
        groups = [name for name, each in zip(groups, used, strict=True) if each]
    balanced = balanced_weights(target, weights)
    splits = held_out_splits(target, groups)
    strength, accuracy = DEFAULT_STRENGTH, None
    # One thread: these fits are so small that threads only wait for each other, and their number changes the sums.
    with threadpool_limits(1):
        if splits:
            values = _held_out_values(features, target, balanced, splits)
            signs = np.where(target, 1.0, -1.0)
            losses = [float(balanced @ np.logaddexp(0, -signs * found)) for found in values]
            best = int(np.argmin(losses))
            strength, accuracy = STRENGTHS[best], balanced_accuracy(values[best], target, weights)
        arrays = next(_fitted(features, target, balanced, (strength,)))
    return Probe(arrays, accuracy, len(splits), strength)


def balanced_weights(target: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return weights (K,) of which each class has K / 2 in all.

    Raises:
        ValueError: a class has no exemplar, or none of any weight.
    """
    given = np.ones(len(target)) if weights is None else weights
    balanced = np.empty(len(target))
    for chosen in (target, ~target):
        total = given[chosen].sum()
        if not total > 0:
            raise ValueError("a class has no exemplar of any weight")
        balanced[chosen] = given[chosen] / total * len(target) / 2
    return balanced


def balanced_accuracy(values: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean over the two classes of the share that decision values (K,) call right, 0 to 1."""
    right = (values > 0) == target
    balanced = balanced_weights(target, weights)
    return float(np.mean([balanced[chosen & right].sum() / balanced[chosen].sum() for chosen in (target, ~target)]))


def held_out_splits(target: np.ndarray, groups: Sequence[str | None]) -> Splits:
    """Return the training and test exemplars of each fold; none where a class has too few exemplars or groups.

    Folds are stratified: each has about the same share of both classes; a group is in one fold alone.

    Parameters:
        target: (K,) bool, which exemplars are targets.
        groups: K names; None is a group of its own.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = {name: number for number, name in enumerate(dict.fromkeys(groups)) if name is not None}
    group = np.array([len(groups) + index if name is None else names[name] for index, name in enumerate(groups)])
    most = min(len(np.unique(group[chosen])) for chosen in (target, ~target))
    for count in range(min(FOLDS, most), 1, -1):
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
        splits: Splits = list(folds.split(group, target, group))
        # Groups that are in both classes can leave a fold nothing to learn a class from.
        if all(len(np.unique(target[train])) == 2 and len(test) for train, test in splits):
            return splits
    return []


def _held_out_values(features: np.ndarray, target: np.ndarray, weights: np.ndarray, splits: Splits) -> np.ndarray:
    """Return the decision value (strengths, K) of each exemplar by the probe that was fitted without its fold."""
    values = np.empty((len(STRENGTHS), len(target)))
    for train, test in splits:
        for row, probe in enumerate(_fitted(features[train], target[train], weights[train], STRENGTHS)):
            standardised = (features[test] - probe["judge_mean"]) / probe["judge_scale"]
            values[row, test] = standardised @ probe["judge_coefficients"] + probe["judge_intercept"]
    return values


def _fitted(
    features: np.ndarray, target: np.ndarray, weights: np.ndarray, strengths: Sequence[float]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of the probe for each strength of the penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    standardised = scaler.fit_transform(np.asarray(features, np.float64))
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS, tol=_TOLERANCE)
        model.fit(standardised, target, sample_weight=balanced_weights(target, weights))
        yield {
            "judge_mean": np.asarray(scaler.mean_, np.float64),
            "judge_scale": np.asarray(scaler.scale_, np.float64),
            "judge_coefficients": np.asarray(model.coef_[0], np.float64),
            "judge_intercept": np.asarray(model.intercept_[0], np.float64),
        }
