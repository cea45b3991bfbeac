"""Global traversal: minimise witness + budget for a batch of images, and find the budget that gives a strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method import lbfgs
from dmt_ray.method.displacement import Figures
from dmt_ray.method.traversal.witness import BorderedGram, displacement_norm, half_bandwidth, objective, witness

#: Strength is met within this share.
STRENGTH_TOLERANCE = 0.005
#: L-BFGS steps of one solve at most, and the share of the objective that a step must lower it by to go on.
_ITERATIONS = 200
_TOLERANCE = 1e-13
_JITTER = 1e-10
#: Of its squared norm, what an image counts as lying outside of the exemplars' span at least; see ``_prepared``.
_OWN_SHARE = 1e-6
_MAX_BISECTIONS = 40
#: Budget weights further than this factor from the linear guess mean that the strength cannot be reached.
_MAX_FACTOR = 1e8


@dataclass(frozen=True)
class Traversal:
    """Where a batch of images was moved to.

    Attributes:
        r: (B, K + 1) displacement coefficients; the last is the image's own.
        budget_weight: (B,) lambda.
        variance: (B,) RBF variance.
        norm: (B,) |F^T r| in standardised units.
        witness_before, witness_after: (B,) witness function at r = 0 and at r.
    """

    r: Tensor
    budget_weight: Tensor
    variance: Tensor
    norm: Tensor
    witness_before: Tensor
    witness_after: Tensor

    @property
    def moved(self) -> bool:
        """Whether every image went anywhere, so that another traversal can start from here."""
        return bool((self.norm > 0).all() and torch.isfinite(self.budget_weight).all())

    def figures(self, b: int, strength: float) -> Figures:
        """Return image ``b``'s figures; without a move there is no budget weight."""
        weight = float(self.budget_weight[b])
        return Figures(
            strength=strength,
            displacement_norm=float(self.norm[b]),
            budget_weight=None if math.isinf(weight) else weight,
            rbf_variance=float(self.variance[b]),
            witness_before=float(self.witness_before[b]),
            witness_after=float(self.witness_after[b]),
        )


class _Whitening:
    """Coordinates u = L^T r with L L^T = G, in which |F^T r| = |u| and the budget term is round.

    L of the shared exemplars is computed once; each image only adds its last row.

    Raises:
        ImageError: kind ``not-finite`` when the exemplars' Gram matrix has a number that is not finite: no ridge
            would ever make it positive definite.
    """

    def __init__(self, gram: BorderedGram) -> None:
        if not bool(torch.isfinite(gram.shared).all()):
            raise ImageError("not-finite", "The Gram matrix of the exemplars is not all finite numbers.")
        size = gram.shared.shape[-1]
        ridge = _JITTER * gram.shared.diagonal(dim1=-2, dim2=-1).mean().clamp_min(1e-30)
        eye = torch.eye(size, dtype=gram.shared.dtype, device=gram.shared.device)
        self.factor, failed = torch.linalg.cholesky_ex(gram.shared + ridge * eye)
        while bool(failed.any()):
            ridge = ridge * 10
            self.factor, failed = torch.linalg.cholesky_ex(gram.shared + ridge * eye)
        self.border = self._solve(gram.cross, None, transposed=False)
        outside = gram.own + ridge - (self.border**2).sum(1)
        self.lift = (_OWN_SHARE * gram.own - outside).clamp_min(0)
        """What ``gram.own`` has to be raised by, see ``_prepared``."""
        self.corner = (outside + self.lift).clamp_min(float(ridge)).sqrt()

    def _solve(self, right: Tensor, rows: Tensor | None, *, transposed: bool) -> Tensor:
        """Return L^-1 b, or L^-T b, of right sides b (R, K)."""
        factor = self._factor(rows)
        factor = factor.mT if transposed else factor
        solution: Tensor
        if factor.dim() == 2:
            solution = torch.linalg.solve_triangular(factor, right.T, upper=transposed).T
        else:
            solution = torch.linalg.solve_triangular(factor, right[..., None], upper=transposed)[..., 0]
        return solution

    def _factor(self, rows: Tensor | None) -> Tensor:
        factor: Tensor = self.factor
        return factor if rows is None or factor.dim() == 2 else factor[rows]

    def to_r(self, u: Tensor, rows: Tensor) -> Tensor:
        """Return r = L^-T u."""
        last = u[:, -1] / self.corner[rows]
        top = self._solve(u[:, :-1] - self.border[rows] * last[:, None], rows, transposed=True)
        return torch.cat([top, last[:, None]], 1)

    def to_u(self, r: Tensor, rows: Tensor) -> Tensor:
        """Return u = L^T r."""
        last, factor = r[:, -1:], self._factor(rows)
        top = r[:, :-1] @ factor if factor.dim() == 2 else torch.bmm(r[:, None, :-1], factor)[:, 0]
        return torch.cat([top + last * self.border[rows], last * self.corner[rows][:, None]], 1)

    def gradient(self, g: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient in u, L^-1 g, of a gradient g in r."""
        top = self._solve(g[:, :-1], rows, transposed=False)
        last = (g[:, -1] - (self.border[rows] * top).sum(1)) / self.corner[rows]
        return torch.cat([top, last[:, None]], 1)


def _prepared(gram: BorderedGram) -> tuple[BorderedGram, _Whitening]:
    """Return Gram matrices in which every image has a part of its own, however small, and their whitening.

    An image that is one of the exemplars differs from them by rounding alone. Its own coefficient and that exemplar's
    could grow without bounds against each other, and move it along that rounding.
    """
    whitening = _Whitening(gram)
    return replace(gram, own=gram.own + whitening.lift), whitening


def _solve(
    gram: BorderedGram,
    whitening: _Whitening,
    start: Tensor,
    variance: Tensor,
    budget_weight: Tensor,
) -> Tensor:
    """Minimise J from ``start`` (B, K + 1) and return r."""

    def value_and_gradient(u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective(gram.rows(rows), whitening.to_r(u, rows), variance[rows], budget_weight[rows])
        return value, whitening.gradient(gradient, rows)

    rows = torch.arange(start.shape[0], device=start.device)
    first_step = float(gram.mean_difference().mean()) * 0.1
    minimum = lbfgs.minimise(
        value_and_gradient,
        whitening.to_u(start, rows),
        iterations=_ITERATIONS,
        first_step=max(first_step, 1e-12),
        tolerance=_TOLERANCE,
        gradient_tolerance=1e-14,
    )
    return whitening.to_r(minimum.x, rows)


def traverse(gram: BorderedGram, variance: Tensor | None, budget_weights: Tensor) -> list[Traversal]:
    """Solve a list of budget weights, each warm-started from the one before, as the paper does.

    Parameters:
        gram: Gram matrices of B images.
        variance: (B,) RBF variances; None takes those of ``half_bandwidth``.
        budget_weights: (W, B) or (W,) weights lambda, in the order to solve.
    """
    variance = half_bandwidth(gram) if variance is None else variance
    gram, whitening = _prepared(gram)
    r = torch.zeros_like(torch.cat([gram.cross, gram.own[:, None]], 1))
    results = []
    for weight in budget_weights:
        weights = weight.expand(r.shape[0]).to(r)
        r = _solve(gram, whitening, r, variance, weights)
        results.append(_result(gram, r, variance, weights))
    return results


def traverse_to_strengths(
    gram: BorderedGram, strengths: Sequence[float], variance: Tensor | None = None
) -> list[Traversal]:
    """Do ``traverse_to_strength`` for each strength, each warm-started from the one before."""
    results: list[Traversal] = []
    for strength in strengths:
        warm = results[-1] if results and results[-1].moved else None
        results.append(traverse_to_strength(gram, strength, variance, warm))
    return results


def traverse_to_strength(
    gram: BorderedGram,
    strength: float,
    variance: Tensor | None = None,
    warm: Traversal | None = None,
) -> Traversal:
    """Find, for every image at once, the budget weight whose displacement has the asked strength.

    Strength is |F^T r| / |mean target - mean source|. It falls as the budget weight grows, so lambda is bracketed and
    bisected on a logarithmic scale (by false position in log strength once bracketed), each solve warm-started.
    An image that cannot go so far (the witness function has its minimum before) goes as far as it can.

    Parameters:
        gram: Gram matrices of B images.
        strength: at least 0.
        variance: (B,) RBF variances; by default those of ``half_bandwidth``.
        warm: the traversal of the same images to another strength, to start from.
    """
    variance = half_bandwidth(gram) if variance is None else variance
    zero = torch.zeros_like(torch.cat([gram.cross, gram.own[:, None]], 1))
    batch = zero.shape[0]
    goal = strength * gram.mean_difference()
    if strength == 0 or not bool((goal > 0).any()):
        return _result(gram, zero, variance, torch.full((batch,), float("inf"), dtype=zero.dtype, device=zero.device))
    gram, whitening = _prepared(gram)
    everything = torch.arange(batch, device=zero.device)
    _, gradient = objective(gram, zero, variance, torch.zeros_like(variance))
    slope = whitening.gradient(gradient, everything).square().sum(1).sqrt().clamp_min(1e-300)
    goal = goal.clamp_min(1e-300)
    guess = slope / (2 * goal)  # where lambda |u|^2 balances the witness function's linear term
    # A budget term of the second order makes strength about 1 / lambda.
    log_weight = guess.log() if warm is None else (warm.budget_weight * (warm.norm / goal)).log()
    low = torch.full_like(log_weight, -float("inf"))  # lambda too small: goes too far
    high = torch.full_like(log_weight, float("inf"))  # lambda too large: not far enough
    log_low_ratio, log_high_ratio = torch.zeros_like(low), torch.zeros_like(high)
    r, best = (zero if warm is None else warm.r).clone(), zero.clone()
    best_weight, best_error = guess.clone(), torch.full_like(guess, float("inf"))
    open_rows = torch.ones(batch, dtype=torch.bool, device=zero.device)
    for step in range(_MAX_BISECTIONS):
        index = open_rows.nonzero().squeeze(1)
        if index.numel() == 0:
            break
        part = gram.rows(index)
        local = _WhiteningRows(whitening, index)
        weights = log_weight[index].exp()
        r[index] = _solve(part, local, r[index], variance[index], weights)
        log_ratio = (displacement_norm(part, r[index]) / goal[index]).clamp_min(1e-300).log()
        better = log_ratio.abs() < best_error[index]
        chosen = index[better]
        best[chosen], best_weight[chosen], best_error[chosen] = r[chosen], weights[better], log_ratio[better].abs()
        too_far = log_ratio > 0
        far, near = index[too_far], index[~too_far]
        low[far], log_low_ratio[far] = log_weight[far], log_ratio[too_far]
        high[near], log_high_ratio[near] = log_weight[near], log_ratio[~too_far]
        log_weight = _next_weight(log_weight, low, high, log_low_ratio, log_high_ratio, step)
        stuck = (high - low < 1e-9) | ((log_weight - guess.log()).abs() > torch.log(guess.new_tensor(_MAX_FACTOR)))
        open_rows = open_rows & (best_error > STRENGTH_TOLERANCE) & ~stuck
    return _result(gram, best, variance, best_weight)


class _WhiteningRows(_Whitening):
    """A view of a whitening for some images of its batch."""

    def __init__(self, whole: _Whitening, rows: Tensor) -> None:
        self.factor = whole._factor(rows)
        self.border = whole.border[rows]
        self.corner = whole.corner[rows]


def _next_weight(
    current: Tensor, low: Tensor, high: Tensor, log_low_ratio: Tensor, log_high_ratio: Tensor, step: int
) -> Tensor:
    """Return the next log lambda of each row: expand an open bracket, else false position or, in turn, halving."""
    bracketed = torch.isfinite(low) & torch.isfinite(high)
    middle = (low + high) / 2
    span = (log_low_ratio - log_high_ratio).clamp_min(1e-12)
    secant = low + (high - low) * (log_low_ratio / span)
    margin = 0.02 * (high - low)
    secant = torch.minimum(torch.maximum(secant, low + margin), high - margin)
    inside = middle if step % 3 == 2 else secant
    # Outside a bracket: a budget term of the second order makes strength about 1 / lambda, so step by the ratio.
    outward = torch.where(torch.isfinite(low), current + 1.0, current - 1.0)
    return torch.where(bracketed, inside, outward)


def _result(gram: BorderedGram, r: Tensor, variance: Tensor, budget_weight: Tensor) -> Traversal:
    return Traversal(
        r=r,
        budget_weight=budget_weight,
        variance=variance,
        norm=displacement_norm(gram, r),
        witness_before=witness(gram, torch.zeros_like(r), variance),
        witness_after=witness(gram, r, variance),
    )
