"""What travels from traversal to reconstruction, and what reconstruction gives back: both small, both per image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from dmt_ray.errors import ImageError
from dmt_ray.method.metrics.similarity import Similarity
from dmt_ray.method.metrics.verdicts import Verdict


@dataclass(frozen=True)
class Figures:
    """What the traversal says of one step of one image.

    Attributes:
        strength: the strength asked for; where a budget weight was asked for, the one it reached.
        displacement_norm: Euclidean length of the move in standardised features.
        budget_weight: lambda; None where the move is no minimum of the witness function.
        rbf_variance: v of the kernel exp(-|a - b|^2 / 2v), likewise.
        witness_before, witness_after: witness function at the image and after the move, likewise.
        confidence: of the colours that were found, in 0..1; None where none were looked for.
    """

    strength: float
    displacement_norm: float
    budget_weight: float | None = None
    rbf_variance: float | None = None
    witness_before: float | None = None
    witness_after: float | None = None
    confidence: float | None = None


def steps_of_path(strengths: Sequence[float], path: int) -> tuple[tuple[float, ...], frozenset[int]]:
    """Return every strength to go through, rising, and which of them were asked for.

    Parameters:
        strengths: what was asked for, rising.
        path: steps from nothing to the greatest of them that shall be seen on the way.
    """
    between = {max(strengths) * step / path for step in range(1, path)} if path else set()
    # Merge steps within 1e-9 of a requested strength.
    between = {strength for strength in between if all(abs(strength - asked) > 1e-9 for asked in strengths)}
    every = sorted({*strengths, *between})
    return tuple(every), frozenset(index for index, strength in enumerate(every) if strength in strengths)


@dataclass(frozen=True)
class Displacement:
    """How one image is to be moved, in exemplars, for each step (each strength, in the order asked for).

    Attributes:
        arrays: coefficients over exemplars, or over their patches; opaque to the pipeline.
        steps: the figures of each step.
    """

    arrays: Mapping[str, np.ndarray]
    steps: Sequence[Figures]

    def __post_init__(self) -> None:
        """See that every number is finite.

        Raises:
            ImageError: kind ``not-finite``; names what is not.
        """
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
                raise ImageError("not-finite", f"The array {name!r} of the displacement is not all finite numbers.")
        for number, figures in enumerate(self.steps):
            for name, value in asdict(figures).items():
                if value is not None and not math.isfinite(value):
                    raise ImageError("not-finite", f"The {name} of step {number} is {value}, not a finite number.")

    def check(self, name: str, shape: tuple[int | None, ...], below: int | None = None) -> None:
        """See that an array is what an editor can use.

        Parameters:
            name: of the array.
            shape: that it must have; None is any length of at least 1.
            below: its values are whole numbers from 0 to below this; without it they are floating-point numbers.

        Raises:
            ImageError: kind ``bad-displacement``; names what is wrong.
        """
        array = self.arrays.get(name)
        if array is None:
            raise ImageError("bad-displacement", f"The displacement has no array {name!r}.")
        fits = array.ndim == len(shape) and all(
            have >= 1 if want is None else have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = " x ".join("any" if want is None else str(want) for want in shape)
            raise ImageError(
                "bad-displacement",
                f"The array {name!r} of the displacement is {array.shape}, and the exemplars ask for {wanted}.",
            )
        if below is None:
            if array.dtype.kind != "f":
                raise ImageError(
                    "bad-displacement", f"The array {name!r} of the displacement is of {array.dtype}, not of floats."
                )
        else:
            whole = array.dtype.kind in "iu"
            if not whole or int(array.min()) < 0 or int(array.max()) >= below:
                raise ImageError(
                    "bad-displacement", f"The array {name!r} of the displacement names exemplars that are not there."
                )

    def to_bytes(self) -> bytes:
        """Serialise as safetensors, the figures in its metadata."""
        figures = json.dumps([asdict(step) for step in self.steps])
        return save_tensors(dict(self.arrays), metadata={"steps": figures})

    @classmethod
    def from_bytes(cls, data: bytes) -> Displacement:
        """Undo ``to_bytes``.

        Raises:
            ImageError: kind ``bad-displacement`` when these are not such bytes, ``not-finite`` when a number is not.
        """
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            steps = [_figures(step) for step in json.loads(header["__metadata__"]["steps"])]
            if not steps:
                raise ValueError("no steps")
            arrays = load_tensors(data)
        except (
            AttributeError,
            KeyError,
            OverflowError,
            RecursionError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as error:
            raise ImageError("bad-displacement", f"The displacement is damaged ({type(error).__name__}).") from error
        return cls(arrays, steps)


def _figures(values: Mapping[str, object]) -> Figures:
    """Return the figures of a step as they were saved.

    Raises:
        TypeError: one is no number, or a name is unknown or missing.
        OverflowError: one is too large.
    """
    numbers: dict[str, float] = {}
    for name, value in values.items():
        optional = name not in ("strength", "displacement_norm")
        if not (value is None and optional) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} is no number")
        if value is not None:
            numbers[name] = float(value)
    return Figures(**numbers)


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
        similarity: of the result to the input, at working size.
        verdict: of the run's judge; None without one.
        frames: the way from the input to the result, pictures like ``picture``; empty unless asked for.
    """

    figures: Figures
    planes: np.ndarray
    picture: np.ndarray
    feature_loss_before: float
    feature_loss_after: float
    iterations: int
    similarity: Similarity
    verdict: Verdict | None = None
    frames: tuple[np.ndarray, ...] = ()

    def with_frames(self, frames: tuple[np.ndarray, ...]) -> Edit:
        """Return the edit with the way that led to it."""
        return replace(self, frames=frames)
