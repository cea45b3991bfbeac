"""L-BFGS with box bounds for a batch of independent problems that step together.

Every row has its own step length, history and end: a row that has converged leaves the batch and costs nothing more.
The two-loop recursion is Nocedal & Wright, Numerical Optimization, algorithm 7.4; bounds are kept by projecting the
step and by freezing the variables that rest on a bound (Bertsekas 1982, projected Newton methods).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: ``objective(x, rows)``: x (R, n) of the rows numbered ``rows`` (R,) -> value (R,), gradient (R, n).
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: A symmetric positive operator (R, n) -> (R, n) that stands for the inverse Hessian before anything is known of it.
Precondition = Callable[[Tensor], Tensor]

_ARMIJO = 1e-4
_CURVATURE = 1e-8
_MAX_BACKTRACKS = 20


@dataclass(frozen=True)
class Minimum:
    """Where a batch of minimisations ended.

    Attributes:
        x: (B, n) the best points.
        value_start: (B,) objective at the start.
        value: (B,) objective at ``x``.
        iterations: (B,) accepted steps of each row.
    """

    x: Tensor
    value_start: Tensor
    value: Tensor
    iterations: Tensor


@dataclass
class _State:
    """The rows still at work; row k of every tensor belongs to problem ``rows[k]``."""

    rows: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    steps: Tensor  # (history, R, n), newest last
    changes: Tensor  # (history, R, n)
    rho: Tensor  # (history, R); 0 marks an empty or skipped pair
    fresh: Tensor  # (R,) bool: no accepted pair yet, so the next step is scaled by the gradient

    def keep(self, mask: Tensor) -> None:
        """Drop the rows outside ``mask``."""
        if bool(mask.all()):
            return
        for name in ("rows", "x", "value", "gradient", "fresh"):
            setattr(self, name, getattr(self, name)[mask])
        for name in ("steps", "changes", "rho"):
            setattr(self, name, getattr(self, name)[:, mask])


def _direction(state: _State, free: Tensor, precondition: Precondition | None) -> Tensor:
    """Return the quasi-Newton descent direction (R, n) over the free variables of each row."""
    q = torch.where(free, state.gradient, 0)
    count = state.steps.shape[0]
    alphas = []
    for k in reversed(range(count)):
        alpha = state.rho[k] * (state.steps[k] * q).sum(1)
        q = q - alpha[:, None] * state.changes[k]
        alphas.append(alpha)
    if precondition is not None:
        q = precondition(q)
    if count:
        rho, change = state.rho[0], state.changes[0]
        for k in range(1, count):  # the newest valid pair wins
            valid = state.rho[k] > 0
            rho = torch.where(valid, state.rho[k], rho)
            change = torch.where(valid[:, None], state.changes[k], change)
        norm = (change * (change if precondition is None else precondition(change))).sum(1)
        scale = torch.where(rho > 0, 1 / (rho * norm).clamp_min(1e-38), torch.ones_like(norm))
        q = q * scale[:, None]
    for k in range(count):
        beta = state.rho[k] * (state.changes[k] * q).sum(1)
        q = q + state.steps[k] * (alphas[count - 1 - k] - beta)[:, None]
    return torch.where(free, -q, 0)


def _remember(state: _State, step: Tensor, change: Tensor, history: int) -> None:
    """Append the newest pair; a row that fails the curvature test appends an empty one."""
    product = (step * change).sum(1)
    good = product > _CURVATURE * (change**2).sum(1).clamp_min(1e-38)
    rho = torch.where(good, 1 / torch.where(good, product, 1), 0)
    state.steps = torch.cat([state.steps, torch.where(good[:, None], step, 0)[None]])[-history:]
    state.changes = torch.cat([state.changes, torch.where(good[:, None], change, 0)[None]])[-history:]
    state.rho = torch.cat([state.rho, rho[None]])[-history:]
    state.fresh = state.fresh & ~good


def _line_search(
    objective: Objective,
    state: _State,
    direction: Tensor,
    lower: Tensor,
    upper: Tensor,
    first_step: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backtrack each row along its projected path until Armijo's condition holds.

    Returns the new x, value, gradient and the mask of the rows that found a step.
    """
    slope = (state.gradient * direction).sum(1)
    norm = direction.square().sum(1).sqrt().clamp_min(1e-38)
    length = torch.where(state.fresh, first_step / norm, torch.ones_like(slope))
    x, value, gradient = state.x.clone(), state.value.clone(), state.gradient.clone()
    found = torch.zeros_like(state.fresh)
    waiting = (slope < 0) & torch.isfinite(slope)
    for _ in range(_MAX_BACKTRACKS):
        index = waiting.nonzero().squeeze(1)
        if index.numel() == 0:
            break
        trial = torch.clamp(state.x[index] + length[index, None] * direction[index], lower, upper)
        trial_value, trial_gradient = objective(trial, state.rows[index])
        moved = ((trial - state.x[index]) * state.gradient[index]).sum(1)
        accepted = (trial_value <= state.value[index] + _ARMIJO * moved) & (moved < 0)
        done = index[accepted]
        x[done], value[done], gradient[done] = trial[accepted], trial_value[accepted], trial_gradient[accepted]
        found[done] = True
        waiting[done] = False
        # Quadratic interpolation, kept within a tenth and a half of the step before (Nocedal & Wright, 3.57).
        rise = trial_value - state.value[index] - moved
        guess = torch.where(rise > 0, -moved / (2 * rise.clamp_min(1e-38)), torch.full_like(rise, 0.5))
        guess = torch.nan_to_num(guess, nan=0.1, posinf=0.5, neginf=0.1)
        length[index] = length[index] * guess.clamp(0.1, 0.5)
    return x, value, gradient, found


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    iterations: int,
    lower: Tensor | float = -float("inf"),
    upper: Tensor | float = float("inf"),
    history: int = 10,
    first_step: float = 1.0,
    tolerance: float = 2.2e-9,
    gradient_tolerance: float = 1e-10,
    precondition: Precondition | None = None,
) -> Minimum:
    """Minimise B independent objectives of n variables each.

    Parameters:
        objective: see ``Objective``; called with the rows that need a value only.
        start: (B, n) starting points; clamped to the bounds.
        iterations: accepted steps per row at most.
        lower, upper: bounds, broadcastable to (n,).
        history: pairs of the quasi-Newton memory.
        first_step: Euclidean length of a row's first trial step, in units of x; later ones try the full step first.
        tolerance: a row ends when a step lowers its value by no more than this share of it (SciPy's ``ftol``).
        gradient_tolerance: a row ends when no component of its projected gradient is larger.
        precondition: stands in for the identity that the quasi-Newton memory starts from.
    """
    lower, upper = (torch.as_tensor(bound, dtype=start.dtype, device=start.device) for bound in (lower, upper))
    x = torch.clamp(start.detach(), lower, upper)
    batch, n = x.shape
    rows = torch.arange(batch, device=x.device)
    value, gradient = objective(x, rows)
    best, best_value, value_start = x.clone(), value.clone(), value.clone()
    counts = torch.zeros(batch, dtype=torch.long, device=x.device)
    empty = x.new_zeros((0, batch, n))
    state = _State(rows, x, value, gradient, empty, empty, x.new_zeros((0, batch)), rows >= 0)
    for _ in range(iterations):
        at_lower, at_upper = state.x <= lower, state.x >= upper
        free = ~((at_lower & (state.gradient > 0)) | (at_upper & (state.gradient < 0)))
        largest = torch.where(free, state.gradient, 0).abs().amax(1)
        unfinished = (largest > gradient_tolerance) & torch.isfinite(state.value)
        state.keep(unfinished)
        if state.rows.numel() == 0:
            break
        free = free[unfinished]
        direction = _direction(state, free, precondition)
        uphill = (direction * state.gradient).sum(1) >= 0
        if bool(uphill.any()):  # rounding spoilt the memory of a row: steepest descent, memory forgotten
            direction = torch.where(uphill[:, None] & free, -state.gradient, direction)
            state.rho = torch.where(uphill[None], torch.zeros_like(state.rho), state.rho)
            state.fresh = state.fresh | uphill
        x, value, gradient, found = _line_search(objective, state, direction, lower, upper, first_step)
        fall = state.value - value
        scale = torch.maximum(state.value.abs(), value.abs()).clamp_min(1e-38)
        _remember(state, x - state.x, gradient - state.gradient, history)
        # A row without a step gets one more try from a forgotten memory, then ends.
        retry = ~found & ~state.fresh
        state.rho = torch.where(retry[None], torch.zeros_like(state.rho), state.rho)
        state.fresh = state.fresh | retry
        state.x, state.value, state.gradient = x, value, gradient
        best[state.rows], best_value[state.rows] = x, value
        counts[state.rows] += found
        state.keep((found & (fall > tolerance * scale)) | retry)
        if state.rows.numel() == 0:
            break
    return Minimum(best, value_start, best_value, counts)
