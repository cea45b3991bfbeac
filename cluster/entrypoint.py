"""Run a job's command on a Ray cluster, and start it again while it ends incomplete.

    python cluster/entrypoint.py [--attempts 3] [--pause 60] COMMAND...

COMMAND is started again only when it exits with 3, which means that shards are missing and that the same command
does them. 2 (bad settings) and 4 (too many error rows) would end the same way again, so they are passed on at
once, as is every other code. Needs nothing but Python. Give COMMAND the mode resume, the default: with overwrite each
attempt would begin at nothing.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

logger = logging.getLogger("entrypoint")

#: What a job exits with when the same command would do the rest.
INCOMPLETE = 3
#: Seconds between two looks at the clock and the signals.
TICK_S = 0.2


class Stop:
    """Becomes true at SIGTERM or SIGINT. The command gets these itself: Ray and terminals signal every process."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked

    def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds, or until told to stop."""
        end = time.monotonic() + seconds
        while not self and time.monotonic() < end:
            time.sleep(min(TICK_S, seconds))


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the last attempt, 128 + N after signal N."""
    options = parser().parse_args(argv)
    if not options.command:
        parser().error("name the COMMAND to run")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s entrypoint: %(message)s", datefmt="%H:%M:%S")
    return run_attempts(options.command, options.attempts, options.pause, Stop())


def run_attempts(command: Sequence[str], attempts: int, pause: float, stop: Stop) -> int:
    """Run a command until it exits with another code than 3, at most ``attempts`` times; return the last code.

    Parameters:
        command: program and arguments.
        attempts: at least 1.
        pause: seconds before the second attempt; twice as many before each further one.
        stop: no attempt begins once this is true.
    """
    for attempt in range(1, attempts + 1):
        code = subprocess.call(command)
        if code < 0:
            code = 128 - code
        if code != INCOMPLETE or attempt == attempts or stop:
            break
        wait = pause * 2 ** (attempt - 1)
        logger.info("attempt %d of %d ended incomplete; the next begins in %g s", attempt, attempts, wait)
        stop.sleep(wait)
        if stop:
            break
    logger.info("attempt %d of %d ended with %d", attempt, attempts, code)
    return code


def parser() -> argparse.ArgumentParser:
    """Return the options; ``command`` is what remains behind them."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--attempts", type=_positive, default=3, help="starts of COMMAND at most (default 3)")
    made.add_argument("--pause", type=float, default=60, help="seconds before the second attempt (default 60)")
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...", help="such as python job.py")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
