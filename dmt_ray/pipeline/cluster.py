"""The Ray cluster of a run: found or started, watched, and left again."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import site
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import ray
import ray.util.client

import dmt_ray
from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.disk_space import has_room, is_out_of_space

logger = logging.getLogger(__name__)

#: Seconds between two looks at the cluster, and for one of them.
CHECK_S = 2.0
#: A cluster that has not answered for so many seconds is lost.
LOST_S = 20.0
#: Free bytes without which no local Ray is started: its logs alone soon take as much.
ROOM_BYTES = 10 * 2**20
#: Ray's native code ends a process that has lost the GCS for so long. Longer than its default of 60, so that what is
#: committed can be verified first.
_RECONNECT = ("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
#: Tries to reach a cluster before a run, one a second.
TRIES = 5


class ClusterLostError(Exception):
    """The head node of the Ray cluster does not answer any more."""


@dataclass(frozen=True)
class _Address:
    """Where ``ray.init`` would look for a cluster, and who says so."""

    address: str
    origin: str
    required: bool
    """The user asked for it; otherwise a local Ray will do."""


class Cluster:
    """The cluster that this process is attached to, or the local one that it starts; use it as a context manager.

    On leaving, a Ray that was started or attached here is shut down, unless it is lost: Ray would wait for it.

    Raises:
        SettingsError: no cluster can be reached or started.
    """

    def __init__(self) -> None:
        self._opened = False
        self._lost = False
        self._address: str | None = None
        self._answered = self._checked = time.monotonic()

    def __enter__(self) -> Cluster:
        if not ray.is_initialized():
            self._opened = True
            try:
                _connect()
            except BaseException:
                ray.shutdown()
                raise
        if not ray.util.client.ray.is_connected():  # a client's own connection tells it
            self._address = ray.get_runtime_context().gcs_address
        self._answered = self._checked = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lost:
            atexit.unregister(ray.shutdown)
        elif self._opened:
            ray.shutdown()

    def check(self) -> None:
        """Look every few seconds whether the head node's control service (GCS) accepts connections.

        Raises:
            ClusterLostError: it has not for ``LOST_S`` seconds.
        """
        now = time.monotonic()
        if self._address is None or now - self._checked < CHECK_S:
            return
        self._checked = now
        if _answers(self._address):
            self._answered = now
        elif now - self._answered > LOST_S:
            self._lost = True
            raise ClusterLostError(
                f"The Ray cluster is lost: its head node at {self._address} has not answered for {LOST_S:.0f} s."
            )


def _connect() -> None:
    """Attach to the cluster that the environment names, or start a local one.

    Raises:
        SettingsError: that cannot be done.
    """
    where = _known_address()
    if where is not None and not _answers(where.address, TRIES):
        if where.required:
            raise SettingsError(
                f"No Ray cluster answers at {where.address} ({where.origin}). Start it, or mend or unset the address."
            )
        logger.warning(
            "No Ray cluster answers at %s (%s), so a local Ray is started. RAY_ADDRESS names another cluster; "
            "deleting the file ends this warning.",
            *(where.address, where.origin),
        )
        where = None
    named = where.address if where is not None else os.environ.get("RAY_ADDRESS", "")
    if named in ("", "local"):
        _start_local()
        return
    os.environ.setdefault(*_RECONNECT)  # not for a local Ray: its workers would wait as long
    try:
        _init_ray(None)
    except Exception as error:  # of many types; Ray also raises plain Exception
        raise SettingsError(
            f"No Ray cluster can be reached at RAY_ADDRESS={named} ({_in_one_line(error)}). Start it, mend or unset "
            "the address, or copy the cluster's token to this machine where it asks for one."
        ) from error


def _start_local() -> None:
    folder = _ray_folder()
    full = (
        f"No local Ray can be started: there is no space left in {folder}. Make room, or let RAY_TMPDIR name a "
        "folder on another disk."
    )
    if not has_room(folder, ROOM_BYTES):
        raise SettingsError(full)  # Ray itself takes minutes to fail
    try:
        _init_ray("local")
    except Exception as error:
        if is_out_of_space(error, folder):
            raise SettingsError(full) from error
        raise SettingsError(
            f"No local Ray can be started ({_in_one_line(error)}); its logs are in {folder}."
        ) from error


def _init_ray(address: str | None) -> None:
    """Call ``ray.init`` without resource arguments: a cluster has its own, and a local Ray counts the machine's."""
    with _keeping_signals(), _in_a_safe_folder():
        ray.init(address, logging_level=logging.WARNING, log_to_driver=True)


@contextmanager
def _in_a_safe_folder() -> Iterator[None]:
    """Start Ray elsewhere than in the current folder: Ray lets all workers import from where it was started.

    Not under ``uv run``, where Ray takes the current folder for the project that the workers need.
    """
    try:
        before = os.getcwd()  # noqa: PTH109
    except OSError:  # it is gone, and no import finds anything there
        before = None
    if before is None or _runs_under_uv():
        yield
        return
    os.chdir(_safe_folder())
    try:
        yield
    finally:
        os.chdir(before)


def _safe_folder() -> str:
    """Return a folder whose modules may be imported: this program's own, unless that is where all packages lie."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(dmt_ray.__file__)))  # noqa: PTH100, PTH120
    packages = {os.path.realpath(path) for path in (*site.getsitepackages(), site.getusersitepackages())}
    return os.path.abspath(os.sep) if os.path.realpath(own) in packages else own  # noqa: PTH100


def _runs_under_uv() -> bool:
    return "UV" in os.environ and os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1") not in ("0", "false")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Undo that ``ray.init`` sets a handler of SIGTERM of its own, which raises SystemExit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _known_address() -> _Address | None:
    """Return the address that ``ray.init`` would use; None when it would start a local Ray, or asks a Ray client."""
    where = os.environ.get("RAY_ADDRESS", "")
    if where not in ("", "auto"):
        return _Address(where, "RAY_ADDRESS", True) if _host_and_port(where) else None
    file = files.join(_ray_folder(), "ray_current_cluster")
    if not files.exists(file):
        return None
    address = files.read_bytes(file).decode(errors="replace").strip()
    return _Address(address, f"the last one that was started here, by {file}", where == "auto")


def _ray_folder() -> str:
    """Return the folder where Ray keeps its sessions on this machine; it takes TMPDIR even when that is full."""
    return files.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Split ``host:port``; None for what is something else, such as ``ray://...`` and ``local``."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdigit():
        return None
    return host.strip("[]"), int(port)


def _answers(address: str, tries: int = 1) -> bool:
    """Tell whether something accepts connections at ``host:port``."""
    place = _host_and_port(address)
    if place is None:
        return False
    for attempt in range(tries):
        try:
            socket.create_connection(place, timeout=CHECK_S).close()
        except OSError:
            if attempt < tries - 1:
                time.sleep(1)
        else:
            return True
    return False
