"""Runs that are told to stop, or that stop by themselves, and are finished by the next one."""

import os
import signal
import subprocess

import pandas as pd
import pytest

from chaos.conftest import PATIENCE, attached, command_line, rows_of, shard_files, until
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.run import run_job

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def test_sigterm_lets_the_running_shard_commit_and_the_next_run_goes_on(options, same, hooks, start, tmp_path):
    """The signal comes while the first shard is being written, and the shard is let go on after that."""
    out = tmp_path / "out"
    (hooks / "hold-on-write").touch()
    driver = start(
        command_line(options, out, "--grace", 100), env=attached(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: list(hooks.glob("holding-*")), "a shard that is being written")
    driver.send_signal(signal.SIGTERM)
    said = b""
    while b"no new shards" not in said:
        said += os.read(driver.stderr.fileno(), 4096)
    (hooks / "release").touch()
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 3, output
    assert b"Incomplete: run the same command again" in output
    before = shard_files(out)
    assert 1 <= len(before) < 5
    assert run_again(options, out).returncode == 0
    assert before.items() <= shard_files(out).items()
    same(out)


def test_a_run_whose_grace_is_over_ends_without_the_shard_that_hangs(options, same, hooks, start, tmp_path):
    out = tmp_path / "out"
    (hooks / "hold-on-write").touch()
    driver = start(command_line(options, out, "--grace", 1), env=attached())
    until(lambda: list(hooks.glob("holding-*")), "a shard that is being written")
    driver.send_signal(signal.SIGINT)
    assert driver.wait(PATIENCE) == 3
    assert not shard_files(out)
    (hooks / "release").touch()
    assert run_again(options, out).returncode == 0
    same(out, hidden=1)


@pytest.mark.parametrize(("grace", "number"), [(100, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_retry_that_is_stopped_is_not_complete(options, hooks, start, grace, number, tmp_path):
    """Two shards have an error row; the signal comes while the first is written. All rows are there all along."""
    out = tmp_path / "out"
    assert run_again(options, out).returncode == 0
    before = shard_files(out)
    (hooks / "hold-on-write").touch()
    driver = start(
        command_line(options, out, "--retry-failed", "--grace", grace),
        **{"env": attached(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )
    until(lambda: list(hooks.glob("holding-*")), "a shard that is being written")
    driver.send_signal(number)
    said = b""
    while b"no new shards" not in said:
        said += os.read(driver.stderr.fileno(), 4096)
    if grace > 1:
        (hooks / "release").touch()
    output, _ = driver.communicate(timeout=PATIENCE)
    (hooks / "release").touch()
    assert driver.returncode == 3, output
    left = b"1 of the 2 error rows was" if grace > 1 else b"2 of the 2 error rows were"
    assert left + b" not tried again" in output
    assert b"10 planned, 10 rows: 8 ok, 2 errors." in output
    after = subprocess.run(
        command_line(options, out, "--retry-failed"), env=attached(), capture_output=True, timeout=PATIENCE
    )
    assert after.returncode == 0, after.stderr
    assert b"not tried again" not in after.stdout
    assert len({name for name, time in shard_files(out).items() if before[name] != time}) == 2


def run_again(options, out):
    return subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE)


def test_a_run_that_goes_wrong_stops_early_and_a_retry_puts_it_right(configure, photos, tmp_path):
    """Of 600 inputs nearly all are empty files; then they are there after all."""
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = (photos / "inputs" / "photo-0.jpg").read_bytes()
    for index in range(600):
        (folder / f"{index:03d}.jpg").write_bytes(whole if index % 20 == 0 else b"")
    common = {"input": str(folder), "shard_size": 20, "batch_size": 20, "iterations": 0, "size": 32}
    assert run_job(configure(**common)) == 4
    stopped = verify_output(str(tmp_path / "out"))
    assert not stopped.complete
    assert not stopped.damaged
    assert 100 <= stopped.rows < 600
    before = rows_of(tmp_path / "out")
    for path in folder.iterdir():
        path.write_bytes(whole)
    assert run_job(configure(**common, retry_failed=True)) == 0
    after = rows_of(tmp_path / "out")
    assert list(after.status) == ["ok"] * 600
    kept = before.index[before.status == "ok"]
    told = before.loc[kept].dropna(axis=1, how="all")
    assert {"image", "image_sha256", "worker", "seconds_read"} <= set(told)
    pd.testing.assert_frame_equal(after.loc[kept, told.columns], told, check_dtype=False)
