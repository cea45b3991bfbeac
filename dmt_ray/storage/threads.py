"""Threads that read many files at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def reading_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads, and end it; on an error or a signal without waiting for a read that hangs.

    Parameters:
        count: threads at most.
    """
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
