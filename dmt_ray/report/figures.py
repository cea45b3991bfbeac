"""The figures of rows: what they are called on the page, and their distributions, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.output.schema import ROW_SCHEMA

#: What the page calls a figure; others are called as their columns.
_LABELS = {
    "strength": "Strength",
    "displacement_norm": "Length of the move",
    "budget_weight": "Budget weight",
    "rbf_variance": "RBF variance",
    "witness_before": "Witness before",
    "witness_after": "Witness after",
    "feature_loss_before": "Feature loss before",
    "feature_loss_after": "Feature loss after",
    "iterations": "Iterations",
    "psnr_to_input": "PSNR to input (dB)",
    "ssim_to_input": "SSIM to input",
    "lpips_to_input": "LPIPS to input",
    "colorfulness": "Colorfulness",
    "confidence": "Confidence of colours",
    "verdict_before": "Verdict before",
    "verdict_after": "Verdict after",
    "seconds_read": "Reading (s)",
    "seconds_traverse": "Traversal (s)",
    "seconds_reconstruct": "Reconstruction (s)",
    "attempts": "Attempts",
    "width": "Width (px)",
    "height": "Height (px)",
}

#: Values of a figure that are kept for its distribution; of more, every second, fourth, ... is.
_KEPT = 2**16
_BINS = 24


def figure_names() -> list[str]:
    """Return the columns that are figures, those that are looked at first in front."""
    numbers = [
        column.name
        for column in ROW_SCHEMA
        if (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)) and column.name != "step"
    ]
    return sorted(numbers, key=lambda name: list(_LABELS).index(name) if name in _LABELS else len(_LABELS))


def label_of(figure: str) -> str:
    """Return what the page calls a figure."""
    return _LABELS.get(figure, figure.replace("_", " ").capitalize())


@dataclass
class Distribution:
    """The values of one figure. Count, sum, least and largest are exact; quantiles may be of evenly taken ones."""

    name: str
    count: int = 0
    total: float = 0.0
    least: float = np.inf
    largest: float = -np.inf
    _kept: list[float] = field(default_factory=list)
    _stride: int = 1

    def add(self, values: Iterable[float | None]) -> None:
        """Take in values; nulls, and what is not finite, do not count."""
        for value in values:
            if value is None or not math.isfinite(value):
                continue
            if self.count % self._stride == 0:
                self._kept.append(float(value))
                if len(self._kept) >= _KEPT:
                    self._kept = self._kept[::2]
                    self._stride *= 2
            self.count += 1
            self.total += value
            self.least, self.largest = min(self.least, value), max(self.largest, value)

    @property
    def label(self) -> str:
        """What the page calls the figure."""
        return label_of(self.name)

    @property
    def sampled(self) -> bool:
        """Quantiles and bins are of a part of the values."""
        return self._stride > 1

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return self.total / self.count

    def quantile(self, share: float) -> float:
        """Return the value below which a share (0 to 1) of the values lies."""
        return float(np.quantile(self._kept, share))

    def bins(self) -> npt.NDArray[np.int64]:
        """Return how many values lie in each of equal parts from the least to the largest."""
        if self.least == self.largest:
            return np.array([len(self._kept)], np.int64)
        return np.histogram(self._kept, _BINS, (self.least, self.largest))[0].astype(np.int64)
