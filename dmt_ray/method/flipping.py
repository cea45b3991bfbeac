"""Find, for each picture, the smallest strength at which a judge calls its result the target class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dmt_ray.method.displacement import Edit

#: The strength is found to this share of the largest.
TOLERANCE = 0.05
#: Rungs between nothing and the largest strength that whole pictures are traversed to; between them coefficients
#: are interpolated.
RUNGS = 4


def smallest_flips(
    attempt: Callable[[Sequence[int], Sequence[float]], Sequence[Edit]],
    already: Sequence[bool],
    largest: float,
    margin: float,
) -> list[Edit]:
    """Return an edit of each picture: the weakest whose decision value exceeds ``margin``, found by bisection.

    A picture that exceeds it before anything moved gets the edit of strength 0, and one that does not even at the
    largest strength gets that. Every attempt begins at the input again: a result depends on its strength alone.

    Parameters:
        attempt: makes the edits, with verdicts, of some pictures (by number) at a strength each.
        already: for each picture, whether its own decision value exceeds the margin.
        largest: the largest strength to try.
        margin: what a decision value must exceed.
    """
    found: dict[int, Edit] = {}

    def flips(edit: Edit) -> bool:
        return edit.verdict is not None and edit.verdict.after > margin

    def try_at(places: Sequence[int], strength: Sequence[float]) -> dict[int, Edit]:
        return dict(zip(places, attempt(places, strength), strict=True)) if places else {}

    done = [place for place, is_target in enumerate(already) if is_target]
    found |= try_at(done, [0.0] * len(done))
    others = [place for place, is_target in enumerate(already) if not is_target]
    found |= try_at(others, [largest] * len(others))
    moving = [place for place in others if flips(found[place])]
    low, high = dict.fromkeys(moving, 0.0), dict.fromkeys(moving, largest)
    width = largest
    while moving and width > TOLERANCE * largest:
        width /= 2
        middle = {place: (low[place] + high[place]) / 2 for place in moving}
        for place, edit in try_at(moving, [middle[place] for place in moving]).items():
            if flips(edit):
                found[place], high[place] = edit, middle[place]
            else:
                low[place] = middle[place]
    return [found[place] for place in range(len(already))]
