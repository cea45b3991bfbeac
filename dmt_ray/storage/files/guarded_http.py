"""Web servers as lists and tables may reach them: every connection, redirects' too, goes to a public address.

The address is checked where the socket is made and again on the connection that a request gets, so neither the way a
host is written, nor a name that changes its address meanwhile, nor a redirect gets around it.
"""

from __future__ import annotations

import contextvars
import functools
import socket
from collections.abc import Sequence
from typing import Any, cast

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from dmt_ray.storage.files.policy import ListPolicy, is_public, not_public

#: Addresses that the connection which is being made was refused; None where every address is allowed.
_refused: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("dmt_ray_refused", default=None)


@functools.lru_cache(maxsize=16)
def guarded_http(allowed: tuple[str, ...]) -> Any:
    """Return a file system for ``http`` and ``https`` that connects to public addresses, and to what is allowed.

    Parameters:
        allowed: see ``ListPolicy.allowed``.
    """

    async def client(**options: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=GuardedConnector(allowed), **options)

    return HTTPFileSystem(get_client=client, skip_instance_cache=True)


class GuardedConnector(aiohttp.TCPConnector):
    """Connects to no address that is not public, unless the request's own URL is allowed."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(socket_factory=_make_socket)
        self._policy = ListPolicy(True, allowed)

    async def connect(self, req: Any, traces: Sequence[Any], timeout: Any) -> Any:
        """Return a connection for one request; each redirect is a request of its own.

        Raises:
            RefusedError: its host has no address that it may have.
        """
        url = req.url
        refused: list[str] | None = None if self._policy.allows(str(url)) else []
        token = _refused.set(refused)
        try:
            connection = await super().connect(req, cast(Any, traces), timeout)
        except Exception as error:
            if refused:
                raise not_public(str(url), refused[0]) from error
            raise
        finally:
            _refused.reset(token)
        if refused is not None:  # also one that an allowed request has left open
            peer = None if connection.transport is None else connection.transport.get_extra_info("peername")
            if peer is None or not is_public(peer[0]):
                connection.close()
                raise not_public(str(url), "an unknown one" if peer is None else peer[0])
        return connection


def _make_socket(info: Any) -> socket.socket:
    """Make the socket for one address of a host, or fail as if it could not be reached."""
    family, kind, protocol, _, address = info
    refused = _refused.get()
    if refused is not None and not is_public(str(address[0])):
        refused.append(str(address[0]))
        raise OSError(f"{address[0]} is not a public address")
    return socket.socket(family, kind, protocol)
