"""The Ray cluster of a run: found or started, watched, and left again."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import site
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import ray
import ray.util.client
from ray.exceptions import AuthenticationError

import dmt_ray
from dmt_ray.config import LOCAL_RAY, ray_host_and_port
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline.ray_address import RayAddress, accepts, ask, choose_ray, ray_folder
from dmt_ray.storage.disk_space import has_room, is_out_of_space

logger = logging.getLogger(__name__)

#: Seconds between two looks at the cluster, and for one of them.
CHECK_S = 2.0
#: A cluster that has not answered for so many seconds is lost.
LOST_S = 20.0
#: Free bytes without which no local Ray is started: its logs alone soon take as much.
ROOM_BYTES = 10 * 2**20
#: How often a local Ray is started when it does not come up in time, as on a busy machine. Ray says "timed out during
#: startup" of its node manager, "Timed out waiting for file ..." of its control service (GCS).
_LOCAL_STARTS = 3
#: Seconds that Ray waits for the GCS of a local Ray; its default of 30 is short where other programs are busy. Who
#: joins a cluster makes so many attempts to reach its GCS, of 40 seconds each; after an answer, one is enough.
_GCS_WAIT = "RAY_gcs_server_port_wait_time_s"
_LOCAL_WAIT, _JOIN_WAIT = "120", "1"
#: Characters of Ray's own words in an error.
_MOST_WORDS = 300
#: Ray's modules that say with each start which Ray they took and whether it wants a token; the line of ``_log_ray``
#: and the messages of ``choose_ray`` say what a user can act on.
_CHATTY = ("ray._private.authentication.authentication_token_setup", "ray._private.services")
#: Ray's native code ends a process that has lost the GCS for so long. Longer than its default of 60, so that what is
#: committed can be verified first.
_RECONNECT = ("RAY_gcs_rpc_server_reconnect_timeout_s", "600")


class ClusterLostError(Exception):
    """The head node of the Ray cluster does not answer any more."""


class Cluster:
    """The cluster that this process is attached to, or the one that it joins or starts; use it as a context manager.

    On leaving, a Ray that was started or attached here is shut down, unless it is lost: Ray would wait for it.

    Parameters:
        address: which Ray, where none is attached yet; see ``choose_ray``. Or the one that it chose.

    Raises:
        SettingsError: no cluster can be reached or started.
    """

    def __init__(self, address: str | RayAddress = "auto") -> None:
        self._wanted = address
        self._opened = False
        self._lost = False
        self._address: str | None = None
        self._answered = self._checked = time.monotonic()

    def __enter__(self) -> Cluster:
        if not ray.is_initialized():
            self._opened = True
            try:
                wanted = self._wanted
                _connect(wanted if isinstance(wanted, RayAddress) else choose_ray(wanted))
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
        if accepts(self._address, CHECK_S):
            self._answered = now
        elif now - self._answered > LOST_S:
            self._lost = True
            raise ClusterLostError(
                f"The Ray cluster is lost: its head node at {self._address} has not answered for {LOST_S:.0f} s."
            )


def _connect(where: RayAddress | None) -> None:
    """Join a cluster, or start a local one, and log which.

    Raises:
        SettingsError: that cannot be done.
    """
    if where is None:
        logger.info("A local Ray is being started.")
        _log_ray("started for this run", _start_local())
        return
    os.environ.setdefault(*_RECONNECT)  # not for a local Ray: its workers would wait as long
    try:
        # Only for a cluster that Ray finds by itself does it send this user's token without being told to.
        with _without_variable("RAY_ADDRESS"), _with_default(_GCS_WAIT, _JOIN_WAIT):
            context = _init_ray(None if where.found else where.address)
    except Exception as error:  # of many types; Ray also raises plain Exception
        logger.debug("Ray cannot join %s.", where.address, exc_info=error)
        raise SettingsError(_why_not_joined(where, error)) from error
    _log_ray(f"joined {where.address} ({where.origin})", context)


def _log_ray(what: str, context: Any) -> None:
    nodes = sum(node["Alive"] for node in ray.nodes())
    has = ray.cluster_resources()
    dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "none"
    logger.info(
        "Ray: %s; nodes %d, CPUs %g, GPUs %g, dashboard %s.",
        *(what, nodes, has.get("CPU", 0), has.get("GPU", 0), dashboard),
    )


def _why_not_joined(where: RayAddress, error: Exception) -> str:
    """Return in a sentence or two why a cluster that had answered cannot be joined, and what to do."""
    named = f"The Ray cluster at {where.address} ({where.origin})"
    if ray_host_and_port(where.address) is not None and ask(where.address) is None:
        return (
            f"{named} has answered, and does so no more: it has ended, or is about to. Wait until one is up and run "
            "the same command again, or take --ray-address local."
        )
    said = textwrap.shorten(str(error), _MOST_WORDS, placeholder=" ...")
    todo = "Mend that, or take --ray-address local."
    if "token" in str(error).lower() or isinstance(error, AuthenticationError):
        todo = "Set RAY_AUTH_MODE=token and copy the token to this machine (`ray get-auth-token`)."
    return f"{named} cannot be joined ({said}). {todo}"


def _start_local() -> Any:
    folder = str(ray_folder())
    full = (
        f"No local Ray can be started: there is no space left in {folder}. Make room, or let RAY_TMPDIR name a "
        "folder on another disk."
    )
    if not has_room(folder, ROOM_BYTES):
        raise SettingsError(full)  # Ray itself takes minutes to fail
    starts = 1
    while True:
        try:
            with _with_default(_GCS_WAIT, _LOCAL_WAIT):
                return _init_ray(LOCAL_RAY)
        except Exception as error:
            if is_out_of_space(error, folder):
                raise SettingsError(full) from error
            if starts == _LOCAL_STARTS or "timed out" not in str(error).lower():
                raise SettingsError(
                    f"No local Ray can be started ({_in_one_line(error)}); its logs are in {folder}."
                ) from error
        logger.warning("Ray was not up within the time that it gives itself; it is started once more.")
        ray.shutdown()
        starts += 1


def _init_ray(address: str | None) -> Any:
    """Call ``ray.init`` without resource arguments: a cluster has its own, and a local Ray counts the machine's."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _keeping_signals(), _in_a_safe_folder(), _quiet_driver():
        return ray.init(address, logging_level=logging.WARNING, log_to_driver=True)


@contextmanager
def _quiet_driver() -> Iterator[None]:
    """Keep the messages of this process's native code off the terminal: each run would show errors that are none.

    One line stays, which says at which level it logs.
    ``putenv`` changes the environment that native code sees. The processes that Ray starts get ``os.environ``, and
    log as always.
    """
    name = "RAY_BACKEND_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.putenv(name, "fatal")
    try:
        yield
    finally:
        os.unsetenv(name)


@contextmanager
def _without_variable(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


@contextmanager
def _with_default(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment that is not set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


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
