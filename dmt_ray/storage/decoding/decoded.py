"""What decoding an image gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]

#: The largest number of frames that is told: that of an int32 column. A header may claim more.
MOST_FRAMES = 2**31 - 1


@dataclass(frozen=True)
class DecodedImage:
    """A picture, and what its file has beyond it."""

    rgb: Rgb
    """H x W x 3, sRGB, C-contiguous and writable."""
    frames: int | None = 1
    """Frames or pages of the file, of which this is the first; None where its index is damaged."""
    truncated: bool = False
    """The file's end is missing, and this is what could be decoded."""
