"""Progress: the same facts on a terminal and in the log, and nothing without it."""

import io
import logging
import re
import sys

import pytest

from dmt_ray.pipeline import progress as module
from dmt_ray.pipeline.progress import ActorGroup, Progress

CPUS = {"traverse": ActorGroup(1, 0), "reconstruct": ActorGroup(4, 0)}
GPUS = {"traverse": ActorGroup(1, 0.25), "reconstruct": ActorGroup(1, 0.75)}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time as the test says."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines_tell_all_facts(clock, caplog):
    with caplog.at_level(logging.INFO, "dmt_ray"), Progress(100, 20, shown=True, actors=CPUS) as progress:
        clock[0] += 11
        progress.add(11, 1)
        assert caplog.messages == ["31 of 100 rows, 1 failed, 1 row/s, 01:09 left"]
        clock[0] += 5
        progress.add(5, 0)  # too early for another line
        progress.note_busy({"traverse": 1, "reconstruct": 2})
        assert len(caplog.messages) == 1
        clock[0] += 5
        progress.add(5, 1)
        assert caplog.messages[1:] == ["41 of 100 rows, 2 failed, 1 row/s, 00:59 left, 3/5 actors busy"]
        clock[0] += 61  # no rows come, and the run still says that it is there
        progress.note_busy({"reconstruct": 7})  # more than there may be: some are leaving, and others have come
        assert caplog.messages[2].endswith("4/5 actors busy")
        progress.add(59, 0)
        assert caplog.messages[3].startswith("100 of 100 rows, 2 failed, ")


def test_the_share_of_gpus(clock):
    progress = Progress(10, 0, shown=False, actors=GPUS)
    clock[0] += 1
    assert progress.facts() == "0 failed, 0 rows/s, unknown time left"
    progress.note_busy({"reconstruct": 1})
    assert progress.facts() == "0 failed, 0 rows/s, unknown time left, 1/2 actors busy, GPUs 75%"
    progress.actors = {"isolation": ActorGroup(3, 0.5)}
    progress.note_busy({"isolation": 1})
    assert progress.facts() == "0 failed, 0 rows/s, unknown time left, 1/3 actors busy, GPUs 33%"


def test_one_bar_on_a_terminal_and_the_log_above_it(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler(screen)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    with Progress(10, 0, shown=True, actors=CPUS) as progress:
        clock[0] += 4
        progress.add(4, 1)
        progress.note_busy({"reconstruct": 3})
        root.warning("A photo is odd.")
    assert root.handlers == [handler]
    shown = screen.getvalue()
    assert re.search(r"4 of 10 rows, 1 failed, 1 row/s, 00:06 left, 3/5 actors busy \|.*\|", shown)
    (line,) = (part for part in re.split(r"[\r\n]", shown) if "odd" in part)
    assert line.strip() == "WARNING A photo is odd."  # a line of its own
    assert "INFO" not in shown


def test_quiet_without_progress(clock, caplog, capsys):
    with caplog.at_level(logging.INFO, "dmt_ray"), Progress(10, 0, shown=False, actors=CPUS) as progress:
        clock[0] += 100
        progress.add(5, 0)
        progress.note_busy({"reconstruct": 1})
    assert caplog.messages == []
    assert capsys.readouterr().err == ""
