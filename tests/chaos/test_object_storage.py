"""A whole run on an object store that fails, drops and dawdles, killed on the way; secrets stay where they are."""

import io
import subprocess
import sys
from pathlib import Path

import boto3
import pandas as pd
import pytest
from faulty_s3 import SECRET
from material import but_for_the_run, photo

from chaos.conftest import PATIENCE, attached, rows_of, until
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def command(python, inputs, references, out):
    words = [python, "-m", "dmt_ray.cli", "colorize", "--input", inputs, "--reference", references, "--output", out]
    words += ["--size", 64, "--weights", "random:0", "--iterations", 5, "--neighbors", 8, "--shard-size", 2]
    words += ["--batch-size", 2, "--max-error-rate", 0.5, "--threads-per-actor", 1, "--no-lpips"]
    return [str(word) for word in words]


def test_a_killed_run_on_a_faulty_store_ends_as_one_on_a_disk(bucket, faulty_s3, s3_server, photos, start, tmp_path):
    import ray

    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for index in range(8):
        photo(300 + index, 72 + 4 * index, 64).convert("L").save(inputs / f"photo-{index}.jpg")
    (inputs / "broken.jpg").write_bytes((inputs / "photo-0.jpg").read_bytes()[:500])
    (inputs / "zz-never.jpg").write_bytes((inputs / "photo-0.jpg").read_bytes())
    client = boto3.client("s3", endpoint_url=s3_server)
    name = bucket.removeprefix("s3://")
    for folder, prefix in ((inputs, "in"), (photos / "references", "references")):
        for path in folder.iterdir():
            client.put_object(Bucket=name, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    local = command(sys.executable, inputs, photos / "references", tmp_path / "out")
    assert subprocess.run(local, env=attached(), timeout=PATIENCE).returncode == 0
    expected = rows_of(tmp_path / "out")

    never = faulty_s3.inject("error-500", method="GET", contains="zz-never.jpg")
    faulty_s3.inject("drop-upload", method="PUT", contains="/shards/", times=2)
    faulty_s3.inject("error-500", every=7)
    faulty_s3.inject("drop-answer", method="GET", every=9)
    faulty_s3.inject("slow-down", every=11)
    faulty_s3.inject("delay", every=5, seconds=0.3)

    def shards() -> dict[str, bytes]:
        listed = client.list_objects_v2(Bucket=name, Prefix="out/shards/").get("Contents", [])
        return {one["Key"]: one["ETag"] for one in listed}

    remote = command(sys.executable, f"{bucket}/in", f"{bucket}/references", f"{bucket}/out")
    said = tmp_path / "said.txt"
    with said.open("wb") as log:
        driver = start(remote, env=attached(), stdout=log, stderr=log)
        until(shards, "a shard on the store")
        driver.kill()
        driver.wait()
        kept = shards()
        done = subprocess.run(remote, env=attached(), stdout=log, stderr=log, timeout=PATIENCE)
    assert done.returncode == 0, said.read_text()
    assert kept.items() <= shards().items()
    faulty_s3.clear()
    assert never.done > 1
    assert verify_output(f"{bucket}/out", deep=True).complete
    found = pd.concat(
        [
            pd.read_parquet(io.BytesIO(client.get_object(Bucket=name, Key=key)["Body"].read()))
            for key in sorted(shards())
        ]
    ).set_index("id")
    assert list(found.index) == list(expected.index)
    assert found.error_type["zz-never.jpg"] == "storage"
    others = expected.index.drop("zz-never.jpg")
    assert found.status[others].equals(expected.status[others])
    assert but_for_the_run(found.image[others]) == but_for_the_run(expected.image[others])

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    places = [said, *(path for path in session.rglob("*") if path.is_file())]
    assert len(places) > 5
    assert [str(path) for path in places if SECRET.encode() in path.read_bytes()] == []
    keys = [one["Key"] for one in client.list_objects_v2(Bucket=name, Prefix="out/")["Contents"]]
    assert "out/run.json" in keys
    assert [key for key in keys if SECRET.encode() in client.get_object(Bucket=name, Key=key)["Body"].read()] == []
