"""L-BFGS with box bounds for a batch of independent problems that step together.

Every row has its own step length, history and end: a row that has converged leaves the batch and costs nothing more.
The two-loop recursion is Nocedal & Wright, Numerical Optimization, algorithm 7.4; bounds are kept by projecting the
step and by freezing the variables that rest on a bound (Bertsekas 1982, projected Newton methods).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def keep(self, kept: Sequence[bool]) -> None:
        """Drop the rows that are not kept."""
        if all(kept):
            return
        index = _places(kept, self.rows)
        for name in ("rows", "x", "value", "gradient", "fresh"):
            setattr(self, name, getattr(self, name)[index])
        for name in ("steps", "changes", "rho"):
            setattr(self, name, getattr(self, name)[:, index])

    def forget(self, mask: Tensor) -> None:
        """Empty the memory of the rows in ``mask`` (R,)."""
        self.rho = torch.where(mask[None], torch.zeros_like(self.rho), self.rho)
        self.fresh = self.fresh | mask


def _places(mask: Sequence[bool], like: Tensor) -> Tensor:
    """Return where ``mask`` is true, as an index on the device of ``like``; nothing is read back from there."""
    return torch.tensor([place for place, true in enumerate(mask) if true], dtype=torch.long, device=like.device)


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


@dataclass
class _Box:
    """The bounds of the variables, and when a row is done."""

    lower: Tensor
    upper: Tensor
    tolerance: float
    gradient_tolerance: float

    def free(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return which variables (R, n) do not rest on a bound that the gradient pushes them against."""
        return ~(((x <= self.lower) & (gradient > 0)) | ((x >= self.upper) & (gradient < 0)))

    def unfinished(self, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Return which rows (R,) have a finite value and a projected gradient that is not all but zero."""
        largest = torch.where(self.free(x, gradient), gradient, 0).abs().amax(1)
        return (largest > self.gradient_tolerance) & torch.isfinite(value)

    def worth(self, before: Tensor, after: Tensor) -> Tensor:
        """Return which rows (R,) have fallen by more than the tolerance between two values."""
        scale = torch.maximum(before.abs(), after.abs()).clamp_min(1e-38)
        return before - after > self.tolerance * scale


def _line_search(
    objective: Objective, state: _State, direction: Tensor, box: _Box, first_step: float
) -> tuple[Tensor, Tensor, Tensor, list[bool], list[bool]]:
    """Backtrack each row along its projected path until Armijo's condition holds.

    Each trial is read back from the device once: which rows are done is decided there, the rest on the host.

    Returns the new x, value, gradient, which rows found a step, and which of these shall take another one.
    """
    slope = (state.gradient * direction).sum(1)
    norm = direction.square().sum(1).sqrt().clamp_min(1e-38)
    length = torch.where(state.fresh, first_step / norm, torch.ones_like(slope))
    downhill = (slope < 0) & torch.isfinite(slope)
    count = len(slope)
    x, value, gradient = state.x, state.value, state.gradient
    found, goes_on = [False] * count, [False] * count
    waiting = list(range(count))
    index: Tensor | None = None  # of the waiting rows; None for all of them
    for _ in range(_MAX_BACKTRACKS):
        begin, old, slopes, rows, way, far, down = (
            each if index is None else each[index]
            for each in (state.x, state.value, state.gradient, state.rows, direction, length, downhill)
        )
        trial = torch.clamp(begin + far[:, None] * way, box.lower, box.upper)
        trial_value, trial_gradient = objective(trial, rows)
        moved = ((trial - begin) * slopes).sum(1)
        accepted = (trial_value <= old + _ARMIJO * moved) & (moved < 0) & down
        more = box.worth(old, trial_value) & box.unfinished(trial, trial_value, trial_gradient)
        done, again, can_wait = torch.stack([accepted, more, down]).tolist()
        if index is None and all(done):
            x, value, gradient = trial, trial_value, trial_gradient
        else:
            here = _places([True] * count, slope) if index is None else index
            taken = accepted[:, None]
            x = x.index_copy(0, here, torch.where(taken, trial, begin))
            gradient = gradient.index_copy(0, here, torch.where(taken, trial_gradient, slopes))
            value = value.index_copy(0, here, torch.where(accepted, trial_value, old))
        for place, row in enumerate(waiting):
            found[row], goes_on[row] = done[place], done[place] and again[place]
        # Quadratic interpolation, kept within a tenth and a half of the step before (Nocedal & Wright, 3.57).
        left = [not done[place] and can_wait[place] for place in range(len(waiting))]
        waiting = [row for row, true in zip(waiting, left, strict=True) if true]
        if not waiting:
            break
        rise = trial_value - old - moved
        guess = torch.where(rise > 0, -moved / (2 * rise.clamp_min(1e-38)), torch.full_like(rise, 0.5))
        guess = torch.nan_to_num(guess, nan=0.1, posinf=0.5, neginf=0.1)
        shorter = far * guess.clamp(0.1, 0.5)
        length = shorter if index is None else length.index_copy(0, index, shorter)
        index = torch.tensor(waiting, dtype=torch.long, device=slope.device)
    return x, value, gradient, found, goes_on


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
    box = _Box(lower, upper, tolerance, gradient_tolerance)
    x = torch.clamp(start.detach(), lower, upper)
    batch, n = x.shape
    rows = torch.arange(batch, device=x.device)
    value, gradient = objective(x, rows)
    best, best_value, value_start = x.clone(), value.clone(), value.clone()
    counts = torch.zeros(batch, dtype=torch.long, device=x.device)
    empty = x.new_zeros((0, batch, n))
    state = _State(rows, x, value, gradient, empty, empty, x.new_zeros((0, batch)), rows >= 0)
    kept: list[bool] = box.unfinished(x, value, gradient).tolist() if iterations else []
    for _ in range(iterations):
        state.keep(kept)
        if state.rows.numel() == 0:
            break
        free = box.free(state.x, state.gradient)
        direction = _direction(state, free, precondition)
        # Where rounding has spoilt the memory of a row: steepest descent, memory forgotten.
        uphill = (direction * state.gradient).sum(1) >= 0
        direction = torch.where(uphill[:, None] & free, -state.gradient, direction)
        state.forget(uphill)
        x, value, gradient, found, kept = _line_search(objective, state, direction, box, first_step)
        _remember(state, x - state.x, gradient - state.gradient, history)
        state.x, state.value, state.gradient = x, value, gradient
        best[state.rows], best_value[state.rows] = x, value
        if all(found):
            counts[state.rows] += 1
            continue
        # A row without a step gets one more try from a forgotten memory, then ends.
        stepped = torch.tensor(found, device=x.device)
        counts[state.rows] += stepped
        retry = ~stepped & ~state.fresh
        state.forget(retry)
        kept = [more or again for more, again in zip(kept, retry.tolist(), strict=True)]
    return Minimum(best, value_start, best_value, counts)
