"""How many actors there should be, who takes over whose shard, who is stuck, and which deaths count, without Ray."""

import time
from types import SimpleNamespace

import pytest

from dmt_ray.pipeline import blame as blame_module
from dmt_ray.pipeline.actors import ReconstructionActor, TraversalActor
from dmt_ray.pipeline.attempts import Place
from dmt_ray.pipeline.blame import Blame, Verdict
from dmt_ray.pipeline.dispatch import ShardStream
from dmt_ray.pipeline.isolation import IsolationStream
from dmt_ray.pipeline.isolation_pool import IsolationWorker
from dmt_ray.pipeline.no_progress import NoProgressError, ProgressWatch, stuck_workers
from dmt_ray.pipeline.pools import STARVED_S, Pool, Turn, Worker, find_need, wanted_sizes
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan
from dmt_ray.pipeline.stragglers import take_over


def pool(kind=ReconstructionActor, most=8, least=None, placed=0, waiting=0):
    made = Pool("reconstruction", kind, ActorPlan(most, 1, 0, 1, least=least), None)
    for index in range(placed + waiting):
        place = Place("node", "ip", index) if index < placed else None
        made.workers.append(Worker(None, None if place else object(), str(index), time.monotonic(), place))
    return made


def busy(made, index, *shards, seconds=0.0):
    worker = made.workers[index]
    worker.turns.extend(Turn(shard) for shard in shards)
    worker.since = time.monotonic() - seconds


def took(made, *seconds):
    for each in seconds:
        turn = Turn(1000)
        made.workers[0].turns.appendleft(turn)
        made.workers[0].since = time.monotonic() - each
        made.take_back(made.workers[0], turn)


@pytest.mark.parametrize(
    ("least", "placed", "to_traverse", "to_do", "wanted"),
    [
        (None, (0, 0), 100, 100, (4, 16)),  # a fixed pool starts whole
        (None, (4, 16), 3, 5, (3, 5)),  # and has no more actors than shards
        (None, (4, 16), 0, 5, (0, 5)),
        ((1, 2), (0, 0), 100, 100, (1, 2)),  # an elastic one with its least
        ((1, 2), (1, 0), 100, 100, (1, 2)),
        ((1, 2), (1, 1), 100, 100, (1, 16)),  # then demand is for the most, and traversal comes in proportion
        ((1, 2), (1, 9), 100, 100, (3, 16)),
        ((1, 2), (4, 16), 100, 100, (4, 16)),
        ((1, 2), (0, 3), 0, 3, (0, 3)),
    ],
)
def test_sizes(least, placed, to_traverse, to_do, wanted):
    least_t, least_r = least or (None, None)
    traversal = pool(TraversalActor, 4, least_t, placed[0])
    reconstruction = pool(ReconstructionActor, 16, least_r, placed[1])
    assert wanted_sizes(traversal, reconstruction, to_traverse, to_do) == wanted


def test_a_shard_that_waits_behind_another_moves_to_an_idle_actor():
    made = pool(placed=3)
    busy(made, 0, 1, 2)
    busy(made, 1, 3)
    ((holder, turn, helper, begun),) = take_over(made)
    assert (holder, turn.shard, helper, begun) == (made.workers[0], 2, made.workers[2], False)


def test_a_slow_shard_begins_a_second_time_and_no_third():
    made = pool(placed=4)
    assert list(take_over(made)) == []
    busy(made, 1, 1, seconds=1000)
    assert list(take_over(made)) == []  # nobody knows yet how long a shard takes
    took(made, 100, 100, 20)
    busy(made, 2, 2, seconds=190)
    ((holder, turn, helper, begun),) = take_over(made)
    assert (holder, turn.shard, begun) == (made.workers[1], 1, True)
    assert helper.is_idle
    busy(made, made.workers.index(helper), 1)
    assert list(take_over(made)) == []
    busy(made, 2, seconds=210)
    assert [turn.shard for _, turn, _, _ in take_over(made)] == [2]


def test_quick_shards_are_left_alone():
    made = pool(placed=2)
    took(made, 0.1)
    busy(made, 1, 1, seconds=12)
    assert list(take_over(made)) == []


def watch(timeout, idle):
    made = ProgressWatch(timeout)
    made._last -= idle
    return made


def test_who_is_stuck():
    made = pool(placed=3, waiting=1)
    busy(made, 0, 1, seconds=50)
    busy(made, 1, 2, seconds=9)
    assert stuck_workers(made, watch(10, idle=0)) == []  # others go on, and no shard has told how long one takes
    assert stuck_workers(made, watch(10, idle=11)) == [made.workers[0]]
    took(made, 4)
    busy(made, 0, seconds=50)
    assert stuck_workers(made, watch(10, idle=0)) == [made.workers[0]]
    took(made, 11)
    busy(made, 0, seconds=50)
    assert stuck_workers(made, watch(10, idle=0)) == []  # not five times longer than any before
    made.workers[2].loading, made.workers[2].since = object(), time.monotonic() - 100
    assert stuck_workers(made, watch(10, idle=11)) == [made.workers[0]]  # to load may take longer
    made.workers[2].since -= 21
    assert stuck_workers(made, watch(10, idle=11)) == [made.workers[0], made.workers[2]]


def test_the_main_thread_has_the_last_word():
    watch(10, idle=200).check()
    with pytest.raises(NoProgressError, match="Nothing has happened for 241 s"):
        watch(10, idle=241).check()


def test_deaths_that_a_node_has_taken_with_it_do_not_count(monkeypatch):
    blame = Blame()
    for _ in range(2):
        blame.died("traversal", 7, "a", surely=True)
    assert blame.verdict("traversal", 7) is Verdict.AGAIN
    blame.died("traversal", 7, "b", surely=False)
    assert blame.verdict("traversal", 7) is Verdict.WAIT
    assert blame.verdict("reconstruction", 7) is Verdict.AGAIN
    blame.lost_nodes({"b"})
    assert blame.verdict("traversal", 7) is Verdict.AGAIN
    monkeypatch.setattr(blame_module, "VERDICT_S", 0.0)
    blame.died("traversal", 7, "c", surely=False)
    assert blame.verdict("traversal", 7) is Verdict.WAIT  # the other two have just died, and their node may follow
    monkeypatch.setattr(blame_module, "ENDING_S", 0.0)
    for _ in range(3):
        blame.died("traversal", 8, "a", surely=True)
    assert blame.verdict("traversal", 8) is Verdict.LOST
    blame.lost_nodes({"a"})
    assert blame.verdict("traversal", 8) is Verdict.AGAIN
    assert blame.verdict("traversal", 7) is Verdict.AGAIN
    image = Blame(retries=1)
    image.died("isolation", 0, "a", surely=True)
    assert image.verdict("isolation", 0) is Verdict.AGAIN
    image.died("isolation", 0, "b", surely=True)
    assert image.verdict("isolation", 0) is Verdict.LOST


def test_a_pool_is_in_need_where_the_cluster_is_too_small_for_both():
    traversal, reconstruction = pool(TraversalActor, 2, waiting=1), pool(ReconstructionActor, 2, placed=2)
    assert not find_need(traversal, reconstruction, {"CPU": 2.0}, has_work=True)  # it may still be starting
    traversal.starved_since -= STARVED_S
    assert not find_need(traversal, reconstruction, {"CPU": 3.0}, has_work=True)  # there is room for it
    assert find_need(traversal, reconstruction, {"CPU": 2.0}, has_work=True)
    assert traversal.in_need
    assert not find_need(traversal, reconstruction, {"CPU": 2.0}, has_work=True)  # one actor at a time makes room
    assert traversal.in_need
    traversal.workers[0].place = Place("node", "ip", 1)
    assert not find_need(traversal, reconstruction, {"CPU": 2.0}, has_work=True)
    assert not traversal.in_need
    assert not find_need(pool(), reconstruction, {"CPU": 1.0}, has_work=False)


def test_a_stream_knows_its_busy_actors_and_the_shards_that_have_begun():
    plan = ActorPlan(2, 1, 0, 1)
    stream = ShardStream(
        [1, 2, 3, 4, 5], SimpleNamespace(attempts_actor=None), PoolPlan(plan, plan), watch(10, idle=0)
    )
    assert (stream.busy, stream.begun) == ({"traverse": 0, "reconstruct": 0}, set())
    stream._traversal.workers += pool(TraversalActor, placed=2).workers
    stream._reconstruction.workers += pool(placed=2, waiting=1).workers
    busy(stream._traversal, 0, 3, 4)  # the second one waits behind the first
    busy(stream._reconstruction, 0, 1)
    stream._traversed |= {1, 2}
    assert (stream.busy, stream.begun) == ({"traverse": 1, "reconstruct": 1}, {1, 2, 3})
    stream._traversal.workers.pop(0)  # as when it has died
    assert (stream.busy, stream.begun) == ({"traverse": 0, "reconstruct": 1}, {1, 2})


def test_isolation_knows_its_busy_processes():
    stream = IsolationStream([], None, ActorPlan(2, 1, 0, 1), lambda: False, watch(10, idle=0))
    assert (stream.busy, stream.begun) == ({"isolation": 0}, set())
    processes = stream._pool
    processes._idle = [IsolationWorker(None, Place("node", "ip", index), None, 0.0) for index in range(2)]
    first, second = processes.take(), processes.take()
    assert stream.busy == {"isolation": 2}
    processes.give_back(first)
    assert stream.busy == {"isolation": 1}
    processes.give_back(second)
    assert stream.busy == {"isolation": 0}
