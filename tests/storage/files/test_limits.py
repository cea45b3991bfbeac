"""A limit on bytes holds while a file is read, and what is no regular file is refused at once."""

from __future__ import annotations

import gzip
import http.server
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, TooLargeError
from dmt_ray.storage.inputs.registry import open_listing

LIMIT = 100_000
#: What a lying server sends: so much that it would show in this process's memory.
ENDLESS = 400_000_000


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by the path: with a size that is missing, wrong or right, and bodies of the same first bytes."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self):
        self.send_response(200)
        if self.path != "/no-size":
            self.send_header("Content-Length", "10")
        self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Connection", "close")
        if self.path == "/packed":
            body = gzip.compress(bytes(ENDLESS // 4), 9)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        size = int(self.path.partition("=")[2] or ENDLESS)
        try:
            for start in range(0, size, 2**20):
                self.wfile.write(b"x" * min(2**20, size - start))
        except OSError:  # nobody reads any more
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[str]:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["no-size", "wrong-size", "packed"])
def test_a_server_that_sends_more_than_it_says_is_cut_off(server, path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLargeError, match=f"the limit is {LIMIT}"):
        files.read_bytes(f"{server}/{path}", max_bytes=LIMIT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_what_fits_comes_whole(server):
    for size in (1, LIMIT):
        assert files.read_bytes(f"{server}/no-size?n={size}", max_bytes=LIMIT) == b"x" * size
    with pytest.raises(TooLargeError):
        files.read_bytes(f"{server}/no-size?n={LIMIT + 1}", max_bytes=LIMIT)


def test_a_limit_costs_one_request_on_each_store(folder):
    for data in (b"", b"a", b"abc"):
        uri = files.join(folder, f"{len(data)}.bin")
        files.write_atomic(uri, data)
        assert files.read_bytes(uri, max_bytes=3) == data
    files.write_atomic(files.join(folder, "4.bin"), b"abcd")
    with pytest.raises(TooLargeError, match="has 4 bytes, and the limit is 3"):
        files.read_bytes(files.join(folder, "4.bin"), max_bytes=3)


def odd_files(folder: Path) -> dict[str, str]:
    """Names of things that are no regular files, and what they are called."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(folder / "socket.jpg"))  # the name of a socket must be short
    listener.close()
    return {"pipe.jpg": "is a named pipe", "zero.jpg": "is a device", "socket.jpg": "is a socket"}


@pytest.mark.timeout(60)
def test_pipes_devices_and_sockets_are_refused_and_not_waited_for(tmp_path):
    for name, reason in odd_files(tmp_path).items():
        place = str(tmp_path / name)
        with pytest.raises(StorageError, match=f"{name}: {reason}, not a file"):
            files.read_bytes(place)
        with pytest.raises(StorageError, match=reason):
            files.read_bytes(place, max_bytes=10, identity="size=0 mtime_ns=0")
        with pytest.raises(StorageError, match=reason), files.open_file(place):
            pass
        with pytest.raises(StorageError, match=reason):
            files.fetch(place, tmp_path / "copy")
    with pytest.raises(StorageError, match="is a folder"):
        files.read_bytes(str(tmp_path))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet", "tar"])
def test_so_are_they_as_lists_tables_and_archives(tmp_path, suffix):
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    with pytest.raises(SettingsError, match="is a named pipe"):
        list(open_listing(str(tmp_path / f"pipe.{suffix}")))
