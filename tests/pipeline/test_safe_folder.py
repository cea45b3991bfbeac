"""Neither this process nor Ray's workers import from the current folder, unless this program lies in it."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

import pytest

import dmt_ray
from dmt_ray.pipeline.cluster import _in_a_safe_folder
from dmt_ray.process_exit import forget_current_folder

OWN = str(Path(dmt_ray.__file__).parents[1])


def test_ray_is_started_in_this_programs_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UV", raising=False)
    with _in_a_safe_folder():
        assert Path.cwd().samefile(OWN)
    assert Path.cwd() == tmp_path
    monkeypatch.setattr(site, "getsitepackages", lambda: [OWN])  # all packages lie there, and may shadow Python's own
    with _in_a_safe_folder():
        assert Path.cwd() == Path(os.sep)
    with pytest.raises(ZeroDivisionError), _in_a_safe_folder():
        _ = 1 / 0  # Ray does not start
    assert Path.cwd() == tmp_path


def test_under_uv_run_the_current_folder_is_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV", "/usr/bin/uv")
    with _in_a_safe_folder():
        assert Path.cwd() == tmp_path


def test_a_folder_that_is_gone_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with _in_a_safe_folder():
        pass
    forget_current_folder()


def test_the_current_folder_is_forgotten_where_python_searches_it_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for first, kept in ((str(tmp_path), False), ("", False), (str(tmp_path / "scripts"), True)):
        monkeypatch.setattr(sys, "path", [first, "/usr/lib"])
        forget_current_folder()
        assert (sys.path[0] == first) is kept
    monkeypatch.chdir(OWN)
    monkeypatch.setattr(sys, "path", [OWN])
    forget_current_folder()
    assert sys.path == [OWN]
