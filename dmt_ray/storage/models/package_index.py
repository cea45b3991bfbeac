"""Downloads one file of a Python package from the user's package index, and runs nothing of it.

Where that index is, pip's configuration says. ``pip download`` itself is no help: it builds a source package to learn
its name, which runs the package's code and that of whatever build tools it asks for.
"""

from __future__ import annotations

import ast
import hashlib
import html.parser
import json
import logging
import os
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import requests.adapters
import urllib3

from dmt_ray.errors import SettingsError
from dmt_ray.masking import masked
from dmt_ray.storage.disk_space import FULL_DISK

logger = logging.getLogger(__name__)

_DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_TIMEOUT_S = (10.0, 60.0)
_PIP_TIMEOUT_S = 60.0
_PAGE_BYTES = 64 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True)
class PackageFile:
    """A file of a package, known by its hash: it may come from anywhere."""

    package: str
    """The package's normalised name."""
    name: str
    sha256: str
    size: int
    """In bytes."""


@dataclass(frozen=True)
class IndexSettings:
    """Where pip looks for packages, and how it gets there."""

    indexes: tuple[str, ...] = (_DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    """Local folders, and pages of links."""
    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    trusted_hosts: frozenset[str] = field(default_factory=frozenset)


def fetch_file(wanted: PackageFile, folder: Path) -> Path:
    """Download a file of a package into a folder, from the first place that has it.

    Raises:
        SettingsError: no place has it, or what came has another hash; says what each said.
    """
    settings = read_settings(folder)
    failures = []
    with requests.Session() as session:
        session.verify = settings.certificates or True
        session.cert = settings.client_certificate
        if settings.proxy:
            session.proxies = {"http": settings.proxy, "https": settings.proxy}
        retry = urllib3.Retry(3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        session.mount("http://", _Adapter(max_retries=retry))
        session.mount("https://", _Adapter(max_retries=retry))
        for host in settings.trusted_hosts:
            session.mount(f"https://{host}/", _Unverified(max_retries=retry))
        places = [*settings.find_links, *(f"{index.rstrip('/')}/{wanted.package}/" for index in settings.indexes)]
        for place in places:
            try:
                return _download(session, _find(session, place, wanted.name), wanted, folder / wanted.name)
            except (OSError, ValueError, LookupError) as error:  # requests' errors are OSErrors
                if isinstance(error, OSError) and error.errno in FULL_DISK:
                    raise
                failures.append(f"{masked(place)}: {' '.join(masked(str(error)).split())[:200]}")
    raise SettingsError(f"no {wanted.name} was found ({'; '.join(failures) or 'pip is told to look nowhere'})")


def read_settings(folder: Path) -> IndexSettings:
    """Return what pip's configuration files and environment variables say.

    Parameters:
        folder: an empty folder to run pip in, so that it imports nothing that lies about.
    """
    known = _pip_configuration(folder)
    if known.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        indexes: list[str] = []
    else:
        indexes = [known.get("index-url") or _DEFAULT_INDEX, *known.get("extra-index-url", "").split()]
    return IndexSettings(
        indexes=tuple(indexes),
        find_links=tuple(known.get("find-links", "").split()),
        certificates=known.get("cert") or None,
        client_certificate=known.get("client-cert") or None,
        proxy=known.get("proxy") or None,
        trusted_hosts=frozenset(known.get("trusted-host", "").split()),
    )


class _Adapter(requests.adapters.HTTPAdapter):
    """Trusts the certificates of this machine beside those that come with requests, as pip does."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=ssl.create_default_context(), **options)


class _Unverified(requests.adapters.HTTPAdapter):
    """For hosts whose certificate the user told pip not to check; the file's hash is checked all the same."""

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, False, cert)


def _pip_configuration(folder: Path) -> dict[str, str]:
    """Return pip's options for ``pip download``; those of the environment win, and suffice where there is no pip."""
    found = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
    }
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("pip does not tell its configuration (%s).", type(error).__name__)
        return found
    sections: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        try:
            sections.setdefault(section, {})[name] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
    return {**sections.get("global", {}), **sections.get("download", {}), **found}


def _find(session: requests.Session, place: str, name: str) -> str:
    """Return the URL of a file that a page of links, or a local folder, has.

    Raises:
        LookupError: it has none of that name.
        OSError: the page cannot be read.
        ValueError: the page is no such page.
    """
    path = _local_path(place)
    if path is not None:
        if path.is_dir() and (path / name).is_file():
            return (path / name).as_uri()
        page = path / "index.html" if path.is_dir() else path
        if not page.is_file():
            raise LookupError("has no such file")
        links = dict(_links(page.read_text("utf-8", "replace"), page.as_uri()))
    else:
        with session.get(place, headers={"Accept": _ACCEPT}, timeout=_TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()
            text = b"".join(_limited(answer.iter_content(_BLOCK), _PAGE_BYTES))
            if "json" in answer.headers.get("Content-Type", ""):
                listed = json.loads(text)["files"]
                links = {each["filename"]: urllib.parse.urljoin(answer.url, each["url"]) for each in listed}
            else:
                links = dict(_links(text.decode("utf-8", "replace"), answer.url))
    if name not in links or (path is None and _local_path(links[name]) is not None):
        raise LookupError("has no such file")
    return links[name]


def _links(page: str, base: str) -> Iterator[tuple[str, str]]:
    """Yield the names and URLs of the files that an HTML page links to."""
    found: list[str] = []

    class Anchors(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            target = dict(attributes).get("href")
            if tag == "a" and target:
                found.append(target)

    Anchors().feed(page)
    for target in found:
        url = urllib.parse.urldefrag(urllib.parse.urljoin(base, target))[0]
        yield urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2]), url


def _download(session: requests.Session, url: str, wanted: PackageFile, target: Path) -> Path:
    path = _local_path(url)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        if path is not None:
            with path.open("rb") as source:
                blocks: Iterator[bytes] = iter(lambda: source.read(_BLOCK), b"")
                _copy(_limited(blocks, wanted.size), file.write, digest)
        else:
            with session.get(url, timeout=_TIMEOUT_S, stream=True) as answer:
                answer.raise_for_status()
                _copy(_limited(answer.iter_content(_BLOCK), wanted.size), file.write, digest)
    if digest.hexdigest() != wanted.sha256:
        raise ValueError(
            f"{wanted.name} has the wrong checksum ({digest.hexdigest()[:16]}, not {wanted.sha256[:16]})"
        )
    return target


def _copy(blocks: Iterator[bytes], write: Callable[[bytes], object], digest: hashlib._Hash) -> None:
    for block in blocks:
        digest.update(block)
        write(block)


def _limited(blocks: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Yield the blocks, as long as they are not more bytes than expected."""
    count = 0
    for block in blocks:
        count += len(block)
        if count > most:
            raise ValueError(f"sends more than {most} bytes")
        yield block


def _local_path(place: str) -> Path | None:
    """Return the path of a place on this machine; None for one on a server."""
    scheme = urllib.parse.urlsplit(place).scheme.lower()
    if scheme == "file":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path))
    return None if scheme in ("http", "https") else Path(place).expanduser()
