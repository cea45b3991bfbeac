"""What a list or a table may name: not every file that whoever wrote it would like to have read.

What the user names on the command line is not held to this; only what stands in lists and tables is.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from dmt_ray.storage.errors import RefusedError
from dmt_ray.storage.files.uris import SCHEME, is_local, local_path

#: Stores whose URIs name a bucket; the server is the one that the user's own environment names.
_STORES = frozenset(
    (
        *("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "wasb", "wasbs", "oss", "oci", "cos", "tos"),
        *("hf", "memory"),
    )
)
#: Schemes of web servers.
WEB = frozenset({"http", "https"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: IPv6 addresses that stand for an IPv4 one in their last four bytes: NAT64.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class ListPolicy:
    """What the lines of a list, or the cells of a table, may name.

    - A list on this machine names local and remote files; one in a store or on a server names no local ones.
    - Neither leads to an address that is not public (loopback, link-local, private, reserved), also not by a
      redirect. That is decided by the address that is connected to, not by the host's name.
    - A scheme whose server such a check cannot hold (``ftp``, ``sftp``, ``git``, ...) is refused.
    - Whatever lies under one of ``allowed`` is read all the same.
    """

    remote: bool
    """The list lies in a store or on a server."""
    allowed: tuple[str, ...] = ()
    """Paths and URIs; what lies under one of them is allowed."""

    def check(self, uri: str) -> None:
        """Refuse what may not be read, as far as the URI itself tells.

        Raises:
            RefusedError: says why, and what allows it.
        """
        if self.allows(uri):
            return
        if is_local(uri):
            if self.remote:
                raise RefusedError(uri, "is a file on this machine, and the list that names it is not", uri)
            return
        match = SCHEME.match(uri)
        scheme = match[1].lower() if match else ""
        if scheme not in _STORES | WEB:
            raise RefusedError(uri, f"no list or table may name {scheme}:// places", uri)
        address = _literal_address(uri) if scheme in WEB else None
        if address is not None and not is_public(address):
            raise not_public(uri, address)

    def allows(self, uri: str) -> bool:
        """Tell whether a URI lies under one of the allowed places, part by part of its path."""
        return any(_lies_under(uri, place) for place in self.allowed)


def not_public(uri: str, address: str) -> RefusedError:
    """Return the error of a URI whose server, or a redirect's, has an address that no list or table may lead to."""
    server, _, _ = uri.partition("://")[2].partition("/")
    return RefusedError(
        uri,
        f"leads to the address {address}, and no list or table may lead to a loopback, link-local or private address",
        f"{uri.partition('://')[0]}://{server.rpartition('@')[2]}/",
    )


def _literal_address(uri: str) -> str | None:
    """Return the address that stands in a URI in place of a host's name, however it is written (``127.1``)."""
    try:
        host = urlsplit(uri).hostname or ""
    except ValueError:
        return None
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):  # a name
        return None


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet.

    An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4, Teredo) is judged by both.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return all(
        each.is_global and not (each.is_multicast or each.is_reserved or each.is_unspecified)
        for each in _carried(found)
    )


def _carried(address: Address) -> list[Address]:
    """Return what decides about an address: the IPv4 addresses in it, and itself unless it is only their frame."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(address.packed[-4:])]
    inner = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in inner if each is not None)]


def _lies_under(uri: str, place: str) -> bool:
    if is_local(uri) or is_local(place):
        if not (is_local(uri) and is_local(place)):
            return False
        return _inside(str(local_path(uri)), str(local_path(place)))
    if place.endswith("://"):  # a scheme as a whole
        return uri.lower().startswith(place.lower())
    try:
        target, allowed = urlsplit(uri), urlsplit(place)
        same = _server(target) == _server(allowed)
    except ValueError:  # a port that is no number
        return False
    return same and _inside(_plain_path(target.path), _plain_path(allowed.path))


def _server(parts: SplitResult) -> tuple[str, str, int | None]:
    scheme = parts.scheme.lower()
    host = parts.hostname or "" if scheme in WEB else parts.netloc  # a bucket may have capitals
    return scheme, host, parts.port if parts.port is not None else _DEFAULT_PORTS.get(scheme)


def _plain_path(path: str) -> str:
    """Return a URI's path without ``.`` and ``..``, however they are written."""
    return posixpath.normpath("/" + unquote(path).replace("\\", "/").lstrip("/"))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
