"""What the benchmarks of memory share: this process's anonymous memory, and the peak of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds between two samples.
_EVERY_S = 0.005


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match is not None, "this benchmark needs Linux"
    return int(match[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Sample this process's anonymous memory; the list that is given holds its peak in bytes."""
    peak, done = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY_S):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
