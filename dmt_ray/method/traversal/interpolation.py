"""Deep feature interpolation: the straight line from the mean source to the mean target (Upchurch et al. 2017).

z = phi(x) + alpha w with w = mean target - mean source (section 3.1). The step is given as alpha itself, which is the
length of the move over |w| and so means the same as a traversal's strength, or as the paper's beta: alpha = beta
divided by the mean of w^2 over the features (section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmt_ray.method.displacement import Figures
from dmt_ray.method.traversal.witness import BorderedGram, displacement_norm, half_bandwidth, witness


def interpolate(gram: BorderedGram, alphas: Sequence[Tensor]) -> list[tuple[Tensor, list[Figures]]]:
    """Return coefficients r (B, K + 1) and figures of each step alpha (B,)."""
    direction = torch.cat([gram.direction(), gram.own.new_zeros(len(gram.own), 1)], 1)
    variance = half_bandwidth(gram)
    before = witness(gram, torch.zeros_like(direction), variance)
    steps = []
    for alpha in alphas:
        r = alpha.to(direction)[:, None] * direction
        norm, after = displacement_norm(gram, r), witness(gram, r, variance)
        figures = [
            Figures(
                strength=float(alpha[b]),
                displacement_norm=float(norm[b]),
                rbf_variance=float(variance[b]),
                witness_before=float(before[b]),
                witness_after=float(after[b]),
            )
            for b in range(len(r))
        ]
        steps.append((r, figures))
    return steps


def beta_to_alpha(beta: float, mean_square: Tensor) -> Tensor:
    """Return alpha (B,) of a beta, by the mean square (B,) of w over the features as the network gives them."""
    return beta / mean_square.clamp_min(1e-30)
