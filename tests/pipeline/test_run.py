"""The whole job on a real Ray: rows, exit codes, resume, crashes, object stores, GPUs."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dmt_ray import cli
from dmt_ray.jobs.judging import JudgeReport
from dmt_ray.output.report import VerifyReport
from dmt_ray.output.schema import ROW_SCHEMA
from dmt_ray.pipeline.outcome import RunOutcome
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.pipeline.run import run_job
from dmt_ray.pipeline.run_sentences import closing_summary

pytestmark = pytest.mark.usefixtures("local_ray")


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in sorted((Path(out) / "shards").iterdir())}


def test_a_run_its_rows_and_its_resume(configure, photos, tmp_path):
    out, said = tmp_path / "out", []
    assert run_job(configure(), said.append) == 4
    assert "6 planned, 6 rows: 4 ok, 2 errors." in said
    assert any("empty.jpg" in line for line in said)
    assert list(stamps(out)) == [f"shard-{number:06d}.parquet" for number in range(3)]
    for path in (out / "shards").iterdir():
        assert pq.read_schema(path).equals(ROW_SCHEMA)

    frame = pd.read_parquet(str(out / "shards")).set_index("id")
    assert list(frame.index) == [
        "empty.jpg", "photo-0.jpg", "photo-1.jpg", "photo-2.jpg", "photo-3.jpg", "truncated.jpg",
    ]  # fmt: skip
    assert list(frame.status) == ["error", "ok", "ok", "ok", "ok", "error"]
    assert list(frame.error_type[["empty.jpg", "truncated.jpg"]]) == ["empty", "truncated"]
    assert set(frame.attempts) <= {1, 2}  # on a slow machine an idle actor may begin the last shard a second time
    assert set(frame.weights) == {"random:0"}
    good = frame[frame.status == "ok"]
    for name, row in good.iterrows():
        before = Image.open(photos / "inputs" / name)
        after = Image.open(BytesIO(row.image))
        assert after.size == before.size == (row.width, row.height)
        assert after.mode == "RGB"
        luma = np.asarray(after.convert("L"), float) - np.asarray(before, float)
        assert np.abs(luma).mean() < 2
    rows = duckdb.sql(
        f"select status, count(*), sum(octet_length(image)) from '{out}/shards/*.parquet' group by status order by 1"
    ).fetchall()
    assert rows == [("error", 2, None), ("ok", 4, int(good.image.map(len).sum()))]

    before = stamps(out)
    (out / "shards" / "shard-000001.parquet").unlink()
    assert run_job(configure(max_error_rate=0.5)) == 0
    after = stamps(out)
    assert {name for name in before if before[name] != after[name]} == {"shard-000001.parquet"}
    again = pd.read_parquet(str(out / "shards")).set_index("id")
    assert (again.image.dropna() == frame.image.dropna()).all()
    said.clear()
    assert run_job(configure(max_error_rate=0.5), said.append) == 0
    assert "Nothing was left to do." in said
    assert stamps(out) == after


def test_from_object_store_to_object_store(configure, photos, bucket):
    import fsspec

    store = fsspec.filesystem("s3")
    store.put(str(photos / "inputs"), f"{bucket}/photos", recursive=True)
    store.put(str(photos / "references"), f"{bucket}/references", recursive=True)
    config = configure(
        input=f"{bucket}/photos/photo-[01].jpg", reference=f"{bucket}/references", output=f"{bucket}/results/first"
    )
    assert run_job(config) == 0
    assert run_job(config) == 0
    names = sorted(name.removeprefix(f"{bucket[5:]}/results/first/") for name in store.find(f"{bucket}/results"))
    assert names == ["README.md", "plan.parquet", "run.json", "shards/shard-000000.parquet"]
    assert cli.main(["export", f"{bucket}/results/first", f"{bucket}/pictures"]) == 0
    made = sorted(name.removeprefix(f"{bucket[5:]}/pictures/") for name in store.find(f"{bucket}/pictures"))
    assert made == ["export.json", "manifest/part-000000.parquet", "photo-0.png", "photo-1.png"]
    frame = pd.read_parquet(f"{bucket}/results/first/shards/shard-000000.parquet")
    assert list(frame.image) == [store.cat_file(f"{bucket}/pictures/photo-{index}.png") for index in range(2)]
    assert list(frame.id) == ["photo-0.jpg", "photo-1.jpg"]
    assert list(frame.uri) == [f"{bucket}/photos/photo-{index}.jpg" for index in range(2)]


GPU_SCRIPT = """
import json, sys
import ray
from dmt_ray.cli import parse_options
from dmt_ray.pipeline.prepare import prepare_run, write_run
from dmt_ray.pipeline.dispatch import ShardStream
from dmt_ray.pipeline.no_progress import ProgressWatch
from dmt_ray.pipeline.sharing import share_exemplars, start_attempts

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
run = prepare_run(parse_options("colorize", sys.argv[1:]))
shared, pools, _ = share_exemplars(run, start_attempts())
write_run(run)
with ShardStream(run.todo.numbers, shared, pools, ProgressWatch(600)) as stream:
    actors = [pools.reconstruction.actors, pools.traversal.actors]
    names = ("gpus", "visible_gpus", "device", "worker")
    print(json.dumps([actors, [{name: getattr(each, name) for name in names} for each in stream]]))
"""


@pytest.mark.slow
def test_every_model_sits_on_the_gpu_that_ray_gave_its_actor(photos, tmp_path):
    """Ray believes in two GPUs: each actor sees exactly its own, also where CUDA itself is missing."""
    options = ["--input", photos / "inputs", "--reference", photos / "references", "--output", tmp_path / "out"]
    options += [
        "--size",
        64,
        "--weights",
        "random:0",
        "--iterations",
        2,
        "--neighbors",
        8,
        "--shard-size",
        1,
        "--no-lpips",
        "--allow-cpu-fallback",
    ]
    done = subprocess.run(
        [sys.executable, "-c", GPU_SCRIPT, *map(str, options)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    actors, summaries = json.loads(done.stdout.splitlines()[-1])
    assert actors == [2, 1]
    assert len(summaries) == 6
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    gpu_of = {}
    for summary in summaries:
        assert summary["gpus"] in ("0", "1")
        assert summary["visible_gpus"] == summary["gpus"]
        assert summary["device"] == device
        assert gpu_of.setdefault(summary["worker"], summary["gpus"]) == summary["gpus"]
        assert summary["worker"].endswith(f" gpu {summary['gpus']}")
    assert len(set(gpu_of.values())) == len(gpu_of)


@pytest.mark.parametrize("rows", [0, 4])
def test_of_results_that_are_not_there_nothing_is_said_to_have_flipped(configure, rows):
    """A run that ends before its first good row knows nothing of its inputs."""
    outcome = RunOutcome(judge=JudgeReport("alexnet", "a" * 64, 0.9, 5))
    said = "\n".join(closing_summary(prepare_run(configure()), VerifyReport(6, rows, min(rows, 3)), outcome, 3))
    assert ("Flipped: none, as the judge calls every input the target class already" in said) == bool(rows)
