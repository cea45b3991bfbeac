"""Actors that are killed, that crash, and that hang, in the middle of their work."""

import os
import signal
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chaos.conftest import PATIENCE, attached, command_line, kill_actor, rows_of, shard_files, until
from dmt_ray.pipeline.run import run_job

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(2 * PATIENCE)]


def test_actors_killed_in_the_middle_of_a_shard_and_of_a_write(options, same, hooks, start, tmp_path):
    """The traversal actor while it reads; the reconstruction actor while it writes, and once more after that."""
    out = tmp_path / "out"
    (hooks / "hold-on-read").touch()
    (hooks / "kill-on-write").touch()
    driver = start(command_line(options, out), env=attached())
    reader = until(lambda: list(hooks.glob("reading-*")), "a traversal actor that reads")[0]
    os.kill(int(reader.name.partition("-")[2]), signal.SIGKILL)
    writer = until(lambda: list(hooks.glob("killed-*")), "a reconstruction actor that writes")[0]
    until(lambda: shard_files(out), "a shard")
    killed = until(lambda: kill_actor("ReconstructionActor", hooks), "a reconstruction actor")
    assert driver.wait(PATIENCE) == 0
    assert not {reader, writer} & {hooks / f"reading-{pid}" for pid in killed}
    rows = same(out, hidden=1)  # the killed writer's, which no reader sees
    assert rows.attempts["photo-3"] >= 2
    assert rows.attempts.max() >= 2


def crash_files():
    return set(Path(tempfile.gettempdir()).glob("dmt-ray-crash-*"))


@pytest.mark.chaos
def test_poison_costs_its_own_row_which_says_how_the_process_died(configure, photos, tmp_path, caplog):
    """A segmentation fault, a SIGKILL, and a hang in native code, each beside a healthy photo."""
    good = [str(path) for path in sorted((photos / "inputs").glob("photo-*"))[:3]]
    uris = [good[0], "crash://segv.jpg", good[1], "crash://boom.jpg", good[2], "crash://hang.jpg"]
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"id": list("abcdef"), "uri": uris, "note": list("123456")}), table)
    options = {"shard_size": 6, "max_error_rate": 0.5, "shard_timeout": 20.0, "allow_uri": ("crash://",)}
    config = configure(input=str(table), threads_per_actor=1, **options)
    left_before = crash_files()
    assert run_job(config) == 0
    assert crash_files() <= left_before
    rows = rows_of(tmp_path / "out")
    assert rows.status.to_dict() == dict(zip("abcdef", ["ok", "error"] * 3, strict=True))
    assert list(rows.note) == list("123456")
    assert set(rows.error_type[list("bdf")]) == {"crash"}
    assert "Segmentation fault" in rows.error["b"]
    assert "SIGKILL" in rows.error["d"]
    assert "--shard-timeout" in rows.error["f"]
    assert (rows.attempts[list("bdf")] == 5).all()
