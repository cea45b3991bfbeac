"""What two classes of aligned pictures differ in, in their own pixels, as far as it is more than chance.

The mean target picture minus the mean source picture holds what features tell badly and inversion finds slowly, such
as grey hair. With few or unaligned exemplars it is the ghosts of single photos instead, so each pixel's difference is
shrunk by how much of its square, around it, sampling alone explains (James-Stein's positive part, taken locally).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: The neighbourhood that evidence is pooled over, as a share of the picture's side.
_NEIGHBOURHOOD = 1 / 11
#: How many times the variance of chance is taken off: the pool is small, and a ghost is worse than a missing shade.
_CAUTION = 2.0


class ClassPictures:
    """Running sums over the pictures of one class.

    Parameters:
        size: side of the pictures in pixels.
    """

    def __init__(self, size: int) -> None:
        self._weight = 0.0
        self._square_weight = 0.0
        self._sum = torch.zeros((3, size, size), dtype=torch.float64)
        self._square = torch.zeros_like(self._sum)

    def add(self, images: Tensor, weights: Tensor | None = None) -> None:
        """Take some more pictures (B, 3, size, size) in 0..255, which count by weights (B,) or all alike."""
        exact = images.double().cpu()
        square = exact.square()
        if weights is None:
            weights = exact.new_ones(len(exact))
        else:
            exact, square = (planes * weights[:, None, None, None] for planes in (exact, square))
        self._weight += float(weights.sum())
        self._square_weight += float(weights.square().sum())
        self._sum += exact.sum(0)
        self._square += square.sum(0)

    @property
    def effective_size(self) -> float:
        """How many pictures of equal weight have a mean as certain; 0 where there are none."""
        return self._weight**2 / self._square_weight if self._weight else 0.0

    def difference_to(self, target: ClassPictures) -> Tensor:
        """Return the target's mean minus this class's (3, size, size), float64 in 8-bit units, shrunk towards zero.

        Zero everywhere when either class has fewer than two (effective) pictures: nothing then tells difference from
        chance.
        """
        if min(self.effective_size, target.effective_size) < 2 - 1e-9:
            return torch.zeros_like(self._sum)
        difference = target._mean() - self._mean()
        chance = target._variance_of_mean() + self._variance_of_mean()
        explained = _around(chance) / _around(difference.square()).clamp_min(1e-12)
        return difference * (1 - _CAUTION * explained).clamp_min(0)

    def _mean(self) -> Tensor:
        return self._sum / self._weight

    def _variance_of_mean(self) -> Tensor:
        """Return s^2 times sum w^2, with s^2 the unbiased weighted variance and w the weights' shares."""
        spread = (self._square - self._weight * self._mean().square()).clamp_min(0)
        return spread / (self.effective_size - 1) / self._weight


def _around(planes: Tensor) -> Tensor:
    """Return the sum over channels of planes (3, H, W), averaged around each pixel: (H, W)."""
    half = max(1, round(planes.shape[-1] * _NEIGHBOURHOOD / 2))
    total = planes.sum(0)[None, None]
    pooled: Tensor = F.avg_pool2d(total, 2 * half + 1, stride=1, padding=half, count_include_pad=False)[0, 0]
    return pooled
