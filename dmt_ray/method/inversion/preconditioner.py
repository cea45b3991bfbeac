"""The spectrum of natural images as a preconditioner: coarse structure first, fine detail as far as it is asked for.

Natural images have amplitudes that fall as 1/f. Optimising in coordinates scaled by that spectrum, and in colours
that are uncorrelated over natural images, is a change of variables that makes L-BFGS need far fewer steps (Olah,
Mordvintsev & Schubert, Feature Visualization, Distill 2017, "preconditioning and parameterization"); to L-BFGS it is
the operator T T^t in place of the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: How RGB varies together over natural images: columns are uncorrelated directions with their deviations (Olah 2017).
_COLOUR = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class SpectralPreconditioner:
    """A symmetric positive operator on flattened planes, of mean gain about 1.

    Parameters:
        shape: (C, H, W) of the planes.
        power: the amplitude's fall, 1/f^power: 0 is the identity, 1 the spectrum of natural images.
        colour: treat the three planes as RGB that varies together as in natural images.
        device: where the planes are.
    """

    def __init__(self, shape: tuple[int, int, int], power: float, *, colour: bool, device: torch.device) -> None:
        self._shape = shape
        _, height, width = shape
        fy = torch.fft.fftfreq(height, device=device)[:, None]
        fx = torch.fft.rfftfreq(width, device=device)[None]
        frequency = torch.sqrt(fy**2 + fx**2).clamp_min(1 / max(height, width))
        gain = frequency ** (-2 * power)
        self._gain = gain / gain.mean()
        self._colour: Tensor | None = None
        if colour:
            directions = torch.tensor(_COLOUR, device=device)
            directions = directions / directions.norm(dim=0).max()
            self._colour = directions @ directions.T

    def __call__(self, planes: Tensor) -> Tensor:
        """Return the operator's image of planes (R, C * H * W), of the same shape."""
        height, width = self._shape[1:]
        spectrum = torch.fft.rfft2(planes.view(-1, *self._shape)) * self._gain.to(planes.dtype)
        result = torch.fft.irfft2(spectrum, s=(height, width))
        if self._colour is not None:
            result = torch.einsum("ij,bjhw->bihw", self._colour.to(planes.dtype), result)
        flat: Tensor = result.flatten(1)
        return flat
