"""Shrink each unit's move by its sampling noise.

With a few hundred exemplars the difference of the class means is sampling noise in most units: moving along it costs
similarity and changes no class. The positive part of James and Stein's estimator shrinks each unit's displacement by
the share of its squared difference that sampling alone explains. Neighbouring positions of a channel see nearly the
same, so their F ratios (squared difference over its variance by chance) are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Side, in positions, of the neighbourhood whose F ratios are averaged.
_POOL = 3
#: Floor of the variance, as a share of the layer's mean, so that dead units do not dominate.
_VARIANCE_FLOOR = 1e-3
#: Cap of the F ratio; float16 holds it.
_CERTAIN = 1e4


def squared_differences(sources: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the squared difference of the class means of each unit, and its variance by chance.

    Parameters:
        sources, targets: features (n, D) and (m, D) float64.
        weights: (n + m,) float64, with sum 1 in each class; None weighs all of a class alike.

    Returns:
        Two tensors (D,); the pooled within-class variance times 1/n + 1/m is the second. Infinite where both classes
        together have fewer than three exemplars, for nothing then tells a difference from chance. With weights w the
        means and variances are weighted, and the effective size 1 / sum w^2 of a class takes the place of n or m: a
        weighted mean of values of variance s^2 has variance s^2 sum w^2.
    """
    if weights is not None:
        return _weighted_squared_differences(sources, targets, weights[: len(sources)], weights[len(sources) :])
    n, m = len(sources), len(targets)
    difference = (targets.mean(0) - sources.mean(0)).square()
    if n + m < 3:
        return difference, torch.full_like(difference, torch.inf)
    within = sources.var(0, correction=0) * n + targets.var(0, correction=0) * m
    return difference, within / (n + m - 2) * (1 / n + 1 / m)


def _weighted_squared_differences(sources: Tensor, targets: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    n, m = (float(1 / part.square().sum()) for part in (w, v))
    source_mean, target_mean = w @ sources, v @ targets
    difference = (target_mean - source_mean).square()
    if n + m < 3 - 1e-9:
        return difference, torch.full_like(difference, torch.inf)
    within = n * (w @ (sources - source_mean).square()) + m * (v @ (targets - target_mean).square())
    return difference, within / (n + m - 2) * (1 / n + 1 / m)


def pooled_f_ratio(difference: np.ndarray, chance: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return how many times each unit's squared difference is what chance makes of it: (D,) float16.

    Parameters:
        difference, chance: what ``squared_differences`` returned, (D,) for the units of all taps.
        shapes: (C, h, w) of each tap.
    """
    f_ratio = np.empty(len(difference), np.float16)
    begin = 0
    for shape in shapes:
        part = slice(begin, begin + int(np.prod(shape)))
        variance = torch.from_numpy(chance[part]).float()
        floor = _VARIANCE_FLOOR * float(variance.mean())
        ratio = torch.from_numpy(difference[part]).float() / variance.clamp_min(floor if floor > 0 else 1.0)
        pooled = F.avg_pool2d(
            ratio.clamp_max(_CERTAIN).view(1, *shape), _POOL, stride=1, padding=_POOL // 2, count_include_pad=False
        )
        f_ratio[part] = pooled.flatten().half().numpy()
        begin = part.stop
    return f_ratio


def shrinkage(f_ratio: Tensor, shrink: float) -> Tensor:
    """Return the share of each unit's displacement to keep, in 0..1: (1 - shrink / f_ratio), and never below 0.

    Parameters:
        f_ratio: what ``pooled_f_ratio`` returned; 1 on average where the classes do not differ.
        shrink: how many times the share that chance explains is taken off; 0 keeps all.
    """
    return (1 - shrink / f_ratio.float().clamp_min(1e-6)).clamp_min(0)
