"""Whatever a killed run or a bad copy leaves behind: the next run goes on, or says what to do. No Ray here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import committed_shards, shard_uri
from dmt_ray.output.plan import load_plan
from dmt_ray.output.run_record import read_run
from dmt_ray.pipeline.prepare import prepare_run, write_run
from dmt_ray.storage import files

OLD, NEW = {"size": 64}, {"size": 96, "shard_size": 4}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def finished(configure, commit_rows):
    """An output with all shards of a run with the settings OLD."""
    run = prepare_run(configure(**OLD))
    write_run(run)
    for shard in run.shards:
        commit_rows(run, shard)
    return run


def killed_at(step: int, run) -> bool:
    """Run ``write_run`` in a process that is killed before its write or deletion number ``step``; tell if it was."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counting(action):
            def count(*args, **kwargs):
                nonlocal calls
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return action(*args, **kwargs)

            return count

        for name in ("write_atomic", "write_new", "delete"):
            setattr(files, name, counting(getattr(files, name)))
        try:
            write_run(run)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("then", ["the same command", "resume", "overwrite"])
def test_overwrite_can_be_killed_at_each_of_its_steps(finished, configure, out, tmp_path, then):
    saved = tmp_path / "saved"
    shutil.copytree(out, saved)
    run = prepare_run(configure(**NEW, mode="overwrite"))
    step = 0
    while killed_at(step, run):
        if then == "resume" and read_run(str(out)).fingerprint == finished.fingerprint:
            assert not prepare_run(configure(**OLD)).todo  # nothing was touched yet
        else:
            options = {"the same command": {"mode": "overwrite"}, "resume": {}, "overwrite": {"mode": "overwrite"}}[
                then
            ]
            settings = OLD if then == "overwrite" else NEW
            again = prepare_run(configure(**settings, **options))
            assert again.fresh
            write_run(again)
            assert committed_shards(str(out)) == set()
            whole = prepare_run(configure(**settings))
            assert (len(whole.todo), whole.fresh) == (len(whole.shards), False)
            assert not read_run(str(out)).replacing
        shutil.rmtree(out)
        shutil.copytree(saved, out)
        step += 1
    assert step >= 7  # run.json, three shards, the old plan, the new plan, run.json again


def test_an_interrupted_overwrite_is_not_resumed_as_the_earlier_run(finished, configure, out):
    run = prepare_run(configure(**NEW, mode="overwrite"))
    assert killed_at(2, run)
    with pytest.raises(SettingsError, match=r"made with other settings: .*size was 96 and is 64 now"):
        prepare_run(configure(**OLD))


def test_a_first_run_can_be_killed_at_each_of_its_steps(configure, out):
    run = prepare_run(configure(**NEW))
    step = 0
    while killed_at(step, run):
        again = prepare_run(configure(**NEW))
        assert again.fresh
        write_run(again)
        assert not prepare_run(configure(**NEW)).fresh
        shutil.rmtree(out)
        step += 1
    assert step >= 2  # run.json, and the plan


def damage(path, how):
    if how == "lost":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARMS = ["lost", "empty", "cut"]


@pytest.mark.parametrize("how", HARMS)
def test_a_run_record_that_is_gone_is_written_anew_by_the_same_command(finished, configure, out, how):
    before = json.loads((out / "run.json").read_text())
    (out / "shards" / "shard-000001.parquet").unlink()
    damage(out / "run.json", how)
    run = prepare_run(configure(**OLD))
    assert run.todo.numbers == [1]
    write_run(run)
    assert json.loads((out / "run.json").read_text()) == before
    assert prepare_run(configure(**OLD)).todo.numbers == [1]


@pytest.mark.parametrize("how", HARMS)
def test_a_run_record_that_is_gone_is_not_taken_over_by_other_settings(finished, configure, out, how):
    damage(out / "run.json", how)
    with pytest.raises(SettingsError, match=r"has lost its run\.json.*give the settings.*--mode overwrite"):
        prepare_run(configure(**NEW))
    assert len(committed_shards(str(out))) == 3
    write_run(prepare_run(configure(**NEW, mode="overwrite")))
    assert committed_shards(str(out)) == set()
    assert len(prepare_run(configure(**NEW)).todo) == 2


@pytest.mark.parametrize("how", HARMS)
def test_a_plan_that_is_gone_under_shards_is_refused_with_what_to_do(finished, configure, out, how):
    damage(out / "plan.parquet", how)
    with pytest.raises(SettingsError, match=r"has shards but cannot be resumed, because .*plan.*--mode overwrite"):
        prepare_run(configure(**OLD))
    write_run(prepare_run(configure(**OLD, mode="overwrite")))
    assert len(prepare_run(configure(**OLD)).todo) == 3


@pytest.mark.parametrize("how", HARMS)
def test_a_plan_that_is_gone_before_the_first_shard_is_made_again(configure, out, how):
    write_run(prepare_run(configure(**OLD)))
    damage(out / "plan.parquet", how)
    run = prepare_run(configure(**OLD))
    assert run.fresh
    write_run(run)
    assert not prepare_run(configure(**OLD)).fresh


def test_all_but_the_shards_is_gone(finished, configure, out):
    for name in ("run.json", "plan.parquet"):
        (out / name).unlink()
    with pytest.raises(SettingsError, match="cannot be resumed"):
        prepare_run(configure(**OLD))
    write_run(prepare_run(configure(**NEW, mode="overwrite")))
    assert committed_shards(str(out)) == set()


def test_an_empty_folder_of_shards_is_a_free_place(configure, out):
    (out / "shards").mkdir(parents=True)
    write_run(prepare_run(configure(**OLD)))
    assert len(prepare_run(configure(**OLD)).todo) == 3


def test_a_plan_of_another_run_is_refused(finished, configure, out, tmp_path):
    other = prepare_run(configure(**OLD, output=str(tmp_path / "other")))
    write_run(other)
    shutil.copy(tmp_path / "other" / "plan.parquet", out / "plan.parquet")
    with pytest.raises(SettingsError, match=r"plan\.parquet belongs to another run than its run\.json"):
        prepare_run(configure(**OLD))
    assert load_plan(str(out)).file.binding.fingerprint == finished.fingerprint  # of the same settings even


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"steps": "x"}, "'steps' is 'x'"),
        ({"steps": 0}, "'steps': 0"),
        ({"steps": True}, "'steps' is True"),
        ({"settings": []}, r"'settings' is \[\]"),
        ({"fingerprint": None}, "nothing of 'fingerprint'"),
        ({"config": 3}, "'config' is 3"),
        ({"planned": "many"}, "'planned' is 'many'"),
    ],
)
def test_a_damaged_run_record_is_a_sentence(finished, configure, out, content, reason):
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | content))
    with pytest.raises(SettingsError, match=reason):
        read_run(str(out))
    assert not prepare_run(configure(**OLD)).todo  # the plan stands in for it


def test_a_run_record_of_a_hundred_thousand_brackets(finished, out):
    (out / "run.json").write_text('{\n  "program": "dmt_ray colorize", "settings": ' + "[" * 100_000)
    with pytest.raises(SettingsError, match="empty or cut short"):
        read_run(str(out))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_of_two_runs_that_begin_at_once_one_owns_the_place(configure, tmp_path, place, request):
    """Both have looked at the empty place before either writes."""
    out = str(tmp_path / "out") if place == "local" else f"{request.getfixturevalue('bucket')}/out"
    first, second = (prepare_run(configure(**settings, output=out)) for settings in (OLD, NEW))
    ends = {}

    def write(name, run):
        try:
            write_run(run)
            ends[name] = None
        except SettingsError as error:
            ends[name] = str(error)

    threads = [threading.Thread(target=write, args=each) for each in (("first", first), ("second", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    losers = [name for name, error in ends.items() if error is not None]
    assert len(losers) == 1
    assert "with other settings" in ends[losers[0]]
    owner = second if losers == ["first"] else first
    assert read_run(out).fingerprint == owner.fingerprint
    assert load_plan(out).file.binding.fingerprint == owner.fingerprint


def test_two_runs_of_the_same_settings_share_the_place(configure, out):
    first, second = prepare_run(configure(**OLD)), prepare_run(configure(**OLD))
    write_run(first)
    write_run(second)
    assert not prepare_run(configure(**OLD)).fresh
    assert read_run(str(out)).plan == load_plan(str(out)).file.binding.name


def test_overwriting_on_a_store_leaves_nothing_of_the_earlier_run(configure, commit_rows, bucket):
    out = f"{bucket}/out"
    run = prepare_run(configure(**OLD, output=out))
    write_run(run)
    for shard in run.shards:
        commit_rows(run, shard)
    write_run(prepare_run(configure(**NEW, output=out, mode="overwrite")))
    assert committed_shards(out) == set()
    assert len(prepare_run(configure(**NEW, output=out)).todo) == 2


def test_a_damaged_manifold_does_not_stop_an_overwrite(finished, configure, out):
    folder = out / "manifold"
    folder.mkdir()
    (folder / "manifold.json").write_bytes(b'{"format": "dmt_ray ma')
    (folder / "gram-0123456789ab.safetensors").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    write_run(prepare_run(configure(**NEW, mode="overwrite")))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_shard_of_ours_alone_proves_whose_place_it_is(finished, configure, out, tmp_path):
    place = tmp_path / "elsewhere"
    (place / "shards").mkdir(parents=True)
    shutil.copy(shard_uri(str(out), 0), place / "shards")
    (place / "keepsake.txt").write_text("mine")
    write_run(prepare_run(configure(**NEW, mode="overwrite", output=str(place))))
    assert committed_shards(str(place)) == set()
    assert (place / "keepsake.txt").read_text() == "mine"
