"""What the whole test session shares: small photos, one local Ray, one S3 server on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: The tests' pictures are small: a second torch or BLAS thread gains little, and on a busy machine the threads spend
#: many times more waiting for each other. Set before torch loads; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from faulty_s3 import SECRET, FaultyS3
from material import ARTIST, chaos_environment, photo
from PIL import Image

from dmt_ray.config import ComputeConfig, InputConfig, OutputConfig, RunConfig
from dmt_ray.jobs.colorize import ColorizeConfig, ReferenceConfig
from dmt_ray.method.settings import InversionConfig, ModelConfig, TraversalConfig


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[FaultyS3]:
    """Start a real S3 server (moto) behind a proxy that can fail, and point every S3 client of this process at it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = FaultyS3(f"http://{host}:{port}")
    proxy.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        yield proxy
    proxy.stop()
    server.stop()


@pytest.fixture(scope="session")
def s3_server(s3_proxy: FaultyS3) -> str:
    """The URL of the S3 server."""
    return s3_proxy.url


@pytest.fixture
def faulty_s3(s3_proxy: FaultyS3) -> Iterator[FaultyS3]:
    """The S3 server's proxy, to inject faults; they end with the test. Processes started by it are befallen too."""
    s3_proxy.clear()
    yield s3_proxy
    s3_proxy.clear()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A fresh bucket as ``s3://name``."""
    import boto3

    name = f"photos-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests lay out what is to befall the workers of ``local_ray``, see ``data/crashfs``; also their mark."""
    return tmp_path_factory.mktemp("hooks")


@pytest.fixture(scope="session")
def local_ray(s3_server: str, hooks: Path) -> Iterator[None]:
    """One Ray with two CPUs for the session; its workers inherit the S3 server and can import the crashing driver."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in chaos_environment(hooks).items():
            patch.setenv(name, value)
        patch.setenv("RAY_gcs_server_port_wait_time_s", "120")  # it starts beside other tests; joins must not see it
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``inputs``: four grey photos, all but the first with an artist, an empty one and a truncated one.

    ``references``: five colour photos.
    """
    folder = tmp_path_factory.mktemp("photos")
    for name in ("inputs", "references"):
        (folder / name).mkdir()
    for index in range(5):
        photo(index).save(folder / "references" / f"{index}.png")
    for index in range(4):
        exif = Image.Exif()
        exif[ARTIST] = f"Artist {index}"
        image = photo(100 + index, 80 + 8 * index, 64).convert("L")
        image.save(folder / "inputs" / f"photo-{index}.jpg", exif=exif if index else b"")
    (folder / "inputs" / "empty.jpg").write_bytes(b"")
    whole = (folder / "inputs" / "photo-0.jpg").read_bytes()
    (folder / "inputs" / "truncated.jpg").write_bytes(whole[: len(whole) * 4 // 5])
    return folder


@pytest.fixture
def configure(photos: Path, tmp_path: Path) -> Callable[..., ColorizeConfig]:
    """Make a small config; keyword arguments are option names of any section."""

    def make(**options: object) -> ColorizeConfig:
        values: dict[str, object] = {
            "input": str(photos / "inputs"),
            "reference": str(photos / "references"),
            "output": str(tmp_path / "out"),
            "size": 64,
            "weights": "random:0",
            "iterations": 2,
            "neighbors": 8,
            "shard_size": 2,
            "batch_size": 2,
            "threads_per_actor": 1,
            "progress": False,
            "lpips": False,
        } | options
        if isinstance(values.get("strength"), float | int):
            values["strength"] = (float(values["strength"]),)  # type: ignore[arg-type]
        sections = {
            "inputs": InputConfig,
            "references": ReferenceConfig,
            "model": ModelConfig,
            "traversal": TraversalConfig,
            "inversion": InversionConfig,
            "output": OutputConfig,
            "run": RunConfig,
            "compute": ComputeConfig,
        }
        made = {}
        for section, kind in sections.items():
            names = set(kind.__dataclass_fields__) & set(values)
            made[section] = kind(**{name: values.pop(name) for name in names})
        assert not values, f"unknown options {sorted(values)}"
        return ColorizeConfig(**made)

    return make
