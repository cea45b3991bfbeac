"""Batches whose parts are prepared in threads while the batch before is worked on, and finished while the next is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Prepared = TypeVar("Prepared")


def prepared(
    threads: ThreadPoolExecutor,
    batches: Iterable[Sequence[Part]],
    prepare: Callable[[Part], Prepared],
    *,
    ahead: bool,
) -> Iterator[list[Prepared]]:
    """Yield what ``prepare`` makes of the parts of each batch, in order.

    Parameters:
        threads: prepare the parts of a batch at the same time.
        batches: each is asked for when it is to be prepared.
        prepare: makes one part ready.
        ahead: prepare a batch while its predecessor, which was yielded, is worked on.
    """
    waiting: list[Future[Prepared]] | None = None
    for batch in batches:
        begun = [threads.submit(prepare, part) for part in batch]
        if not ahead:
            yield [part.result() for part in begun]
            continue
        if waiting is not None:
            yield [part.result() for part in waiting]
        waiting = begun
    if waiting is not None:
        yield [part.result() for part in waiting]


class Finishing:
    """Finishes batches in threads, at most one while another is worked on.

    Parameters:
        threads: finish the parts of a batch at the same time.
        behind: finish a batch while its successor is worked on; otherwise at once.
    """

    def __init__(self, threads: ThreadPoolExecutor, *, behind: bool) -> None:
        self._threads, self._behind = threads, behind
        self._begun: list[Future[None]] = []

    def add(self, calls: Iterable[Callable[[], None]]) -> None:
        """Finish the parts of one more batch, after the batch before is done."""
        self.wait()
        self._begun = [self._threads.submit(call) for call in calls]
        if not self._behind:
            self.wait()

    def wait(self) -> None:
        """Wait until all that was added is done."""
        for part in self._begun:
            part.result()
        self._begun = []


def batched(parts: Sequence[Part], size: int) -> list[Sequence[Part]]:
    """Return the parts in batches of a size; the last one may be smaller."""
    return [parts[start : start + size] for start in range(0, len(parts), size)]
