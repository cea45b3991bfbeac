"""What travels from traversal to reconstruction, and what reconstruction gives back: both small, both per image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from dmt_ray.method.metrics.similarity import Similarity


@dataclass(frozen=True)
class Figures:
    """What the traversal says of one step of one image.

    Attributes:
        strength: the strength asked for; where a budget weight was asked for, the one it reached.
        displacement_norm: Euclidean length of the move in standardised features.
        budget_weight: lambda; None where the move is no minimum of the witness function.
        rbf_variance: v of the kernel exp(-|a - b|^2 / 2v), likewise.
        witness_before, witness_after: witness function at the image and after the move, likewise.
    """

    strength: float
    displacement_norm: float
    budget_weight: float | None = None
    rbf_variance: float | None = None
    witness_before: float | None = None
    witness_after: float | None = None

    @classmethod
    def of_cells(cls, cells: Sequence[Figures]) -> Figures:
        """Return the figures of an image whose cells moved each for itself: lengths add up, witnesses average."""
        norm = math.sqrt(sum(cell.displacement_norm**2 for cell in cells))
        before, after = ([getattr(cell, f"witness_{when}") for cell in cells] for when in ("before", "after"))
        return cls(
            cells[0].strength,
            norm,
            witness_before=None if None in before else sum(before) / len(cells),
            witness_after=None if None in after else sum(after) / len(cells),
        )


def steps_of_path(strengths: Sequence[float], path: int) -> tuple[tuple[float, ...], frozenset[int]]:
    """Return every strength to go through, rising, and which of them were asked for.

    Parameters:
        strengths: what was asked for, rising.
        path: steps from nothing to the greatest of them that shall be seen on the way.
    """
    between = {max(strengths) * step / path for step in range(1, path)} if path else set()
    # A step that is all but one of those asked for is that one.
    between = {one for one in between if all(abs(one - asked) > 1e-9 for asked in strengths)}
    every = sorted({*strengths, *between})
    return tuple(every), frozenset(index for index, one in enumerate(every) if one in strengths)


@dataclass(frozen=True)
class Displacement:
    """How one image is to be moved, in exemplars, for each step (each strength, in the order asked for).

    Attributes:
        arrays: coefficients over exemplars, or over their cells; what they are is the editor's own affair.
        steps: the figures of each step.
    """

    arrays: Mapping[str, np.ndarray]
    steps: Sequence[Figures]

    def to_bytes(self) -> bytes:
        """Serialise as safetensors, the figures in its metadata."""
        figures = json.dumps([asdict(step) for step in self.steps])
        return save_tensors(dict(self.arrays), metadata={"steps": figures})

    @classmethod
    def from_bytes(cls, data: bytes) -> Displacement:
        """Undo ``to_bytes``."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        steps = json.loads(header["__metadata__"]["steps"])
        return cls(load_tensors(data), [Figures(**step) for step in steps])


@dataclass(frozen=True)
class Edit:
    """What was found for one image at one step.

    Attributes:
        figures: what the traversal says of the step.
        planes: (C, size, size) float32 in 8-bit units, what the editor's ``assemble`` joins with the photo: chroma
            (C = 2) or the difference of colours (C = 3).
        picture: (size, size, 3) uint8, the result at working size.
        feature_loss_before, feature_loss_after: mean over taps of 1/2 |phi - target|^2, of the input and the result.
        iterations: L-BFGS steps taken.
        likeness: of the result to the input, at working size.
        frames: the way from the input to the result, pictures like ``picture``; empty unless asked for.
    """

    figures: Figures
    planes: np.ndarray
    picture: np.ndarray
    feature_loss_before: float
    feature_loss_after: float
    iterations: int
    likeness: Similarity
    frames: tuple[np.ndarray, ...] = ()

    def with_frames(self, frames: tuple[np.ndarray, ...]) -> Edit:
        """Return the edit with the way that led to it."""
        return replace(self, frames=frames)
