"""An object store that fails now and then: bounded retries, and never half a file."""

from __future__ import annotations

import io

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, remote, retry

#: Requests that one operation may take at most, all layers together; aiohttp sends anew what a closed connection ate.
MOST_REQUESTS = retry.ATTEMPTS * remote._REQUEST_TRIES * 2


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def client(s3_server):
    return boto3.client("s3", endpoint_url=s3_server)


def put(client, bucket: str, name: str, data: bytes) -> str:
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key=name, Body=data)
    return f"{bucket}/{name}"


@pytest.mark.parametrize("kind", ["error-500", "slow-down", "drop-answer"])
def test_a_read_that_fails_twice_succeeds(kind, bucket, client, faulty_s3):
    uri = put(client, bucket, "photo.jpg", b"x" * 5000)
    fault = faulty_s3.inject(kind, times=2, method="GET", contains="photo.jpg")
    assert files.read_bytes(uri) == b"x" * 5000
    assert fault.done == 2


@pytest.mark.parametrize("kind", ["error-500", "slow-down", "drop-answer"])
def test_a_read_that_always_fails_ends_after_a_bounded_number_of_tries(kind, bucket, client, faulty_s3):
    uri = put(client, bucket, "photo.jpg", b"x" * 5000)
    fault = faulty_s3.inject(kind, method="GET", contains="photo.jpg")
    with pytest.raises(StorageError) as caught:
        files.read_bytes(uri)
    assert uri in str(caught.value)
    assert retry.ATTEMPTS <= fault.done <= MOST_REQUESTS


def test_what_is_missing_or_forbidden_is_asked_for_once(bucket, faulty_s3):
    faulty_s3.clear()
    with pytest.raises(StorageError, match="does not exist"):
        files.read_bytes(f"{bucket}/gone.jpg")
    assert faulty_s3.requests("GET") <= 1
    assert faulty_s3.requests() <= 3


@pytest.mark.parametrize("kind", ["error-500", "slow-down"])
def test_listing_and_asking_survive_two_failures(kind, bucket, client, faulty_s3):
    uri = put(client, bucket, "a/photo.jpg", b"x")
    for ask, answer in (
        (lambda: files.list_files(bucket), [uri]),
        (lambda: files.list_names(f"{bucket}/a"), {"photo.jpg"}),
        (lambda: files.exists(uri), True),
        (lambda: files.exists(f"{bucket}/a"), True),
        (lambda: files.delete(uri), None),
        (lambda: files.exists(uri), False),
    ):
        fault = faulty_s3.inject(kind, times=2)
        assert ask() == answer
        assert fault.done == 2


@pytest.mark.parametrize("kind", ["drop-upload", "error-500", "drop-answer"])
def test_a_write_that_fails_twice_succeeds(kind, bucket, faulty_s3):
    fault = faulty_s3.inject(kind, times=2, method="PUT")
    files.write_atomic(f"{bucket}/out/shard", b"y" * 300_000)
    assert fault.done == 2
    assert files.read_bytes(f"{bucket}/out/shard") == b"y" * 300_000


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_always_drops_leaves_what_was_there(old, bucket, client, faulty_s3):
    if old is not None:
        put(client, bucket, "out/shard", old)
    fault = faulty_s3.inject("drop-upload", method="PUT", contains="shard")
    with pytest.raises(StorageError):
        files.write_atomic(f"{bucket}/out/shard", b"y" * 300_000)
    assert retry.ATTEMPTS <= fault.done <= MOST_REQUESTS
    faulty_s3.clear()
    assert files.list_names(f"{bucket}/out") == ({"shard"} if old else set())
    if old:
        assert files.read_bytes(f"{bucket}/out/shard") == old


def test_an_upload_of_many_parts_is_visible_when_complete_or_not_at_all(bucket, client, faulty_s3):
    data = np.random.default_rng(0).bytes(101 * 2**20)  # s3fs cuts what is above 100 MiB into parts
    parts = faulty_s3.inject("drop-upload", method="PUT", contains="partNumber=2")
    with pytest.raises(StorageError):
        files.write_atomic(f"{bucket}/big", data)
    assert parts.done >= 1
    faulty_s3.clear()
    assert not files.exists(f"{bucket}/big")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
    faulty_s3.inject("drop-upload", method="PUT", contains="partNumber=2", times=1)
    files.write_atomic(f"{bucket}/big", data)
    assert files.read_bytes(f"{bucket}/big") == data


def test_parquet_is_read_in_parts_through_failures(bucket, client, faulty_s3):
    buffer = io.BytesIO()
    noise = [np.random.default_rng(index).bytes(20_000) for index in range(20)]
    pq.write_table(pa.table({"image": noise, "n": list(range(20))}), buffer, row_group_size=5)
    uri = put(client, bucket, "t.parquet", buffer.getvalue())
    faults = [faulty_s3.inject(kind, every=3, method="GET") for kind in ("error-500", "drop-answer")]
    with files.open_file(uri) as file:
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=4096)
        read = [cell for group in range(4) for cell in table.read_row_group(group)["image"].to_pylist()]
    assert read == noise
    assert all(fault.done for fault in faults)


def test_a_slow_answer_is_waited_for(bucket, client, faulty_s3):
    uri = put(client, bucket, "photo.jpg", b"x")
    faulty_s3.inject("delay", seconds=1.5, times=1, contains="photo.jpg")
    assert files.read_bytes(uri) == b"x"
    assert faulty_s3.requests("GET") == 1


def test_waits_grow_up_to_a_bound_and_differ(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 3.0)
    monkeypatch.setattr(retry.time, "sleep", waits.append)

    def fail() -> None:
        raise TimeoutError

    for _ in range(50):
        with pytest.raises(TimeoutError):
            retry.call(fail, str)
    assert len(waits) == 50 * (retry.ATTEMPTS - 1)
    for step, longest in enumerate((1.0, 2.0, 3.0, 3.0)):
        drawn = waits[step :: retry.ATTEMPTS - 1]
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def test_no_new_try_begins_when_it_took_too_long(monkeypatch):
    monkeypatch.setattr(retry, "GIVE_UP_S", 0.0)
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        retry.call(fail, str)
    assert len(calls) == 1


class FakeClientError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError("who knows"), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (caused(OSError("injected"), FakeClientError(500, "InternalError")), True),
        (caused(OSError("injected"), FakeClientError(503, "SlowDown")), True),
        (caused(OSError("injected"), FakeClientError(400, "RequestTimeout")), True),
        (caused(OSError("injected"), FakeClientError(400, "InvalidRequest")), False),
        (caused(OSError("injected"), FakeClientError(501, "NotImplemented")), False),
        (caused(PermissionError(), FakeClientError(403, "AccessDenied")), False),
        (caused(FileNotFoundError(), FakeClientError(503, "Busy")), True),
    ],
)
def test_which_errors_may_pass(error, expected):
    assert retry.may_pass(error) is expected


def test_a_users_own_client_settings_win(s3_server, monkeypatch):
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 7}})
    fs, _ = remote.find_file_system("s3://bucket/x")
    assert fs.config_kwargs["read_timeout"] == 7
    assert fs.config_kwargs["retries"]["total_max_attempts"] == remote._REQUEST_TRIES
