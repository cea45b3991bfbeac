"""Batches are prepared ahead of the work and finished behind it, in order, and no error is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmt_ray.pipeline.overlapping import Finishing, prepared

PATIENCE_S = 30


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batches", [[], [[1]], [[1, 2], [3], [], [4, 5, 6]]])
def test_everything_comes_in_order(threads, batches, ahead):
    doubled = [[2 * part for part in batch] for batch in batches]
    assert list(prepared(threads, iter(batches), lambda part: 2 * part, ahead=ahead)) == doubled


def test_the_next_batch_is_prepared_meanwhile(threads):
    begun = {number: threading.Event() for number in range(4)}

    def prepare(number):
        begun[number].set()
        return number

    for batch in prepared(threads, [[0], [1], [2], [3]], prepare, ahead=True):
        (number,) = batch
        if number < 3:
            assert begun[number + 1].wait(PATIENCE_S)
        assert not any(begun[later].is_set() for later in range(number + 2, 4))  # and no more than that


def test_without_that_a_batch_is_prepared_when_its_turn_comes(threads):
    begun = []
    for batch in prepared(threads, [[0], [1], [2]], lambda number: begun.append(number) or number, ahead=False):
        assert begun == list(range(batch[0] + 1))


def test_a_batch_is_finished_behind_the_next(threads):
    may_end, ended = threading.Event(), []

    def finish():
        assert may_end.wait(PATIENCE_S)
        ended.append("first")

    finishing = Finishing(threads, behind=True)
    finishing.add([finish])
    assert ended == []  # the work on the next batch goes on here
    may_end.set()
    finishing.add([lambda: ended.append("second")])
    assert ended[0] == "first"
    finishing.wait()
    assert ended == ["first", "second"]


def test_otherwise_it_is_finished_at_once(threads):
    ended = []
    Finishing(threads, behind=False).add([lambda: ended.append(1), lambda: ended.append(2)])
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_out(threads, ahead):
    with pytest.raises(ZeroDivisionError):
        list(prepared(threads, [[1], [0]], lambda part: 1 / part, ahead=ahead))
    finishing = Finishing(threads, behind=ahead)
    with pytest.raises(ZeroDivisionError):
        (finishing.add([lambda: 1 / 0]), finishing.wait())
