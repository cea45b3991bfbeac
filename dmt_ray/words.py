"""Counts and the words around them in messages: "1 image was left out", "2 images were left out"."""

from __future__ import annotations


def counted(count: float, noun: str, plural: str = "", spec: str = "") -> str:
    """Return a count and its noun, such as "1 shard" and "3 shards".

    Parameters:
        count: how many. The noun is singular where the count reads 1 as it is formatted.
        noun: singular.
        plural: of the noun; without it, the noun and an s.
        spec: format of the count, such as ``,`` for commas between thousands.
    """
    text = format(count, spec)
    return f"{text} {noun if text == '1' else plural or f'{noun}s'}"


def agreed(count: int, one: str, many: str) -> str:
    """Return the words that go with a count, such as "is" and "are": ``one`` for 1, ``many`` for all others."""
    return one if count == 1 else many
