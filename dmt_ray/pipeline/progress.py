"""Show progress: one bar on a terminal, a log line every few seconds elsewhere, with the same facts."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: Seconds between two lines when there is no terminal, and when no rows have come.
INTERVAL, QUIET_INTERVAL = 10.0, 60.0


@dataclass(frozen=True)
class ActorGroup:
    """The actors of one stage."""

    count: int
    num_gpus: float
    """GPUs of each; 0 on CPUs."""


class Progress:
    """Count rows (an image has one per strength); use it as a context manager.

    While a bar is shown, log lines to the terminal appear above it.

    Parameters:
        total: rows planned.
        done: rows that an earlier run has finished.
        shown: False counts silently.
        actors: the run's actors by stage, of which ``note_busy`` tells; may be set anew.
    """

    def __init__(self, total: int, done: int, *, shown: bool, actors: Mapping[str, ActorGroup] | None = None) -> None:
        self.total, self.count, self.start = total, done, done
        self.errors = 0
        self.actors = actors or {}
        self._busy: Mapping[str, int] | None = None
        self._lines = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not shown or self._lines,
            bar_format=f"{{n_fmt}} of {{total_fmt}} {agreed(total, 'row', 'rows')}{{postfix}} |{{bar}}|",
            dynamic_ncols=True,
        )
        self._began = self._last = time.monotonic()
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        """Start."""
        if not self._bar.disable:
            self._opened.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        self._bar.close()
        self._opened.close()

    def add(self, rows: int, errors: int) -> None:
        """Add rows that were made.

        Parameters:
            rows: how many.
            errors: how many of them are error rows.
        """
        self.count += rows
        self.errors += errors
        self._bar.set_postfix_str(self.facts(), refresh=False)
        self._bar.update(rows)
        self._log(INTERVAL if self.count < self.total else 0.0)

    def note_busy(self, busy: Mapping[str, int]) -> None:
        """Note how many actors of each stage are at work."""
        self._busy = busy
        self._bar.set_postfix_str(self.facts())
        self._log(QUIET_INTERVAL)

    def facts(self) -> str:
        """Return what there is to tell beside how many rows are done."""
        seconds = time.monotonic() - self._began
        rate = (self.count - self.start) / max(1e-9, seconds)
        left = tqdm.format_interval((self.total - self.count) / rate) if rate > 0 else "unknown time"
        facts = [f"{self.errors} failed", f"{counted(rate, 'row', spec='.3g')}/s", f"{left} left"]
        if self._busy is not None:
            groups = [(group, min(group.count, self._busy.get(stage, 0))) for stage, group in self.actors.items()]
            working = sum(busy for _, busy in groups)
            actors = sum(group.count for group, _ in groups)
            facts.append(f"{working}/{counted(actors, 'actor')} busy")
            gpus = sum(group.count * group.num_gpus for group, _ in groups)
            if gpus:
                share = sum(busy * group.num_gpus for group, busy in groups) / gpus
                facts.append(f"GPUs {share:.0%}")
        return ", ".join(facts)

    def _log(self, interval: float) -> None:
        """Write a line when the last one is so many seconds old."""
        now = time.monotonic()
        if self._lines and now - self._last >= interval:
            self._last = now
            logger.info("%d of %s, %s", self.count, counted(self.total, "row"), self.facts())
