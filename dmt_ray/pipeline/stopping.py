"""Stop a run before its end: on a signal, after a period of grace, or because of too many error rows."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, TypeVar

from dmt_ray.process_exit import SIGNALS
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at the clock and at the signals.
TICK_S = 0.2
#: Rows before a run is judged by its errors.
FEWEST_ROWS = 100
#: Standard deviations by which the errors must exceed what is allowed: one run in a thousand stops for nothing.
DEVIATIONS = 3.0


class GraceOverError(Exception):
    """The shards that were running have not ended within the period of grace."""


class Stopper:
    """Decides when a run stops; as a context manager it handles SIGINT and SIGTERM.

    After the first signal, or after too many errors, no further shard begins. A second signal raises
    ``KeyboardInterrupt``.

    Parameters:
        grace: seconds from then on until ``GraceOverError``.
        max_error_rate: share of the rows that may be errors; None: any.
    """

    def __init__(self, grace: float, max_error_rate: float | None) -> None:
        self._grace, self._max_error_rate = grace, max_error_rate
        self._rows = self._errors = 0
        self._signal: str | None = None
        self._deadline = math.inf
        self._before: dict[signal.Signals, Any] = {}
        self.going_wrong = False
        """The run stops because of too many errors."""
        self.stop_shards: Callable[[], object] = lambda: None
        """Called once; must keep further shards from beginning."""

    @property
    def stopping(self) -> bool:
        """No further shard begins."""
        return self._deadline < math.inf

    def __enter__(self) -> Stopper:
        """Set the signal handlers; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def count(self, rows: int, errors: int) -> None:
        """Add rows that were made, and stop the run when too many are errors."""
        self._rows += rows
        self._errors += errors
        allowed = self._max_error_rate
        if allowed is not None and not self.stopping and going_wrong(self._rows, self._errors, allowed):
            are = agreed(self._errors, "is an error", "are errors")
            logger.error(
                "%d of %s %s, and --max-error-rate allows %s: the run stops early.",
                *(self._errors, counted(self._rows, "row"), are, allowed),
            )
            self.going_wrong = True
            self._stop()

    def look(self) -> None:
        """Act on a signal that came, and on the end of the period of grace.

        Raises:
            GraceOverError: the period of grace is over.
        """
        if self._signal is not None and not self.stopping:
            logger.warning(
                "%s: no new shards; those that are running have %g s to end. Once more stops at once.",
                *(self._signal, self._grace),
            )
            self._stop()
        if time.monotonic() > self._deadline:
            raise GraceOverError(f"The running shards did not end within --grace {self._grace:g} s.")

    def _stop(self) -> None:
        self._deadline = time.monotonic() + self._grace
        self.stop_shards()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def going_wrong(rows: int, errors: int, allowed: float) -> bool:
    """Tell whether surely more than a share ``allowed`` of all rows are errors, judged by the rows so far.

    Compares with the lower end of the Wilson score interval (Wilson 1927) at ``DEVIATIONS``, for a run of any length.
    """
    if rows < FEWEST_ROWS:
        return False
    rate, z = errors / rows, DEVIATIONS
    middle = rate + z * z / (2 * rows)
    spread = z * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return (middle - spread) / (1 + z * z / rows) > allowed


def call_polling(action: Callable[[], T], look: Callable[[], None]) -> T:
    """Return the result of an action, for which a thread of its own waits; see ``poll_during``."""
    (result,) = poll_during((action() for _ in range(1)), look)
    return result


def poll_during(results: Iterator[T], look: Callable[[], None]) -> Iterator[T]:
    """Yield the results, for which a thread of its own waits, and call ``look`` several times a second meanwhile.

    Raises:
        Exception: whatever ``look`` raises; the thread is abandoned then. Whatever ``results`` raises.
    """
    queue: SimpleQueue[tuple[list[T], BaseException | None]] = SimpleQueue()

    def wait_for_results() -> None:
        try:
            for result in results:
                queue.put(([result], None))
        except BaseException as error:
            queue.put(([], error))
        else:
            queue.put(([], StopIteration()))

    threading.Thread(target=wait_for_results, name="results", daemon=True).start()
    while True:
        look()
        try:
            found, error = queue.get(timeout=TICK_S)
        except Empty:
            continue
        yield from found
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
