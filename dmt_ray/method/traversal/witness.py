"""The RBF maximum-mean-discrepancy witness function and its gradient, through Gram matrices alone.

Gardner et al. 2015 (arXiv 1511.06421), section 3: a point of the manifold is z = F^T (e_x + r), and every distance
from z to an exemplar follows from G = F F^T, so the dimension of the features never enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BorderedGram:
    """Gram matrices of B images: [[shared, cross_b], [cross_b^T, own_b]].

    Attributes:
        shared: (K, K) float64 Gram matrix of the exemplars that all images share; source rows first, then target,
            then basis. Or (B, K, K), when each image has its own K exemplars.
        cross: (B, K) float64 products of each image with the exemplars.
        own: (B,) float64 squared norm of each image.
        sources, targets: numbers of source and target rows.
        weights: (N + M,) float64 weights of sources and targets, with sum 1 in each class, or (B, N + M) when each
            image has its own; None weighs all of a class alike.
    """

    shared: Tensor
    cross: Tensor
    own: Tensor
    sources: int
    targets: int
    weights: Tensor | None = None

    def rows(self, index: Tensor) -> BorderedGram:
        """Return the images at ``index`` (R,)."""
        shared = self.shared[index] if self.shared.dim() == 3 else self.shared
        weights = self.weights[index] if self.weights is not None and self.weights.dim() == 2 else self.weights
        return BorderedGram(shared, self.cross[index], self.own[index], self.sources, self.targets, weights)

    def products(self, coefficients: Tensor, count: int | None = None) -> Tensor:
        """Return coefficients (B, count) times the first ``count`` rows (all by default) of each shared matrix."""
        shared = self.shared[..., :count, :]
        if shared.dim() == 2:
            return coefficients @ shared
        return torch.bmm(coefficients[:, None], shared)[:, 0]

    def apply(self, s: Tensor) -> Tensor:
        """Return G s (B, K + 1) for coefficients s (B, K + 1)."""
        exemplars, own = s[:, :-1], s[:, -1:]
        top = self.products(exemplars) + own * self.cross
        last = (exemplars * self.cross).sum(1, keepdim=True) + own * self.own[:, None]
        return torch.cat([top, last], 1)

    def squared_distances(self, s: Tensor, gram_s: Tensor) -> Tensor:
        """Return |z - exemplar|^2 (B, N + M) for the sources, then the targets."""
        count = self.sources + self.targets
        own = (s * gram_s).sum(1, keepdim=True)
        return (own - 2 * gram_s[:, :count] + self.shared.diagonal(dim1=-2, dim2=-1)[..., :count]).clamp_min(0)

    def mean_difference(self) -> Tensor:
        """Return |mean target - mean source| (B,) in standardised units."""
        weights = self.direction()
        return (weights * self.products(weights)).sum(1).clamp_min(0).sqrt()

    def direction(self) -> Tensor:
        """Return the coefficients (B, K) of mean target - mean source."""
        weights = torch.zeros_like(self.cross)
        weights[:, : self.sources + self.targets] = -self.signed_weights()
        return weights

    def signed_weights(self) -> Tensor:
        """Return the weights of the sources, then those of the targets negated: (N + M,) or (B, N + M)."""
        if self.weights is not None:
            return torch.cat([self.weights[..., : self.sources], -self.weights[..., self.sources :]], -1)
        sources = self.cross.new_full((self.sources,), 1 / self.sources)
        return torch.cat([sources, self.cross.new_full((self.targets,), -1 / self.targets)])


def bandwidth(gram: BorderedGram, kernel: float) -> Tensor:
    """Return the RBF variance v (B,) that makes the mean target kernel about ``kernel`` (in 0..1) at each image.

    v = mean_j |x - target_j|^2 / (2 ln(1 / kernel)), so exp(-mean distance^2 / 2v) = kernel; the mean is weighted as
    the targets are. A narrow kernel (1/2)
    makes the witness function's path give up what is the image's own; a wide one (near 1) turns it into the line from
    the mean source to the mean target.
    """
    s = torch.zeros_like(torch.cat([gram.cross, gram.own[:, None]], 1))
    s[:, -1] = 1
    distances = gram.squared_distances(s, gram.apply(s))[:, gram.sources :]
    mean = distances.mean(1) if gram.weights is None else (distances * gram.weights[..., gram.sources :]).sum(1)
    return mean.clamp_min(1e-12) / (-2 * math.log(kernel))


def half_bandwidth(gram: BorderedGram) -> Tensor:
    """Return the ``bandwidth`` (B,) for a mean target kernel of 1/2."""
    return bandwidth(gram, 0.5)


def witness(gram: BorderedGram, r: Tensor, variance: Tensor) -> Tensor:
    """Return mean_i k(z, source_i) - mean_j k(z, target_j) (B,), weighted means, at displacements r (B, K + 1)."""
    return _evaluate(gram, r, variance)[0]


def objective(gram: BorderedGram, r: Tensor, variance: Tensor, budget_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return J(r) = witness(F^T (e_x + r)) + budget_weight * r^T G r, and its gradient.

    Parameters:
        gram: Gram matrices of B images.
        r: (B, K + 1) displacements.
        variance: (B,) RBF variances v in k(a, b) = exp(-|a - b|^2 / 2v).
        budget_weight: (B,) weights lambda.

    Returns:
        Values (B,) and gradients (B, K + 1).
    """
    value, gram_s, kernel_weights = _evaluate(gram, r, variance)
    gram_r = gram_s - _last_column(gram)
    value = value + budget_weight * (r * gram_r).sum(1)
    # d witness / dr = -(1/v) sum_i w_i (G s - G e_i), with w_i = k_i / N for sources and -k_j / M for targets, or
    # their own weights for 1 / N and 1 / M.
    count = kernel_weights.shape[1]
    pull = gram.products(kernel_weights, count)
    pull = torch.cat([pull, (kernel_weights * gram.cross[:, :count]).sum(1, keepdim=True)], 1)
    gradient = -(kernel_weights.sum(1, keepdim=True) * gram_s - pull) / variance[:, None]
    return value, gradient + 2 * budget_weight[:, None] * gram_r


def displacement_norm(gram: BorderedGram, r: Tensor) -> Tensor:
    """Return |F^T r| (B,) in standardised units."""
    return (r * gram.apply(r)).sum(1).clamp_min(0).sqrt()


def _last_column(gram: BorderedGram) -> Tensor:
    return torch.cat([gram.cross, gram.own[:, None]], 1)


def _evaluate(gram: BorderedGram, r: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = r.clone()
    s[:, -1] += 1
    gram_s = gram.apply(s)
    kernel = torch.exp(-gram.squared_distances(s, gram_s) / (2 * variance[:, None]))
    weights = kernel * gram.signed_weights()
    return weights.sum(1), gram_s, weights
