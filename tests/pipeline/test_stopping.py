"""When a run stops: signals, the period of grace, and errors that leave no doubt."""

import os
import signal
import threading
from collections import deque

import pytest

from dmt_ray.pipeline.stopping import GraceOverError, Stopper, going_wrong, poll_during


@pytest.mark.parametrize(
    ("rows", "errors", "wrong"),
    [
        (99, 99, False),  # too few to judge
        (100, 100, True),
        (100, 18, False),  # more than a tenth, but that may be chance
        (100, 30, True),
        (10_000, 1_000, False),
        (10_000, 1_200, True),
        (1_000_000, 99_999, False),
    ],
)
def test_a_run_goes_wrong_when_chance_is_no_excuse(rows, errors, wrong):
    assert going_wrong(rows, errors, 0.1) is wrong
    assert not going_wrong(rows, errors, 1.0)


def test_too_many_errors_stop_the_run_once():
    stops = []
    stopper = Stopper(grace=1000, max_error_rate=0.1)
    stopper.stop_shards = lambda: stops.append(1)
    with stopper:
        stopper.count(99, 99)
        assert not stopper.stopping
        stopper.count(1, 1)
        stopper.count(1, 1)
        stopper.look()
    assert stopper.stopping
    assert stopper.going_wrong
    assert stops == [1]
    tolerant = Stopper(grace=1000, max_error_rate=None)
    tolerant.count(100, 100)
    assert not tolerant.stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_shards_and_the_second_everything(number):
    before = signal.getsignal(number)
    stops = []
    with Stopper(grace=1000, max_error_rate=None) as stopper:
        stopper.stop_shards = lambda: stops.append(1)
        stopper.look()
        assert not stopper.stopping
        os.kill(os.getpid(), number)
        stopper.look()
        stopper.look()
        assert stopper.stopping
        assert stops == [1]
        assert not stopper.going_wrong
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_grace_ends():
    with Stopper(grace=0, max_error_rate=None) as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(GraceOverError, match="--grace 0 s"):
            deque(iter(stopper.look, "never"))


def test_results_are_waited_for_without_going_deaf():
    silent = threading.Event()
    looks = []

    def results():
        yield 1
        yield 2
        silent.wait()
        yield 3

    def look():
        looks.append(1)
        if len(looks) == 8:
            silent.set()

    assert list(poll_during(results(), look)) == [1, 2, 3]
    assert len(looks) >= 8


def test_errors_of_the_results_come_through():
    def results():
        yield 1
        raise ValueError("broken")

    found = poll_during(results(), lambda: None)
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
