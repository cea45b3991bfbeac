"""Bars of charts, ready for SVG: heights and places in the units of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: The drawing that bars are placed in.
WIDTH, HEIGHT = 240.0, 64.0
_GAP = 1.0


@dataclass(frozen=True)
class Bar:
    """A rectangle; ``y`` counts from the top."""

    x: float
    y: float
    width: float
    height: float


def bars(values: Sequence[float]) -> list[Bar]:
    """Return a bar for each value from the left to the right, the largest of full height; none for a value of 0."""
    if not len(values):
        return []
    largest = max(values)
    step = WIDTH / len(values)
    drawn = []
    for index, value in enumerate(values):
        if value > 0:
            height = max(1.0, HEIGHT * value / largest)
            width = max(0.5, step - _GAP)
            drawn.append(Bar(round(index * step, 2), round(HEIGHT - height, 2), round(width, 2), round(height, 2)))
    return drawn


def number(value: float) -> str:
    """Return a figure as the page shows it: four digits, without an exponent where it can do without."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) >= 1e-4 else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return a time in the largest units that suit it."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
