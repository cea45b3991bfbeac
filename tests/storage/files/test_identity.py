"""A file is told from another one under its name; a URI in a fingerprint, from a URI of another file."""

from __future__ import annotations

import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from typing import ClassVar

import boto3
import pytest

from dmt_ray.storage import files
from dmt_ray.storage.files import ChangedFileError, StorageError, TooLargeError, join


def fill(folder: str, *names: str) -> None:
    for name in names:
        files.write_atomic(join(folder, name), name.encode())


def test_a_listing_gives_each_file_the_identity_that_asking_gives(folder):
    fill(folder, "b.jpg", "a/z.PNG", "a/deep/c.jpg", "notes.txt", ".hidden.jpg")
    for place, suffixes in (
        (folder, {".jpg", ".png"}),
        (folder, None),
        (join(folder, "**/*.jpg"), {".jpg"}),
        (join(folder, "a*"), None),
        (join(folder, "b.jpg"), {".png"}),
        (join(folder, "gone"), None),
    ):
        listed = files.list_identified(place, suffixes)
        assert [uri for uri, _ in listed] == files.list_files(place, suffixes)
        assert listed == [(uri, files.identity(uri)) for uri, _ in listed]
        assert all(identity for _, identity in listed)
    assert len(files.list_identified(folder, {".jpg", ".png"})) == 3


def test_a_listing_of_a_store_costs_no_request_per_file(bucket, faulty_s3):
    fill(bucket, *(f"{number}.jpg" for number in range(20)))
    faulty_s3.clear()
    assert len(files.list_identified(bucket, {".jpg"})) == 20
    assert faulty_s3.requests() <= 4


def test_an_identity_changes_with_the_file_and_with_nothing_else(folder):
    fill(folder, "a.jpg", "b.jpg")
    first, other = files.identity(join(folder, "a.jpg")), files.identity(join(folder, "b.jpg"))
    assert first
    assert first == files.identity(join(folder, "a.jpg"))
    fill(folder, "c.jpg")
    assert other == files.identity(join(folder, "b.jpg"))
    files.write_atomic(join(folder, "a.jpg"), b"A.jpg")  # as many bytes
    assert files.identity(join(folder, "a.jpg")) not in (None, first)


def test_what_is_missing_or_a_folder_has_no_identity(folder):
    fill(folder, "sub/a.jpg")
    assert files.identity(join(folder, "gone")) is None
    assert files.identity(join(folder, "sub")) is None


def test_a_local_file_that_cannot_be_looked_at_has_no_identity(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "a").write_bytes(b"")
    for name in ("loop", "a/b", "a\0b", "x" * 300, "\udcff\ud800"):
        assert files.identity(f"{tmp_path}/{name}") is None
    assert [identity is None for _, identity in files.list_identified(str(tmp_path))] == [False, True]


def test_a_local_identity_is_size_and_nanoseconds(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"123")
    os.utime(path, ns=(5, 1_700_000_000_123_456_789))
    assert files.identity(str(path)) == "size=3 mtime_ns=1700000000123456789"
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert files.list_identified(str(tmp_path)) == [
        (str(path), files.identity(str(path))),
        (f"{tmp_path}/nowhere", None),
    ]


def test_the_etag_of_a_store_is_written_without_quotes(bucket, s3_server):
    fill(bucket, "a.jpg")
    answer = boto3.client("s3", endpoint_url=s3_server).head_object(Bucket=bucket[len("s3://") :], Key="a.jpg")
    assert files.identity(f"{bucket}/a.jpg") == f"etag={answer['ETag'].strip(chr(34))}"


def test_a_file_that_was_replaced_is_not_read_as_the_known_one(folder):
    uri = join(folder, "a.jpg")
    files.write_atomic(uri, b"old")
    known = files.identity(uri)
    assert files.read_bytes(uri, identity=known) == files.read_bytes(uri, identity=known, max_bytes=3) == b"old"
    assert files.read_range(uri, 1, 2, identity=known) == b"ld"
    with pytest.raises(TooLargeError):
        files.read_bytes(uri, identity=known, max_bytes=2)
    files.write_atomic(uri, b"new")
    for read in (
        lambda: files.read_bytes(uri, identity=known),
        lambda: files.read_bytes(uri, identity=known, max_bytes=9),
        lambda: files.read_range(uri, 0, 3, identity=known),
    ):
        with pytest.raises(ChangedFileError, match="has changed") as caught:
            read()
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, StorageError)
    assert (str(again), again.known, again.found) == (str(caught.value), known, files.identity(uri))
    assert files.read_bytes(uri) == b"new"
    files.delete(uri)
    with pytest.raises(StorageError, match="does not exist"):
        files.read_bytes(uri, identity=known)


def test_the_known_identity_costs_one_request_more_and_none_beside_a_limit(bucket, faulty_s3):
    fill(bucket, "a.jpg")
    known = files.identity(f"{bucket}/a.jpg")
    counts = []
    for options in ({"max_bytes": 9}, {"identity": known}, {"max_bytes": 9, "identity": known}):
        faulty_s3.clear()
        files.read_bytes(f"{bucket}/a.jpg", **options)
        counts.append(faulty_s3.requests())
    assert counts[0] == counts[2] <= counts[1]  # with a limit the driver does not ask for the size once more


class Tagged(http.server.BaseHTTPRequestHandler):
    """A web server that says of its one file what ``answer`` says."""

    answer: ClassVar[dict[str, str]] = {}

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        for name, value in self.answer.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


@pytest.fixture
def tagged() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tagged)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/photo.jpg?set=A"
    server.shutdown()
    server.server_close()


def test_a_web_servers_file_has_the_identity_that_its_headers_tell(tagged, monkeypatch):
    modified = "Sat, 05 Jul 2025 10:00:00 GMT"
    for answer, identity in (
        ({"ETag": '"abc"', "Last-Modified": modified}, "etag=abc"),
        ({"ETag": 'W/"abc"'}, "etag=abc"),
        ({"Last-Modified": modified}, f"size=5 modified={modified}"),
        ({}, None),
    ):
        monkeypatch.setattr(Tagged, "answer", answer)
        assert files.identity(tagged) == identity
        assert files.list_identified(tagged) == [(tagged, identity)]
        assert files.read_bytes(tagged, identity=identity) == b"hello"
    with pytest.raises(ChangedFileError, match="without an identity"):
        files.read_bytes(tagged, identity="etag=abc")


def test_a_fingerprint_tells_queries_apart():
    place = "https://example.org/photos.tar"
    uris = [f"{place}?set=A", f"{place}?set=B", f"{place}?set=A&page=2", f"{place}?sr=1", place]
    assert len({files.fingerprint_uri(uri) for uri in uris}) == len(uris)
    assert files.fingerprint_uri(f"{place}?b=2&a=1") == files.fingerprint_uri(f"{place}?a=1&b=2")
    text = files.fingerprint_uri(f"{place}?set=A")
    assert text.startswith(f"{place}?sha256:")
    assert len(text) == len(f"{place}?sha256:") + 16
    assert files.masked(text) == text


@pytest.mark.parametrize(
    "signature",
    [
        "X-Amz-Algorithm=AWS4&X-Amz-Date={0}&x-amz-signature={0}",
        "X-Goog-Signature={0}&X-Goog-Expires={0}",
        "AWSAccessKeyId={0}&Signature={0}&Expires={0}",
        "GoogleAccessId={0}&signature={0}&expires={0}",
        "Policy={0}&Signature={0}&Key-Pair-Id={0}",
        "sv={0}&se={0}&sr=b&sp=r&sig={0}&st={0}&spr=https&skoid={0}&sktid={0}&skt={0}&ske={0}&sks=b&SKV={0}",
    ],
)
def test_a_uri_that_is_signed_anew_is_the_same_in_a_fingerprint(signature):
    place = "https://example.org/a.jpg"
    first, second = signature.format("first-s3cret"), signature.format("second-s3cret")
    assert files.fingerprint_uri(f"{place}?{first}") == files.fingerprint_uri(f"{place}?{second}") == place
    assert (
        files.fingerprint_uri(f"{place}?set=A&{first}")
        == files.fingerprint_uri(f"{place}?{second}&set=A")
        == files.fingerprint_uri(f"{place}?set=A")
    )


def test_a_fingerprint_holds_no_secret_and_leaves_other_text_alone():
    for uri in (
        "https://us3r:s3cret@example.org/a?token=s3cret",
        "https://s3cret@example.org/a?key=s3cret",
        "ftp://us3r:s3cret@example.org/a?b",
    ):
        assert "s3cret" not in files.fingerprint_uri(uri)
        assert "example.org/a" in files.fingerprint_uri(uri)
    for text in ("photos/a?b.jpg", "s3://bucket/a?b=c", "/data/set*", "", "vgg19", "https://example.org/a.jpg"):
        assert files.fingerprint_uri(text) == text
    assert files.fingerprint_uri("https://example.org/a?") == "https://example.org/a"
