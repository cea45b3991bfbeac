"""Run a job's command on a Ray cluster: wait for GPUs if asked, and start it again while it ends incomplete.

    python cluster/entrypoint.py [--attempts 3] [--pause 60] [--gpus 8 --at-least 2 --wait 1800] COMMAND...

COMMAND is started again only when it exits with 3, which means that shards are missing and that the same command
does them. 2 (bad settings) and 4 (too many error rows) would end the same way again, so they are passed on at once,
as is every other code. With --gpus the cluster's autoscaler is asked for so many GPUs first, because a job sizes its
pools by what the cluster has when it starts.

Needs nothing but Ray. Give COMMAND the mode resume, the default: with overwrite each attempt would begin at nothing.
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
#: Seconds between two looks at the clock, the signals and the cluster.
TICK_S = 0.2
LOOK_S = 5.0


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
    """Return the exit code of the last attempt, 128 + N after signal N; 3 when the GPUs did not come."""
    options = parser().parse_args(argv)
    if not options.command:
        parser().error("name the COMMAND to run")
    if (options.at_least or 0) > (options.gpus or 0):
        parser().error(f"--at-least is {options.at_least}, more than --gpus ({options.gpus or 0})")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s entrypoint: %(message)s", datefmt="%H:%M:%S")
    stop = Stop()
    if options.gpus and not wait_for_gpus(options.gpus, options.at_least or options.gpus, options.wait, stop):
        return INCOMPLETE
    return run_attempts(options.command, options.attempts, options.pause, stop)


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


def wait_for_gpus(wanted: int, enough: int, seconds: float, stop: Stop) -> bool:
    """Ask the autoscaler for GPUs and wait; return whether there are enough of them.

    Parameters:
        wanted: GPUs to ask for. The request stands until the cluster ends, so a lost node is replaced.
        enough: how many will do when the time is over.
        seconds: how long to wait for all of them.
        stop: the wait ends once this is true.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    ray.init(address="auto", log_to_driver=False)
    try:
        request_resources(bundles=[{"GPU": 1}] * wanted)
        end = time.monotonic() + seconds
        logger.info("asked for %d GPUs; waiting %g s for them", wanted, seconds)
        while (there := ray.cluster_resources().get("GPU", 0)) < wanted and time.monotonic() < end and not stop:
            stop.sleep(min(LOOK_S, max(0.0, end - time.monotonic())))
    finally:
        ray.shutdown()
    logger.info("%g of %d GPUs are there; %d are enough", there, wanted, enough)
    return there >= enough and not stop


def parser() -> argparse.ArgumentParser:
    """Return the options; ``command`` is what remains behind them."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--attempts", type=_positive, default=3, help="starts of COMMAND at most (default 3)")
    made.add_argument("--pause", type=float, default=60, help="seconds before the second attempt (default 60)")
    made.add_argument("--gpus", type=_positive, help="GPUs to ask the autoscaler for (default: ask for none)")
    made.add_argument("--at-least", type=_positive, help="GPUs that will do after --wait (default: all of them)")
    made.add_argument("--wait", type=float, default=1800, help="seconds to wait for the GPUs (default 1800)")
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...", help="such as python job.py")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
