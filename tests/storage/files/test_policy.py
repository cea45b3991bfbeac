"""Which addresses are public, and what lies under a place that is allowed."""

from __future__ import annotations

import pickle

import pytest

from dmt_ray.storage.files import ListPolicy, RefusedError
from dmt_ray.storage.files.policy import is_public


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.7", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::7f00:1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "no address", ""),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        (
            "http://10.0.0.5:8080/photos",
            [
                "http://10.0.0.5:8080/photos/a.jpg",
                "HTTP://10.0.0.5:8080/photos?x=1",
                "http://10.0.0.5:8080/photos/b/../c",
            ],
            [
                *(
                    "http://10.0.0.5:8080/photos2/a.jpg",
                    "http://10.0.0.5:8080/photos/../keys",
                    "http://10.0.0.5/photos/a",
                ),
                *(
                    "http://10.0.0.5:8080/photos/%2e%2e/keys",
                    "http://10.0.0.5:8080@evil/photos/a.jpg",
                    "/photos/a.jpg",
                ),
                *("https://10.0.0.5:8080/photos/a.jpg", "http://10.0.0.5:8080", "http://10.0.0.5:x/photos"),
                "http://10.0.0.5:8080/photos/..\\keys",
            ],
        ),
        ("https://inner", ["https://inner/a", "https://INNER:443/a"], ["https://inner.evil/a", "http://inner/a"]),
        (
            "/data/photos/",
            ["/data/photos/a.jpg", "file:///data/photos/b/c.jpg"],
            ["/data/photos/../x", "/data/photos2"],
        ),
        ("http://", ["HTTP://10.0.0.5/a", "http://x"], ["https://10.0.0.5/a", "/http://"]),
        ("ftp://host/pub", ["ftp://host/pub/a.jpg"], ["ftp://host/other", "ftp://host2/pub/a.jpg"]),
    ],
)
def test_what_lies_under_an_allowed_place(place, inside, outside):
    policy = ListPolicy(True, (place,))
    assert [uri for uri in inside if not policy.allows(uri)] == []
    assert [uri for uri in outside if policy.allows(uri)] == []


def test_a_list_on_this_machine_names_local_files_and_one_elsewhere_does_not():
    for uri in ("/etc/passwd", "file:///etc/passwd", "~/x", "local:///x"):
        ListPolicy(False).check(uri)
        with pytest.raises(RefusedError, match="is a file on this machine"):
            ListPolicy(True).check(uri)
    for remote in (True, False):
        for uri in ("s3://bucket/a", "gs://bucket/a", "https://example.org/a.jpg"):
            ListPolicy(remote).check(uri)
        for uri in ("ftp://host/a", "git:///etc:x@y", "zip://x", "asynclocal:///etc/passwd", "sftp://h/x"):
            with pytest.raises(RefusedError, match="no list or table may name"):
                ListPolicy(remote).check(uri)
            ListPolicy(remote, (uri,)).check(uri)


def test_a_refusal_masks_passwords_and_crosses_processes():
    with pytest.raises(RefusedError) as caught:
        ListPolicy(True).check("ftp://user:secret@host/a")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert "secret" not in str(again)
    assert "--allow-uri ftp://***@host/a" in str(again)
