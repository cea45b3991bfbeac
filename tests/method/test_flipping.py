import numpy as np
import pytest

from dmt_ray.method.displacement import Edit, Figures
from dmt_ray.method.flipping import TOLERANCE, smallest_flips
from dmt_ray.method.metrics.similarity import Similarity
from dmt_ray.method.metrics.verdicts import Verdict


class Attempts:
    """Edits whose decision value rises with their strength, from a value of each picture's own."""

    def __init__(self, before: list[float], slopes: list[float], margin: float = 0.0) -> None:
        self.before, self.slopes, self.margin, self.made = before, slopes, margin, []

    def __call__(self, places, strengths):
        self.made.append(list(places))
        return [self.edit(place, strength) for place, strength in zip(places, strengths, strict=True)]

    def edit(self, place: int, strength: float) -> Edit:
        after = self.before[place] + self.slopes[place] * strength
        verdict = Verdict.of(self.before[place], after, self.margin)
        empty = np.empty(0)
        return Edit(Figures(strength, strength), empty, empty, 0, 0, 0, Similarity(0, 0, None), verdict=verdict)

    def find(self, largest: float) -> list[Edit]:
        return smallest_flips(self, [value > self.margin for value in self.before], largest, self.margin)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_smallest_strength_that_flips_is_found_to_five_percent(margin: float) -> None:
    thresholds = [0.01, 1.7, 3.99, 7.9]
    attempts = Attempts([margin - t for t in thresholds], [1.0] * 4, margin)
    for edit, threshold in zip(attempts.find(8.0), thresholds, strict=True):
        assert threshold < edit.figures.strength <= threshold + TOLERANCE * 8
        assert edit.verdict.after > margin
        assert edit.verdict.flipped is (None if margin > threshold else True)  # some are targets, but barely


def test_a_picture_of_the_target_class_stays_and_one_that_cannot_flip_goes_all_the_way() -> None:
    attempts = Attempts([2.0, -9.0, -1.0], [1.0, 1.0, 1.0])
    still, furthest, moved = attempts.find(4.0)
    assert (still.figures.strength, still.verdict.flipped) == (0, None)
    assert (furthest.figures.strength, furthest.verdict.flipped) == (4, False)
    assert moved.verdict.flipped
    assert all(made == [2] for made in attempts.made[2:])  # nobody else is tried again
    assert len(attempts.made) == 2 + 5


def test_no_picture_is_attempted_when_there_is_none() -> None:
    attempts = Attempts([], [])
    assert attempts.find(4.0) == []
    assert attempts.made == []
