"""The prior's and the nearest patches' colours, mixed, and made as vivid as the references ask for."""

from __future__ import annotations

import torch
from torch import Tensor

from dmt_ray.method import color

#: The prior's share of the mix; the rest is the nearest patches'.
PRIOR_SHARE = 0.65
#: Held-out references become at least so many times as colourful, patch by patch, as they are.
VIVID_AIM = 0.55
#: And more, as long as that costs them no more than this, in dB.
VIVID_COST = 0.1
#: A mix is not made paler than it is, and not more vivid than this.
MOST_VIVID = 1.6
#: Fewer held-out references than this tell nothing.
LEAST_HELD_OUT = 8

#: Factors that are tried.
_FACTORS = [1 + step / 100 for step in range(round(100 * (MOST_VIVID - 1)) + 1)]
#: Variance of chroma within a patch, in 8-bit units squared, which no colour of the whole patch can meet.
_WITHIN_PATCH = 25.0


def mix(prior: Tensor, nearest: Tensor) -> Tensor:
    """Return the mix of chroma (B, patches, 2) by the prior and of the nearest patches."""
    return PRIOR_SHARE * prior + (1 - PRIOR_SHARE) * nearest


def vivid(chroma: Tensor, vividness: float) -> Tensor:
    """Return chroma (B, patches, 2) made more vivid: a mean of what may be is paler than what is.

    A picture's mean chroma becomes ``vividness`` times as long, and what its patches differ from it the square of
    that: hues that change within a picture are surer than a tint of it.
    """
    tint = chroma.mean(1, keepdim=True)
    stretched = vividness * tint + vividness**2 * (chroma - tint)
    return stretched.clamp(-color.CHROMA_BOUND, color.CHROMA_BOUND)


def fit_vividness(mixed: Tensor, truth: Tensor) -> float:
    """Return how vivid colours are to be: ``VIVID_AIM`` at least, and what costs no more than ``VIVID_COST``.

    Where references tell much of each other, as portraits do, a mix has most of their colour already; of photos of
    everything it is pale, and more colour costs PSNR from the start.

    Parameters:
        mixed: (B, patches, 2) chroma found for references that the prior was not learned from.
        truth: (B, patches, 2) their own.

    Returns:
        A factor in 1..``MOST_VIVID``; 1 where there are fewer than ``LEAST_HELD_OUT``.
    """
    if len(truth) < LEAST_HELD_OUT:
        return 1.0
    tried = [vivid(mixed, factor) for factor in _FACTORS]
    errors = torch.stack([(chroma - truth).square().sum(2).mean(1) + _WITHIN_PATCH for chroma in tried])
    losses = (10 * torch.log10(errors)).mean(1)
    cheap = [factor for factor, loss in zip(_FACTORS, losses - losses.min(), strict=True) if loss <= VIVID_COST]
    aim = VIVID_AIM * _colorfulness(truth).mean()
    colourful = [
        factor for factor, chroma in zip(_FACTORS, tried, strict=True) if _colorfulness(chroma).mean() >= aim
    ]
    return max(cheap[-1], min(colourful, default=MOST_VIVID))


def _colorfulness(chroma: Tensor) -> Tensor:
    """Return how colourful pictures (B,) of chroma (B, patches, 2) are (Hasler and Suesstrunk 2003, M^(3)).

    The differences of red, green and blue that it is made of do not depend on luma.
    """
    planes = chroma.mT[..., None]
    red, green, blue = color.to_rgb(torch.zeros_like(planes[:, :1]), planes)[..., 0].unbind(1)
    a, b = red - green, (red + green) / 2 - blue
    return torch.hypot(a.std(1, unbiased=False), b.std(1, unbiased=False)) + 0.3 * torch.hypot(a.mean(1), b.mean(1))
