"""The whole run on an object store that fails: bounded retries, then an error row or a retry; no secret leaks."""

from __future__ import annotations

import logging
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import ray
from faulty_s3 import SECRET

from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.run import run_job
from dmt_ray.storage.files import remote, retry

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(900)]

#: Requests that a write takes before it is given up, so that its shard is tried again.
WRITE_REQUESTS = retry.ATTEMPTS * remote._REQUEST_TRIES


@pytest.fixture
def store(photos, bucket):
    """The store's file system; the photos lie in the bucket."""
    store = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    store.put(str(photos / "inputs"), f"{bucket}/photos", recursive=True)
    store.put(str(photos / "references"), f"{bucket}/references", recursive=True)
    return store


@pytest.fixture
def pickled(monkeypatch):
    """Whether the secret was in it, for everything that this process pickled for Ray."""
    dumps, seen = ray.cloudpickle.dumps, []

    def kill_after(value, *args, **kwargs):
        data = dumps(value, *args, **kwargs)
        seen.append(SECRET.encode() in data)
        return data

    monkeypatch.setattr(ray.cloudpickle, "dumps", kill_after)
    return seen


def rows_at(store, out: str) -> pd.DataFrame:
    """All rows of an output in the store, in order."""
    parts = [pd.read_parquet(f"s3://{path}") for path in sorted(store.glob(f"{out}/shards/*.parquet"))]
    return pd.concat(parts).set_index("id")


def files_with_the_secret(folder: Path) -> list[str]:
    """The regular files below a folder that the secret is in."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(paths) > 5
    return [str(path) for path in paths if SECRET.encode() in path.read_bytes()]


def test_a_store_that_fails_costs_what_cannot_be_read_and_nothing_else(
    configure, store, bucket, faulty_s3, pickled, caplog, capfd
):
    """One photo can never be read; a shard's upload fails until its writer gives up; all else fails now and then.

    Wherever it went wrong, the secret that each process has in its environment is in nothing that the run leaves.
    """
    caplog.set_level(logging.DEBUG)
    lost = faulty_s3.inject("error-500", method="GET", contains="photos/photo-2.jpg")
    refused = faulty_s3.inject("error-500", method="PUT", contains="shard-000001", times=WRITE_REQUESTS)
    now_and_then = [
        faulty_s3.inject("drop-answer", method="GET", contains="photos/", every=4),
        faulty_s3.inject("slow-down", method="GET", contains="photos/", every=5),
        faulty_s3.inject("drop-upload", method="PUT", contains="shards/", every=2),
        faulty_s3.inject("delay", every=6, seconds=0.3),
    ]
    out, said = f"{bucket}/out", []
    code = run_job(configure(input=f"{bucket}/photos", reference=f"{bucket}/references", output=out), said.append)
    assert code == 4  # three of six rows are errors
    assert retry.ATTEMPTS <= lost.done <= retry.ATTEMPTS * remote._REQUEST_TRIES * 2
    assert refused.done == WRITE_REQUESTS
    assert all(fault.done for fault in now_and_then)
    faulty_s3.clear()
    report = verify_output(out, deep=True)
    assert report.complete, report.sentences()
    rows = rows_at(store, out)
    assert rows.error_type.dropna().to_dict() == {
        "empty.jpg": "empty", "photo-2.jpg": "storage", "truncated.jpg": "truncated",
    }  # fmt: skip
    assert f"{bucket}/photos/photo-2.jpg" in rows.error["photo-2.jpg"]
    assert rows.attempts["photo-1.jpg"] >= 2  # in the shard that was written again

    assert len(pickled) > 10
    assert not any(pickled)
    captured = capfd.readouterr()
    for text in (caplog.text, captured.out, captured.err, *said):
        assert SECRET not in text
    made = store.find(out)
    assert {"run.json", "plan.parquet"} < {path.rpartition("/")[2] for path in made}
    assert not [path for path in made if SECRET.encode() in store.cat_file(path)]
    assert SECRET not in rows.to_string()
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert files_with_the_secret(session) == []
