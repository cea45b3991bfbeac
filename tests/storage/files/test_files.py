"""One door for local disks and object stores: the same calls give the same answers on each."""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, TooLargeError, join, retry


def fill(folder: str, *names: str) -> None:
    for name in names:
        files.write_atomic(join(folder, name), name.encode())


def names_of(uris: list[str], folder: str) -> list[str]:
    root = str(Path(folder).absolute()) if files.is_local(folder) else folder
    assert all(uri.startswith(root.rstrip("/") + "/") for uri in uris), uris
    return [uri[len(root.rstrip("/")) + 1 :] for uri in uris]


def test_a_folder_is_listed_to_any_depth_sorted_without_hidden_names(folder):
    fill(folder, "b.jpg", "a/z.PNG", "a/deep/er/c.jpg", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "a/.tmp-1")
    for form in (folder, folder + "/"):
        found = files.list_files(form, {".jpg", ".png"})
        assert names_of(found, folder) == ["a/deep/er/c.jpg", "a/z.PNG", "b.jpg"]
        assert [files.read_bytes(uri) for uri in found] == [b"a/deep/er/c.jpg", b"a/z.PNG", b"b.jpg"]
        assert files.listing_root(form) == folder
    assert "notes.txt" in names_of(files.list_files(folder, None), folder)


def test_globs(folder):
    fill(folder, "1/a.jpg", "1/b.txt", "2/a.jpg", "2/x/y.jpg", "1/.h.jpg", "top.jpg")
    listed = functools.partial(files.list_files, suffixes={".jpg"})
    assert names_of(listed(join(folder, "*.jpg")), folder) == ["top.jpg"]
    assert names_of(listed(join(folder, "*/a.jpg")), folder) == ["1/a.jpg", "2/a.jpg"]
    assert names_of(listed(join(folder, "**/*.jpg")), folder) == ["1/a.jpg", "2/a.jpg", "2/x/y.jpg", "top.jpg"]
    assert names_of(listed(join(folder, "[2]/*")), folder) == ["2/a.jpg", "2/x/y.jpg"]
    assert names_of(listed(join(folder, "1/?.*")), folder) == ["1/a.jpg"]
    assert listed(join(folder, "*.tif")) == []
    assert files.listing_root(join(folder, "1/*.jpg")) == join(folder, "1")
    assert files.listing_root(join(folder, "*/a.jpg")) == folder


def test_a_single_file_is_kept_whatever_its_suffix(folder):
    fill(folder, "photo")
    assert files.list_files(join(folder, "photo"), {".jpg"}) == [join(folder, "photo")]
    assert files.listing_root(join(folder, "photo")) == folder


def test_a_name_with_glob_characters_that_exists_is_that_file(folder):
    fill(folder, "a[1].jpg", "a1.jpg", "set [b]/c.jpg", "set [b]/d.jpg")
    assert names_of(files.list_files(join(folder, "a[1].jpg"), None), folder) == ["a[1].jpg"]
    assert names_of(files.list_files(join(folder, "set [b]"), None), folder) == ["set [b]/c.jpg", "set [b]/d.jpg"]
    assert files.listing_root(join(folder, "set [b]")) == join(folder, "set [b]")
    if files.is_local(folder):
        assert names_of(files.list_files(join(folder, "set [b]/c*"), None), folder) == ["set [b]/c.jpg"]


def test_odd_but_legal_names(folder):
    odd = ["a b.jpg", "ü.jpg", "50%.jpg", "x#y.jpg", "q&r=s.jpg", "a::b.jpg" if files.is_local(folder) else "c.jpg"]
    fill(folder, *odd)
    found = files.list_files(folder, None)
    assert names_of(found, folder) == sorted(odd)
    assert [files.read_bytes(uri).decode() for uri in found] == sorted(odd)


def test_what_is_missing(folder):
    gone = join(folder, "gone")
    assert files.list_files(gone, None) == []
    assert files.list_names(gone) == set()
    assert not files.exists(gone)
    files.delete(gone)
    with pytest.raises(StorageError, match="does not exist") as caught:
        files.read_bytes(gone)
    assert gone in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.uri, again.reason, str(again)) == (caught.value.uri, caught.value.reason, str(caught.value))


def test_write_replaces_names_are_direct_and_delete_deletes(folder):
    fill(folder, "shards/0.parquet", "shards/1.parquet", "plan", "shards/.tmp-2")
    files.write_atomic(join(folder, "plan"), b"second")
    assert files.read_bytes(join(folder, "plan")) == b"second"
    assert files.list_names(folder) == {"plan", "shards"}
    assert files.list_names(join(folder, "shards")) == {"0.parquet", "1.parquet"}
    assert files.exists(join(folder, "shards"))
    files.delete(join(folder, "shards/0.parquet"))
    assert files.list_names(join(folder, "shards")) == {"1.parquet"}
    files.delete(join(folder, "shards/1.parquet"))
    if files.is_local(folder):
        (Path(folder) / "shards/.tmp-2").unlink()
        (Path(folder) / "shards").rmdir()
    files.delete(join(folder, "shards/.tmp-2"))
    assert files.list_names(folder) == {"plan"}
    with pytest.raises(StorageError):
        files.list_names(join(folder, "plan"))


def test_listings_see_what_another_process_writes(bucket, s3_server):
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server)
    name = bucket.removeprefix("s3://")
    assert files.list_names(f"{bucket}/out") == set()
    client.put_object(Bucket=name, Key="out/one", Body=b"1")
    assert files.list_names(f"{bucket}/out") == {"one"}
    client.put_object(Bucket=name, Key="out/two", Body=b"2")
    assert files.list_names(f"{bucket}/out") == {"one", "two"}
    client.put_object(Bucket=name, Key="out/marker/", Body=b"")
    assert files.list_files(f"{bucket}/out", None) == [f"{bucket}/out/one", f"{bucket}/out/two"]


def test_check_writable_leaves_nothing_behind(folder):
    files.check_writable(join(folder, "new/out"))
    assert files.list_names(folder) == set()
    if files.is_local(folder):
        assert list(Path(folder).iterdir()) == []


def test_check_writable_refuses_a_file_and_a_missing_bucket(tmp_path, s3_server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"Cannot write to .*file"):
        files.check_writable(str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="Cannot write to"):
        files.check_writable(str(tmp_path / "file" / "below"))
    with pytest.raises(SettingsError, match="Cannot write to s3://no-such-bucket-here"):
        files.check_writable("s3://no-such-bucket-here/out")
    with pytest.raises(SettingsError, match="Cannot write to"):
        files.check_writable("/proc/out")


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "inside").write_bytes(b"")
    with pytest.raises(StorageError, match="folder"):
        files.write_atomic(str(target), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_writer_killed_in_the_middle_leaves_only_a_hidden_name(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    code = """
import os, sys
from dmt_ray.storage import files
os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
files.write_atomic(sys.argv[1], b"new")
"""
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert child.returncode == -9
    assert (tmp_path / "out").read_bytes() == b"old"
    assert files.list_names(str(tmp_path)) == {"out"}
    assert files.list_files(str(tmp_path), None) == [str(tmp_path / "out")]


def test_written_files_obey_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        files.write_atomic(str(tmp_path / "out"), b"")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o644


def test_file_uris_relative_paths_and_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    fill("sub", "a.jpg")
    expected = [str(tmp_path / "sub/a.jpg")]
    for form in ("sub", "./sub/", "~/sub", f"file://{tmp_path}/sub", "sub/../sub", "sub/*.jpg"):
        assert files.list_files(form, {".jpg"}) == expected, form


def test_links_are_followed_but_never_in_circles(tmp_path):
    fill(str(tmp_path / "real"), "a.jpg")
    fill(str(tmp_path / "in"), "b.jpg")
    (tmp_path / "in/link").symlink_to(tmp_path / "real")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    place = str(tmp_path / "in")
    assert names_of(files.list_files(place, None), place) == ["b.jpg", "link/a.jpg"]
    assert names_of(files.list_files(f"{place}/**/*.jpg", None), place) == ["b.jpg", "link/a.jpg"]
    (tmp_path / "in/again").symlink_to(tmp_path / "real")
    (tmp_path / "in/itself").symlink_to(tmp_path / "in/itself")
    expected = ["again/a.jpg", "b.jpg", "itself", "link/a.jpg"]  # a link to nothing is there, and cannot be read
    assert names_of(files.list_files(place, None), place) == expected
    assert names_of(files.list_files(f"{place}/**", None), place) == expected
    assert names_of(files.list_files(f"{place}/**/li*/**/*.jpg", None), place) == ["link/a.jpg"]


def test_names_that_are_not_utf_8_are_escaped_and_can_be_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xe4rger")
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"1")
    (folder / "caf\u00e9.jpg").write_bytes(b"2")
    (folder / r"real \xe9.jpg").write_bytes(b"3")
    escaped = rf"{tmp_path}/\xe4rger"
    expected = [rf"{escaped}/caf\xe9.jpg", f"{escaped}/caf\u00e9.jpg", rf"{escaped}/real \xe9.jpg"]
    for form in (str(folder), escaped, f"{tmp_path}/**/*.jpg", f"{escaped}/*"):
        assert files.list_files(form, {".jpg"}) == expected, form
    assert [files.read_bytes(file) for file in expected] == [b"1", b"2", b"3"]
    assert None not in [identity for _, identity in files.list_identified(escaped)]
    assert files.listing_root(str(folder)) == escaped
    assert files.absolute(str(folder)) == escaped
    assert files.list_names(escaped) == {name.rpartition("/")[2] for name in expected}
    (folder / r"caf\xe9.jpg").write_bytes(b"4")
    with pytest.raises(StorageError, match="two files have this name"):
        files.list_files(escaped)


def test_braces_stand_for_several_names(folder):
    fill(folder, *(f"{number:03}.tar" for number in range(12)), "a/1.jpg", "b/2.png", "{x,y}.jpg", "y.jpg")
    assert names_of(files.list_files(join(folder, "{002..010..4}.tar")), folder) == ["002.tar", "006.tar", "010.tar"]
    photos = join(folder, "{a,b}/*.{jpg,jpeg,png}")
    assert names_of(files.list_files(photos), folder) == ["a/1.jpg", "b/2.png"]
    assert files.listing_root(photos) == folder
    assert names_of(files.list_files(join(folder, "{b,b,a}")), folder) == ["a/1.jpg", "b/2.png"]
    assert names_of(files.list_files(join(folder, "{x,y}.jpg")), folder) == ["{x,y}.jpg"]  # as it stands
    with pytest.raises(StorageError, match=r"2 of its 4 names do not exist; the first: \S+/012\.tar"):
        files.list_files(join(folder, "{010..013}.tar"))
    with pytest.raises(SettingsError, match="more than 1000000 names"):
        files.list_files(join(folder, "{1..2000000}.tar"))


def test_join_and_resolve():
    assert join("out/", "a", "/b/") == "out/a/b"
    assert join("s3://bucket", "a") == "s3://bucket/a"
    assert join("memory://", "a") == "memory://a"
    assert join("/", "a") == "/a"
    assert files.resolve("../x.jpg", "s3://bucket/a/b") == "s3://bucket/a/x.jpg"
    assert files.resolve("x.jpg", "/data/set") == "/data/set/x.jpg"
    for full in ("gs://b/x.jpg", "/abs/x.jpg"):
        assert files.resolve(full, "s3://bucket/a") == full


def test_credentials_never_reach_a_message():
    for uri, secret in (
        ("ftp://user:pa@ss@127.0.0.1:1/x", "pa@ss"),
        ("https://tok3n@127.0.0.1:1/x", "tok3n"),
        ("http://127.0.0.1:1/x?X-Amz-Signature=abc", "abc"),
    ):
        error = StorageError(uri, f"cannot reach {uri}")
        assert secret not in str(error)
        assert secret not in error.uri
        assert "127.0.0.1" in str(error)
    assert files.masked("s3://bucket/a@b:c.jpg?x") == "s3://bucket/a@b:c.jpg?x"
    with pytest.raises((SettingsError, StorageError)) as caught:
        files.read_bytes("ftp://user:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme_a_chain_and_a_missing_driver(monkeypatch):
    with pytest.raises(SettingsError, match="s4://"):
        files.list_files("s4://bucket/x", None)
    with pytest.raises(SettingsError, match="chained"):
        files.read_bytes("zip://a.jpg::/tmp/a.zip")
    code = """
import sys
sys.modules["s3fs"] = None
sys.modules["gcsfs"] = None
from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
for uri in ("s3://bucket/x", "gs://bucket/x"):
    try:
        files.read_bytes(uri)
    except SettingsError as error:
        print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "pip install 'dmt-ray[s3]'" in output
    assert "pip install 'dmt-ray[gcs]'" in output


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers 503 a number of times, then the file."""

    failures = 0
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if type(self).requests <= type(self).failures:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


def test_reads_from_afar_are_tried_a_bounded_number_of_times(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}/photo.jpg"
        Flaky.failures, Flaky.requests = 2, 0
        assert files.read_bytes(uri) == b"hello"
        assert Flaky.requests == 3
        Flaky.failures, Flaky.requests = 99, 0
        with pytest.raises(StorageError, match="503"):
            files.read_bytes(uri)
        assert Flaky.requests == retry.ATTEMPTS
        with pytest.raises(StorageError, match="503"):  # and not "does not exist"
            files.exists(uri)
    finally:
        server.shutdown()
        server.server_close()


def test_open_file_reads_parts(folder):
    fill(folder, "abcdef")
    with files.open_file(join(folder, "abcdef")) as file:
        file.seek(2)
        assert file.read(3) == b"cde"
    with pytest.raises(StorageError, match="does not exist"), files.open_file(join(folder, "gone")):
        pass


def test_a_range_of_a_file(folder):
    fill(folder, "abcdef")
    assert files.read_range(join(folder, "abcdef"), 2, 3) == b"cde"
    with pytest.raises(StorageError, match="ends before byte 7"):
        files.read_range(join(folder, "abcdef"), 2, 5)


def test_a_file_with_too_many_bytes_is_refused(folder):
    fill(folder, "abcdef")
    assert files.read_bytes(join(folder, "abcdef"), max_bytes=6) == b"abcdef"
    with pytest.raises(TooLargeError, match="has 6 bytes, and the limit is 5") as caught:
        files.read_bytes(join(folder, "abcdef"), max_bytes=5)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.size, again.limit) == (str(caught.value), 6, 5)


def test_a_store_that_cannot_be_asked_is_an_error_and_not_a_no(tmp_path):
    code = """
from dmt_ray.storage import files
for ask in (files.exists, files.list_names, files.list_files, files.read_bytes):
    try:
        print(ask("s3://bucket/x"))
    except files.StorageError as error:
        print(error)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, timeout=120
    )
    assert child.stdout.splitlines() == ["s3://bucket/x: Unable to locate credentials."] * 4
