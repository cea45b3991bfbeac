"""The prior's and the nearest patches' colours, mixed, and made as vivid as the references ask for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmt_ray.method import color

#: Held-out references become at least so many times as colourful, patch by patch, as they are.
VIVID_AIM = 0.58
#: And more, as long as that costs them no more than this, in dB.
VIVID_COST = 0.1
#: The prior's share is the largest that is as good but for this, in dB: the prior that held-out references are tried
#: with is weaker than the one that is used, one member that was learned from fewer references.
SHARE_SLACK = 0.1
#: A mix is not made paler than it is, and not more vivid than this.
MOST_VIVID = 1.6
#: Fewer held-out references than this tell nothing.
LEAST_HELD_OUT = 8

#: Shares of the prior, and factors, that are tried.
_SHARES = [step / 20 for step in range(21)]
_FACTORS = [1 + step / 100 for step in range(round(100 * (MOST_VIVID - 1)) + 1)]
#: Variance of chroma within a patch, in 8-bit units squared, which no colour of the whole patch can meet.
_WITHIN_PATCH = 25.0


@dataclass(frozen=True)
class Mixing:
    """How the prior's colours and those of the nearest patches become one.

    Attributes:
        share: the prior's share of the mix, in 0..1; the rest is the nearest patches'.
        vividness: see ``vivid``.
    """

    share: float
    vividness: float

    def mix(self, prior: Tensor, nearest: Tensor) -> Tensor:
        """Return the mix of what the prior says and what the nearest patches say."""
        return self.share * prior + (1 - self.share) * nearest


#: Without references that tell: about what photos of everything and portraits ask for.
UNTOLD = Mixing(0.65, 1.0)


def vivid(chroma: Tensor, vividness: float) -> Tensor:
    """Return chroma (B, patches, 2) made more vivid: a mean of what may be is paler than what is.

    A picture's mean chroma becomes ``vividness`` times as long, and what its patches differ from it the square of
    that: hues that change within a picture are surer than a tint of it.
    """
    tint = chroma.mean(1, keepdim=True)
    stretched = vividness * tint + vividness**2 * (chroma - tint)
    return stretched.clamp(-color.CHROMA_BOUND, color.CHROMA_BOUND)


def fit_mixing(prior: Tensor, nearest: Tensor, truth: Tensor) -> Mixing:
    """Return how vivid colours are to be, and the prior's share with which held-out references then are best met.

    The nearest patches are better where references are much alike, the prior where they are not. ``VIVID_AIM`` is
    reached at least, and more is taken that costs no more than ``VIVID_COST``: where references tell much of each
    other, as portraits do, a mix has most of their colour already; of photos of everything it is pale, and more
    colour costs PSNR from the start.

    Parameters:
        prior: (B, patches, 2) chroma by a prior that was not learned from these references.
        nearest: (B, patches, 2) by the patches of all others.
        truth: (B, patches, 2) their own.

    Returns:
        A share in 0..1 and a vividness in 1..``MOST_VIVID``; ``UNTOLD`` of fewer than ``LEAST_HELD_OUT``.
    """
    if len(truth) < LEAST_HELD_OUT:
        return UNTOLD
    tried = []
    for share in _SHARES:
        vividness, loss = _fit_vividness(Mixing(share, 1.0).mix(prior, nearest), truth)
        tried.append((loss, Mixing(share, vividness)))
    least = min(loss for loss, _ in tried)
    return [mixing for loss, mixing in tried if loss <= least + SHARE_SLACK][-1]


def _fit_vividness(mixed: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return the vividness, and how far colours then are from the truth, in dB as PSNR counts, on average.

    Errors are polynomials of the factor, and colourfulness too, so that all factors are tried at once.
    """
    tint, own = mixed.mean(1), truth.mean(1)
    rest = mixed - tint[:, None]
    squares = [tint.square().sum(1), rest.square().sum(2).mean(1), truth.square().sum(2).mean(1)]
    products = [(tint * own).sum(1), (rest * truth).sum(2).mean(1)]
    tints, rests, truths, tinted, met = (each.double().cpu() for each in (*squares, *products))
    factor = torch.tensor(_FACTORS, dtype=torch.float64)[:, None]
    errors = factor**2 * (tints - 2 * met) + factor**4 * rests - 2 * factor * tinted + truths + _WITHIN_PATCH
    losses = (10 * torch.log10(errors)).mean(1)
    cheap = [place for place, loss in enumerate(losses - losses.min()) if loss <= VIVID_COST][-1]
    spread, mean = (each.mean().item() for each in _colour_parts(mixed))
    aim = VIVID_AIM * float(_colorfulness(truth).mean())
    reached = [value**2 * spread + value * mean >= aim for value in _FACTORS]
    chosen = max(cheap, reached.index(True) if any(reached) else len(_FACTORS) - 1)
    return _FACTORS[chosen], float(losses[chosen])


def _colorfulness(chroma: Tensor) -> Tensor:
    """Return how colourful pictures (B,) of chroma (B, patches, 2) are (Hasler and Suesstrunk 2003, M^(3))."""
    spread, mean = _colour_parts(chroma)
    return spread + mean


def _colour_parts(chroma: Tensor) -> tuple[Tensor, Tensor]:
    """Return both terms of colourfulness (B,): how chroma (B, patches, 2) differs within pictures, and its mean.

    The differences of red, green and blue that they are made of do not depend on luma.
    """
    planes = chroma.mT[..., None]
    red, green, blue = color.to_rgb(torch.zeros_like(planes[:, :1]), planes)[..., 0].unbind(1)
    a, b = red - green, (red + green) / 2 - blue
    spread = torch.hypot(a.std(1, unbiased=False), b.std(1, unbiased=False))
    return spread, 0.3 * torch.hypot(a.mean(1), b.mean(1))
