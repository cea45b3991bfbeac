"""Samples of more than 8 bits, and floats, scaled to 8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def to_8_bits(values: npt.NDArray[np.generic], bits: int) -> npt.NDArray[np.uint8]:
    """Scale samples of more than 8 bits, or floats, to 0..255 without clipping what is in range.

    Unsigned integers of at most 16 bits are divided by 257 (less for 9 to 15 bits), signed ones of 8 or 16 bits by
    their type's largest value; wider ones count up to the largest that there is. Floats count as 0..1, 0..255,
    0..65535 or 0..largest, whichever is the first to hold them.

    Parameters:
        values: H x W or H x W x C.
        bits: of a sample, as the file states them; 16 for any other number than 9 to 16.
    """
    if values.size == 0:
        return np.zeros(values.shape, np.uint8)
    full = _full_scale(values, bits)
    scaled = np.empty(values.shape, np.uint8)
    for row, line in zip(scaled, values, strict=True):  # by rows: a huge scan must not be held in float64 as well
        samples = np.nan_to_num(line.astype(np.float64), nan=0.0, posinf=full, neginf=0.0)
        row[...] = np.rint(np.clip(samples / full, 0.0, 1.0) * 255.0)
    return scaled


def _full_scale(values: npt.NDArray[np.generic], bits: int) -> float:
    with np.errstate(invalid="ignore"):
        finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else 0.0
    if values.dtype.kind == "f":
        steps: tuple[float, ...] = (1.0, 255.0, 65535.0)
    elif values.dtype.kind == "i" and values.dtype.itemsize <= 2:
        steps = (2.0 ** (8 * values.dtype.itemsize - 1) - 1,)
    else:
        steps = (2.0 ** min(max(bits, 9), 16) - 1, 65535.0)
    return next((step for step in steps if largest <= step), largest)
