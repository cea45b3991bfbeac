"""Shards are grouped into larger files by their sizes alone, so that the same shards always give the same files."""

from __future__ import annotations

from collections.abc import Iterable


def group_by_size(sizes: Iterable[tuple[int, int]], limit: int) -> list[list[int]]:
    """Group shards in order, each group of at least ``limit``, the last one of whatever is left.

    Parameters:
        sizes: number and size of each shard.
        limit: in the sizes' unit.
    """
    groups: list[list[int]] = []
    filled = limit
    for number, size in sizes:
        if filled >= limit:
            groups.append([])
            filled = 0
        groups[-1].append(number)
        filled += size
    return groups
