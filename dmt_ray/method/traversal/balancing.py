"""Weights of the exemplars with which both classes have the same means of some attributes: entropy balancing.

Where more of the old than of the young wear eyeglasses, the difference of the classes is partly spectacles. Entropy
balancing (Hainmueller 2012, Political Analysis 20, 25-46) takes, of all weights with equal weighted means, those that
are nearest to uniform. There one class is fixed; here both give way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmt_ray.errors import SettingsError
from dmt_ray.words import agreed, counted

Floats = npt.NDArray[np.float64]

#: Weight of |lambda|^2 / 2 in the dual, see ``balance_classes``. Where the means of standardised columns can be equal
#: it leaves them apart by ``RIDGE * |lambda|``, which is nothing; where they cannot, it keeps lambda finite.
RIDGE = 1e-9
#: A class of fewer effective exemplars than this is warned of.
FEW_EXEMPLARS = 5.0
#: Means that differ by more than so many standard deviations of all exemplars are warned of.
UNEQUAL_MEANS = 0.05
#: An exemplar of less than this share of a uniform weight counts as none.
NEGLIGIBLE = 1e-6

#: Ridges that are solved for on the way to ``RIDGE``, that one included.
_RIDGES = 10
_MAX_STEPS = 100
_MAX_HALVINGS = 60
#: The Newton iteration ends where a step would lower the dual by less than this.
_DECREMENT = 1e-22


@dataclass(frozen=True)
class ClassBalance:
    """One class of exemplars and its weights.

    Attributes:
        columns: the names of the attributes.
        weights: (n,) float64, at least 0, sum 1.
        means_before, means_after: by column, with uniform weights and with these.
    """

    columns: tuple[str, ...]
    weights: Floats
    means_before: Floats
    means_after: Floats

    @property
    def effective_size(self) -> float:
        """How many exemplars of equal weight have a mean as certain: 1 / sum of w^2, in 1..n."""
        return float(1 / np.square(self.weights).sum())

    def as_json(self) -> dict[str, Any]:
        """Return what a record says of the class: its size, its effective size, and its means by column."""
        return {
            "count": len(self.weights),
            "effective_size": self.effective_size,
            "means_before": dict(zip(self.columns, self.means_before.tolist(), strict=True)),
            "means_after": dict(zip(self.columns, self.means_after.tolist(), strict=True)),
        }


@dataclass(frozen=True)
class Balance:
    """Both classes, balanced.

    Attributes:
        deviations: by column, the standard deviation over the exemplars of both classes, all alike.
    """

    sources: ClassBalance
    targets: ClassBalance
    deviations: Floats

    def faults(self) -> list[str]:
        """Return a sentence for each class of few effective exemplars, and for each column that stays unequal."""
        found = []
        for name, side in (("source", self.sources), ("target", self.targets)):
            if side.effective_size < FEW_EXEMPLARS:
                count = len(side.weights)
                they_count, they_are = agreed(count, "counts", "count"), agreed(count, "it is", "they are")
                found.append(
                    f"The {counted(count, name)} {they_count} as only {side.effective_size:.1f} once {they_are} "
                    "balanced, so chance decides much of the move; balance fewer columns, or take more exemplars."
                )
        gaps = (self.targets.means_after - self.sources.means_after) / self.deviations
        for column, gap, source, target in zip(
            self.sources.columns, gaps, self.sources.means_after, self.targets.means_after, strict=True
        ):
            if abs(gap) > UNEQUAL_MEANS:
                found.append(
                    f"Column {column!r} stays unequal: its mean is {source:.3g} in the sources and {target:.3g} in "
                    f"the targets, {abs(gap):.2f} standard deviations apart; no weights bring the classes nearer."
                )
        return found


def balance_classes(sources: Floats, targets: Floats, columns: Sequence[str]) -> Balance:
    """Return the weights nearest to uniform with which both classes have the same means.

    They minimise KL(w | uniform) + KL(v | uniform) + |difference of the weighted means|^2 / (2 RIDGE) over weights w
    of the sources x_i and v of the targets x_j, with columns standardised over all exemplars. The dual is

        min over lambda of  log mean_i exp(lambda . x_i) + log mean_j exp(-lambda . x_j) + RIDGE |lambda|^2 / 2

    whose gradient is the difference of the weighted means, and RIDGE lambda. Without a ridge the dual has no minimum
    where no weights make the means equal, such as where no source wears eyeglasses. With it the means come as near as
    the exemplars allow, and the targets with eyeglasses weigh next to nothing.

    Parameters:
        sources, targets: (n, A) and (m, A) attributes, finite.
        columns: their A names.

    Raises:
        SettingsError: a value is not finite, or a column is the same for all exemplars; names the column.
    """
    names = tuple(columns)
    both = np.concatenate([sources, targets])
    for place, name in enumerate(names):
        wrong = np.flatnonzero(~np.isfinite(both[:, place]))
        if len(wrong):
            kind, row = ("source", wrong[0]) if wrong[0] < len(sources) else ("target", wrong[0] - len(sources))
            raise SettingsError(f"Column {name!r} to balance by has no number for {kind} {row}.")
    deviations = both.std(axis=0)
    for place, name in enumerate(names):
        if deviations[place] <= 1e-12 * np.abs(both[:, place]).max():
            raise SettingsError(
                f"Column {name!r} to balance by is {both[0, place]:g} for all {counted(len(both), 'exemplar')}, so "
                "there is nothing to balance; leave it out."
            )
    center = both.mean(axis=0)
    w, v = _solve((sources - center) / deviations, (targets - center) / deviations)
    return Balance(_class_balance(names, sources, w), _class_balance(names, targets, v), deviations)


def exemplar_weights(arrays: Mapping[str, np.ndarray]) -> Floats:
    """Return the weights of the exemplars of a manifold: (sources + targets,), with sum 1 in each class.

    Parameters:
        arrays: what ``build_manifold`` returned; without ``exemplar_weights``, all of a class count alike.
    """
    if "exemplar_weights" in arrays:
        return np.asarray(arrays["exemplar_weights"], np.float64)
    return np.concatenate([np.full(int(arrays[name]), 1 / int(arrays[name])) for name in ("sources", "targets")])


def counting(arrays: Mapping[str, np.ndarray]) -> npt.NDArray[np.bool_]:
    """Tell which exemplars (sources + targets,) of a manifold have more than a ``NEGLIGIBLE`` weight."""
    sizes = [int(arrays["sources"]), int(arrays["targets"])]
    found: npt.NDArray[np.bool_] = exemplar_weights(arrays) * np.repeat(sizes, sizes) >= NEGLIGIBLE
    return found


def normalised_weights(sources: Sequence[float | None], targets: Sequence[float | None]) -> Floats | None:
    """Return the weights of the exemplars that came, (n + m,) with sum 1 in each class; None where none has a weight.

    Parameters:
        sources, targets: what each counts within its class, whatever the sum: some of a class may be left out.

    Raises:
        ValueError: some have a weight and others none, or those of a class are all 0.
    """
    if all(weight is None for weight in (*sources, *targets)):
        return None
    found = []
    for weights in (sources, targets):
        given = [weight for weight in weights if weight is not None]
        if len(given) < len(weights) or not sum(given) > 0:
            raise ValueError("the exemplars of a class have no weights to balance them by")
        found.append(np.array(given) / sum(given))
    return np.concatenate(found)


def _class_balance(columns: tuple[str, ...], values: Floats, weights: Floats) -> ClassBalance:
    return ClassBalance(columns, weights, values.mean(axis=0), weights @ values)


def _solve(sources: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return the weights of both classes of standardised attributes.

    Newton's method on the dual, for ridges that fall tenfold down to ``RIDGE``, each started where the one before
    ended: between classes that lie apart, lambda has a long way to go.
    """
    sides = [(sources, sources.mean(axis=0), 1.0), (targets, targets.mean(axis=0), -1.0)]
    lam = np.zeros(sources.shape[1])
    for ridge in np.geomspace(1.0, RIDGE, _RIDGES):
        lam = _minimise(lam, sides, float(ridge))
    weights = _dual(lam, sides, RIDGE)[2]
    return weights[0], weights[1]


def _minimise(lam: Floats, sides: Sequence[tuple[Floats, Floats, float]], ridge: float) -> Floats:
    """Return the lambda (A,) where the dual is least, by Newton's method with halving."""
    value, gradient, weights = _dual(lam, sides, ridge)
    for _ in range(_MAX_STEPS):
        step = -np.linalg.solve(_hessian(weights, sides, ridge), gradient)
        slope = float(gradient @ step)
        if -slope < _DECREMENT * max(1.0, abs(value)):
            break
        for halving in range(_MAX_HALVINGS):
            share = 0.5**halving
            trial = lam + share * step
            found = _dual(trial, sides, ridge)
            # Near the minimum the value has no digits left to fall by; there the slope tells (approximate Wolfe).
            flat = abs(found[1] @ step) <= 0.5 * abs(slope) and found[0] <= value + 1e-12 * (1 + abs(value))
            if flat or found[0] <= value + 1e-4 * share * slope:
                break
        else:
            break
        lam = trial
        value, gradient, weights = found
    return lam


def _dual(
    lam: Floats, sides: Sequence[tuple[Floats, Floats, float]], ridge: float
) -> tuple[float, Floats, list[Floats]]:
    """Return the dual's value and gradient (A,) at lambda (A,), and the weights of both classes."""
    value, gradient, weights = 0.5 * ridge * float(lam @ lam), ridge * lam, []
    for values, mean, sign in sides:
        # Columns that are constant in a class add exactly nothing to these exponents, however large lambda.
        exponents = sign * ((values - mean) @ lam)
        top = exponents.max()
        kernel = np.exp(exponents - top)
        value += sign * float(mean @ lam) + float(top + np.log(kernel.mean()))
        weights.append(kernel / kernel.sum())
        gradient = gradient + sign * (weights[-1] @ values)
    return value, gradient, weights


def _hessian(weights: Sequence[Floats], sides: Sequence[tuple[Floats, Floats, float]], ridge: float) -> Floats:
    """Return the sum of the weighted covariances of both classes, plus the ridge: (A, A)."""
    hessian: Floats = ridge * np.eye(sides[0][0].shape[1])
    for w, (values, _, _) in zip(weights, sides, strict=True):
        centered = values - w @ values
        hessian = hessian + (centered * w[:, None]).T @ centered
    return hessian
