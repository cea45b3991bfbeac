"""What the chaos tests share: a dataset, an undisturbed run of it, and tools to disturb others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from material import photo
from PIL import Image

from dmt_ray.output.verify import verify_output

#: Figures that tell how a run went, and not what it made.
_HOW = ["attempts", "worker", "device", "seconds_read", "seconds_traverse", "seconds_reconstruct"]
#: Largest difference of a pixel, of 255, where an image was inverted alone and not beside others.
TOLERANCE = 3
#: Seconds to wait for what takes a few on an idle machine: a test fails for what it finds, not for a busy machine.
PATIENCE = 900


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ten photos, one of them empty and one truncated; the fourth lies behind ``crash://gate``."""
    folder = tmp_path_factory.mktemp("dataset")
    uris = []
    for index in range(10):
        path = folder / f"{index}.jpg"
        photo(200 + index, 72 + 8 * index, 64).convert("L").save(path)
        uris.append(str(path))
    Path(uris[2]).write_bytes(b"")
    Path(uris[6]).write_bytes(Path(uris[6]).read_bytes()[:600])
    uris[3] = f"crash://gate{uris[3]}"
    lines = ["id,uri", *(f"photo-{index},{uri}" for index, uri in enumerate(uris))]
    (folder / "inputs.csv").write_text("\n".join(lines) + "\n")
    return folder / "inputs.csv"


@pytest.fixture(scope="session")
def options(dataset: Path, photos: Path) -> dict[str, Any]:
    """The options of every run here, the undisturbed one included."""
    return {
        **{"input": str(dataset), "reference": str(photos / "references"), "size": 64, "weights": "random:0"},
        **{"iterations": 8, "neighbors": 8, "shard_size": 2, "batch_size": 2, "max_error_rate": 0.5},
        **{"allow_uri": "crash://"},
        **{"threads_per_actor": 1, "traversal_actors": 1, "reconstruction_actors": 1},
    }


@pytest.fixture(scope="session")
def undisturbed(options: dict[str, Any], local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of a run that nothing befell."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert subprocess.run(command_line(options, out), env=attached(), timeout=PATIENCE).returncode == 0
    return rows_of(out)


@pytest.fixture
def start(hooks: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start drivers as ``Popen`` does; with the test, those that still run end, and so do all hooks."""
    drivers: list[subprocess.Popen[bytes]] = []

    def begin(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        drivers.append(subprocess.Popen(command, **options))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()
        driver.wait()
    for path in hooks.iterdir():
        path.unlink()


@pytest.fixture
def same(undisturbed: pd.DataFrame) -> Callable[..., None]:
    """Assert that an output is whole and has just the rows of the undisturbed run."""

    def check(out: Path, isolated: int = 0, hidden: int = 0) -> pd.DataFrame:
        report = verify_output(str(out), deep=True)
        assert report.complete, report.sentences()
        found = rows_of(out)
        told = undisturbed.columns.difference([*_HOW, "image", "image_sha256"])
        if not isolated:
            pd.testing.assert_frame_equal(found[told], undisturbed[told])
            assert found.image_sha256.equals(undisturbed.image_sha256)
        assert list(found.index) == list(undisturbed.index)
        assert list(found.status) == list(undisturbed.status)
        good = found.index[found.status == "ok"]
        other = [id_ for id_ in good if found.image_sha256[id_] != undisturbed.image_sha256[id_]]
        assert len(other) <= isolated
        for id_ in other:
            assert np.abs(pixels(found.image[id_]) - pixels(undisturbed.image[id_])).max() <= TOLERANCE
        assert len(list(Path(out, "shards").glob(".tmp-*"))) <= hidden  # what killed writers leave
        return found

    return check


def command_line(options: dict[str, Any], out: Path, *more: object) -> list[str]:
    """The command that runs the job as a process of its own."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    parts = [part for name, value in named.items() for part in (f"--{name}", value)]
    words = [sys.executable, "-m", "dmt_ray.cli", "colorize", *parts, "--no-lpips", "--output", out, *more]
    return [str(word) for word in words]


def attached() -> dict[str, str]:
    """The environment of a driver that uses the session's Ray."""
    import ray

    return {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def rows_of(out: Path) -> pd.DataFrame:
    """All rows of an output, in order."""
    return pd.read_parquet(str(out / "shards")).set_index("id")


def pixels(image: bytes) -> np.ndarray:
    """A picture's pixels."""
    return np.asarray(Image.open(BytesIO(image)), np.int16)


def shard_files(out: Path) -> dict[str, int]:
    """The committed shards and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(out, "shards").glob("shard-*"))}


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


def kill_actor(kind: str, hooks: Path) -> list[int]:
    """SIGKILL the actors of a kind that this session's Ray runs, and no one else's; return their process ids."""
    killed = []
    mark = f"DMT_RAY_TEST_HOOKS={hooks}".encode()
    for process in Path("/proc").iterdir():
        try:
            if kind.encode() in (process / "cmdline").read_bytes() and mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
        except (OSError, ValueError):
            continue
    return killed
