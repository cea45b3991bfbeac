"""Show progress: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

#: Seconds between two lines when there is no terminal.
INTERVAL = 10.0


class Progress:
    """Count rows (an image has one per strength); use it as a context manager.

    Parameters:
        total: rows planned.
        done: rows that an earlier run has finished.
        shown: False counts silently.
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        self.total, self.count, self.start = total, done, done
        self.errors = 0
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit="row", disable=not shown or self._lines)
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        self._bar.close()

    def add(self, rows: int, errors: int) -> None:
        """Add rows that were made.

        Parameters:
            rows: how many.
            errors: how many of them are error rows.
        """
        self.count += rows
        self.errors += errors
        self._bar.update(rows)
        if self.errors:
            self._bar.set_postfix(errors=self.errors)
        now = time.monotonic()
        if self._lines and (now - self._last >= INTERVAL or self.count >= self.total):
            self._last = now
            rate = (self.count - self.start) / max(1e-9, now - self._began)
            left = tqdm.format_interval((self.total - self.count) / max(1e-9, rate))
            logger.info(
                "%d of %d rows, %d errors, %.2f rows/s, %s left",
                *(self.count, self.total, self.errors, rate, left),
            )
