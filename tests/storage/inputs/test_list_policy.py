"""What lists and tables name is read only where they may lead: real servers on loopback, redirects among them."""

from __future__ import annotations

import http.server
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, guarded_http, policy
from dmt_ray.storage.inputs.exemplar_tables import list_exemplars
from dmt_ray.storage.inputs.listing import FOUND, INSIDE, NAMED_AFAR, NAMED_HERE
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import list_inputs

#: Ways to write one address of this machine.
LOOPBACK = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "0.0.0.0",
    "[::ffff:127.0.0.1]",
]

policy_is_public = policy.is_public


@dataclass
class Site:
    """A web server, what it has under each path, and the paths that were asked for."""

    address: str
    pages: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def start(self) -> http.server.ThreadingHTTPServer:
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append(self.path)
                body = site.pages.get(self.path, b"")
                self.send_response(302 if self.path in site.redirects else 200 if self.path in site.pages else 404)
                if self.path in site.redirects:
                    self.send_header("Location", site.redirects[self.path])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((self.address, 0), Handler)
        self.port = server.server_address[1]
        self.url = f"http://{self.address}:{self.port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    """Two servers, both with /a.jpg; on the first one ``/redirect.jpg`` leads to the other's."""
    found = Site("127.0.0.1"), Site("127.0.0.2")
    servers = [site.start() for site in found]
    for site in found:
        site.pages["/a.jpg"] = b"picture"
    found[0].redirects["/redirect.jpg"] = f"{found[1].url}/a.jpg"
    found[1].redirects["/redirect.jpg"] = f"{found[0].url}/a.jpg"
    yield found
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(place: str, **options: object) -> list[str]:
    """Return why each item of a place is refused; "" where it is read."""
    reasons = []
    with InputReader(**options) as reader:
        for item in list_inputs(place):
            try:
                reasons.append("" if reader.read_item(item) == b"picture" else "another file")
            except ImageError as error:
                reasons.append(f"{error.kind}: {error}")
    return reasons


def test_what_the_user_names_is_read_and_what_a_list_names_is_not(sites, tmp_path):
    inner, _ = sites
    with InputReader() as reader:
        assert reader.read_item(list_inputs(f"{inner.url}/a.jpg")[0]) == b"picture"
    inner.asked.clear()
    (tmp_path / "list.txt").write_text("".join(f"http://{host}:{inner.port}/a.jpg\n" for host in LOOPBACK))
    reasons = refused(str(tmp_path / "list.txt"), max_bytes=100)
    assert inner.asked == []
    assert [reason for reason in reasons if "no list or table may lead to a loopback" not in reason] == []
    assert "--allow-uri http://127.0.0.1:" in reasons[0]
    (tmp_path / "list.txt").write_text(
        "http://169.254.169.254/latest/meta-data/\nhttp://[::1]:9/x\nhttp://10.0.0.1/\n"
    )
    assert [reason.partition(":")[0] for reason in refused(str(tmp_path / "list.txt"))] == ["refused"] * 3


def test_an_allowed_server_is_read_and_its_redirects_are_held_to_the_policy_too(sites, tmp_path):
    inner, other = sites
    (tmp_path / "list.txt").write_text(f"{inner.url}/a.jpg\n{inner.url}/redirect.jpg\n")
    reasons = refused(str(tmp_path / "list.txt"), allowed=[f"{inner.url}/"])
    assert reasons[0] == ""
    assert f"--allow-uri {other.url}/ " in reasons[1]
    assert other.asked == []
    assert refused(str(tmp_path / "list.txt"), allowed=[f"{inner.url}/", f"{other.url}/a.jpg"]) == ["", ""]


def test_a_redirect_from_a_public_server_leads_to_no_private_one(sites, tmp_path, monkeypatch):
    inner, outer = sites
    for module in (policy, guarded_http):  # one address of this machine plays the internet
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.2" or policy_is_public(address))
    (tmp_path / "list.txt").write_text(f"{outer.url}/a.jpg\n{outer.url}/redirect.jpg\n")
    read, redirected = refused(str(tmp_path / "list.txt"), max_bytes=100)
    assert (read, "127.0.0.1" in redirected) == ("", True)
    assert inner.asked == []


def test_an_open_connection_of_an_allowed_path_serves_no_other_path(sites, tmp_path):
    inner, _ = sites
    inner.pages["/photos/a.jpg"] = b"picture"
    (tmp_path / "list.txt").write_text(f"{inner.url}/photos/a.jpg\n{inner.url}/a.jpg\n")
    reasons = refused(str(tmp_path / "list.txt"), allowed=[f"{inner.url}/photos"])
    assert [bool(reason) for reason in reasons] == [False, True]
    assert "/a.jpg" not in inner.asked


def test_a_remote_list_or_table_names_no_local_file(tmp_path, sites):
    (tmp_path / "a.jpg").write_bytes(b"picture")
    place = f"memory://{uuid.uuid4().hex}"
    files.write_atomic(f"{place}/b.jpg", b"picture")
    named = [str(tmp_path / "a.jpg"), f"file://{tmp_path}/a.jpg", "b.jpg"]
    files.write_atomic(f"{place}/list.txt", "\n".join(named).encode())
    files.write_atomic(f"{place}/table.csv", "\n".join(["uri", *named]).encode())
    image = pa.array(
        [{"bytes": None, "path": name} for name in named], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": image}), sink)
    files.write_atomic(f"{place}/table.parquet", sink.getvalue().to_pybytes())
    for table in ("list.txt", "table.csv", "table.parquet"):
        reasons = refused(f"{place}/{table}")
        assert [bool(reason) for reason in reasons] == [True, True, False]
        assert all(reason.startswith("refused: ") and "is a file on this machine" in reason for reason in reasons[:2])
        assert refused(f"{place}/{table}", allowed=[str(tmp_path)]) == ["", "", ""]
    assert {item.identity for item in list_inputs(f"{place}/list.txt")} == {None}
    # The same words on this machine are allowed.
    (tmp_path / "list.txt").write_text("\n".join(named[:2]))
    assert refused(str(tmp_path / "list.txt")) == ["", ""]
    # A list on a web server is as remote as one in a store.
    sites[0].pages["/list.txt"] = named[0].encode()
    assert "is a file on this machine" in refused(f"{sites[0].url}/list.txt")[0]


def test_a_place_inside_of_a_table_is_named_by_no_list(tmp_path):
    (tmp_path / "secret.csv").write_text("user,password\nroot,hunter2\n")
    (tmp_path / "secret.tar").write_bytes(b"hunter2" + bytes(1024))
    wanted = [
        f"{tmp_path}/secret.csv#row=0&column=password",
        f"{tmp_path}/secret.tar#offset=0&size=7&member=jpg",
        f"{tmp_path}/secret.tar#sample=0-512&key=x",
    ]
    (tmp_path / "list.txt").write_text("\n".join(wanted))
    (tmp_path / "table.csv").write_text("\n".join(["uri", *wanted]))
    for place in ("list.txt", "table.csv"):
        items = list_inputs(str(tmp_path / place))
        assert {item.origin for item in items} == {NAMED_HERE}
        for item in items:
            with InputReader() as reader, pytest.raises(StorageError, match="does not exist") as caught:
                reader.read_item(item)
            assert "hunter2" not in str(caught.value)


def test_a_file_whose_name_looks_like_a_place_inside_is_that_file(tmp_path):
    (tmp_path / "t.csv#row=0&column=x.jpg").write_bytes(b"picture")
    (tmp_path / "t.csv").write_text("x.jpg\nhunter2\n")
    place = f"memory://{uuid.uuid4().hex}"
    files.write_atomic(f"{place}/t.csv#row=0&column=x.jpg", b"picture")
    for folder in (str(tmp_path), place):
        assert refused(f"{folder}/*.jpg") == [""]
    (tmp_path / "t.csv#row=0&column=x.csv").write_text("uri\na.jpg\n")
    with pytest.raises(SettingsError, match="rename it"):
        list_inputs(str(tmp_path / "*.csv"))


def test_a_listing_says_where_each_uri_comes_from(tmp_path):
    pq.write_table(pa.table({"image": [b"a"], "id": ["x"]}), tmp_path / "bytes.parquet")
    (tmp_path / "mixed.csv").write_text("uri,n\na.jpg,1\n,2\n")
    (tmp_path / "a.jpg").write_bytes(b"picture")
    place = f"memory://{uuid.uuid4().hex}"
    files.write_atomic(f"{place}/list.txt", b"a.jpg")
    origins = {
        name: [item.origin for item in list_inputs(uri)]
        for name, uri in {
            "image": str(tmp_path / "a.jpg"),
            "bytes": str(tmp_path / "bytes.parquet"),
            "mixed": str(tmp_path / "mixed.csv"),
            "afar": f"{place}/list.txt",
        }.items()
    }
    assert origins == {"image": [FOUND], "bytes": [INSIDE], "mixed": [NAMED_HERE, INSIDE], "afar": [NAMED_AFAR]}


def test_error_texts_quote_nothing_of_a_file(tmp_path):
    (tmp_path / "wide.csv").write_text("uri,n\na.jpg,1\nhunter2,hunter2,hunter2\n")
    (tmp_path / "latin.txt").write_bytes(b"a.jpg\nhunter2-\xe9.jpg\n")
    pq.write_table(pa.table({"uri": ["a.jpg"], "age": ["hunter2"]}), tmp_path / "people.parquet")
    attempts = [
        lambda: list_inputs(str(tmp_path / "wide.csv")),
        lambda: list_inputs(str(tmp_path / "latin.txt")),
        lambda: list_exemplars(str(tmp_path / "people.parquet"), where="age::INTEGER > 3"),
        lambda: list_exemplars(str(tmp_path / "wide.csv"), where="n = 1"),
    ]
    for attempt in attempts:
        with pytest.raises(SettingsError) as caught:
            attempt()
        assert "hunter2" not in str(caught.value)
