"""A proxy before a real S3 server that lets everything through, except for the faults that a test asks for."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

#: The secret key of every S3 client here: what must be found nowhere.
SECRET = "sentinel-7Qm2xV9cKp4LsT8wZ3"

#: error-500: InternalError. slow-down: 503 SlowDown. delay: late, but right.
#: drop-answer: the connection ends in the middle of the answer's body, or before the answer where it has none.
#: drop-upload: it ends in the middle of the request's body, which never reaches the server.
Kind = Literal["error-500", "slow-down", "drop-answer", "drop-upload", "delay"]

_CODES = {"error-500": (500, "InternalError"), "slow-down": (503, "SlowDown")}
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "expect"}


@dataclass
class Fault:
    """One rule: the first one that fits a request befalls it."""

    kind: Kind
    times: int | None = None
    """How many requests it befalls; None: all that fit."""
    every: int = 1
    """Only each so-many-th request that fits, beginning with that number."""
    method: str | None = None
    contains: str = ""
    """A part of the request's path and query."""
    seconds: float = 0.0
    """For ``delay``."""
    seen: int = 0
    done: int = 0

    def befalls(self, method: str, path: str) -> bool:
        if (self.method not in (None, method)) or self.contains not in path:
            return False
        if self.times is not None and self.done >= self.times:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.done += 1
        return True


@dataclass
class FaultyS3:
    """The running proxy: ``url`` is where clients go, ``counts`` what came of their requests."""

    server_url: str
    """The real server."""
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by method and fate: a fault's kind, or ``passed``."""

    def start(self) -> None:
        """Listen on a free port of the loopback."""
        target = urlsplit(self.server_url)
        assert target.hostname is not None
        assert target.port is not None
        handler = type("Handler", (_Handler,), {"proxy": self, "target": (target.hostname, target.port)})
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def inject(self, kind: Kind, **rule: Any) -> Fault:
        """Add a rule (see ``Fault``) and return it: its ``done`` counts what it did."""
        fault = Fault(kind, **rule)
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """Let everything through again and count from zero."""
        with self._lock:
            self.faults.clear()
            self.counts.clear()

    def requests(self, method: str | None = None) -> int:
        """Return how many requests came, those that a fault befell included."""
        with self._lock:
            return sum(count for (name, _), count in self.counts.items() if method in (None, name))

    def fate(self, method: str, path: str) -> Fault | None:
        """Choose and count what happens to a request."""
        with self._lock:
            fault = next((fault for fault in self.faults if fault.befalls(method, path)), None)
            self.counts[method, "passed" if fault is None else fault.kind] += 1
            return fault


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyS3
    target: tuple[str, int]

    def _handle(self) -> None:
        fault = self.proxy.fate(self.command, self.path)
        kind = fault.kind if fault else None
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        body = self._read_body(cut=kind == "drop-upload")
        if kind == "drop-upload":
            self._hang_up()
            return
        if kind in _CODES:
            status, code = _CODES[kind]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self._answer(status, {"Content-Type": "application/xml"}, text)
            return
        upstream = http.client.HTTPConnection(*self.target, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            upstream.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        self._answer(answer.status, dict(answer.getheaders()), data, cut=kind == "drop-answer")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _read_body(self, *, cut: bool) -> bytes:
        """Read the request's body; with ``cut`` only about half of it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if cut:
                    break
            else:
                while self.rfile.readline().strip():
                    pass
            return b"".join(parts)
        length = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(length // 2 if cut else length)

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
        if cut and not data:  # no body to cut, so the whole answer is lost
            self._hang_up()
            return
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
