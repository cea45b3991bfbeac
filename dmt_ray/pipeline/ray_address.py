"""Which Ray a run joins: the places where a cluster may be, in their order, each asked whether it answers."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass

import grpc

from dmt_ray.config import LOCAL_RAY, ray_host_and_port
from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError

logger = logging.getLogger(__name__)

#: Seconds for which each place is asked. A head that is just starting may need them.
PROBE_S = 2.0
#: Any call that the head's control service (GCS) knows; this one needs no arguments.
_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
#: Ray sets it for the driver of a submitted job.
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_TOKEN = (
    "Set RAY_AUTH_MODE=token here, and have the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN; "
    "`ray get-auth-token` prints it on the head."
)


@dataclass(frozen=True)
class RayAddress:
    """A cluster that answers."""

    address: str
    """host:port of its GCS, or a URI such as ray://host:port."""
    origin: str
    """Who says that it is there: a variable, an option or a file."""
    found: bool
    """Ray itself finds it in its file, and then sends this user's token."""


def choose_ray(option: str, otherwise: str = "A local Ray is started for this run.") -> RayAddress | None:
    """Return the cluster to join; None: there is none, or ``local`` says to start one.

    Parameters:
        option: ``auto``, ``local``, or an address. ``auto`` takes the first of: RAY_ADDRESS; the cluster that runs
            this submitted job; the cluster that this user started last on this machine, if it answers; a local Ray.
        otherwise: what the log says that happens where ``auto`` finds none.

    Raises:
        SettingsError: the address that an option or a variable names does not answer, or asks for a token.
    """
    if option != "auto":
        return _named(option, "--ray-address")
    submitted = _SUBMITTED in os.environ
    variable = os.environ.get("RAY_ADDRESS", "")
    if variable not in ("", "auto"):
        return _named(variable, "RAY_ADDRESS, set by ray job submit" if submitted else "RAY_ADDRESS")
    required = "this job was submitted to it" if submitted else variable and "RAY_ADDRESS=auto"
    return _of_file(required, submitted, otherwise)


def ray_folder() -> str:
    """Return the folder where Ray keeps its sessions on this machine; it takes TMPDIR even when that is full."""
    return files.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def accepts(address: str, seconds: float) -> bool:
    """Tell whether something accepts connections at ``host:port``."""
    place = ray_host_and_port(address)
    if place is None:
        return False
    try:
        socket.create_connection(place, timeout=seconds).close()
    except OSError:
        return False
    return True


def _named(address: str, origin: str) -> RayAddress | None:
    """Return the cluster of an address that the user gave."""
    if address == LOCAL_RAY:
        return None
    if address.startswith(("http://", "https://")):
        raise SettingsError(
            f"{origin} is {address}, a dashboard's address, which only `ray job submit` takes; a run needs HOST:PORT "
            "of the head itself, whose port is 6379 unless `ray start` was given another."
        )
    if ray_host_and_port(address) is None:
        if "://" in address:  # of a plugin of Ray's
            return RayAddress(address, origin, found=False)
        raise SettingsError(f"{origin} is {address!r}; it must be auto, local, HOST:PORT or ray://HOST:PORT.")
    answer = ask(address)
    if answer is None:
        raise SettingsError(
            f"No Ray cluster answers at {address} ({origin}). Start it, or mend or unset the address; "
            "--ray-address local starts a Ray for this run."
        )
    if answer == "token" and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise SettingsError(f"The Ray cluster at {address} ({origin}) asks for a token. {_TOKEN}")
    return RayAddress(address, origin, found=False)


def _of_file(required: str, submitted: bool, otherwise: str) -> RayAddress | None:
    """Return the cluster that Ray's file of the last ``ray start`` names; None, and log why, where it is no good.

    Parameters:
        required: why a cluster has to be there; empty: a local Ray will do.
        submitted: a cluster started this process, so it does not matter who started the cluster.
        otherwise: what happens where there is none.

    Raises:
        SettingsError: it is no good, and required; or it wants a token that RAY_AUTH_MODE forbids to send.
    """
    found = _read(files.join(ray_folder(), "ray_current_cluster"), submitted)
    if isinstance(found, RayAddress):
        return found
    level, reason = found
    if required:
        raise SettingsError(f"{reason} ({required}). Start it, name another, or take --ray-address local.")
    logger.log(level, "%s. %s", reason, otherwise)
    return None


def _read(file: str, submitted: bool) -> RayAddress | tuple[int, str]:
    """Return the cluster that a file names, or why not, with the level at which to log it."""
    origin = f"the last one that was started here, by {file}"
    try:
        owner = os.lstat(file).st_uid
        address = files.read_bytes(file)[:300].decode(errors="replace").strip()
    except FileNotFoundError:
        return logging.DEBUG, f"There is no file {file}, so no Ray cluster was started on this machine"
    except (OSError, StorageError) as error:
        return logging.WARNING, f"{file} cannot be read ({error})"
    if ray_host_and_port(address) is None:
        return logging.WARNING, f"{file} holds no address of a Ray cluster"
    if not submitted and _is_of_others(owner, address):
        joins = f"--ray-address {address} joins it"
        return logging.INFO, f"The Ray cluster at {address} ({origin}) is another user's; {joins}"
    answer = ask(address)
    if answer is None:
        return logging.WARNING, f"No Ray cluster answers at {address} ({origin})"
    if answer == "token" and os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise SettingsError(
            f"The Ray cluster at {address} ({origin}) asks for a token, and RAY_AUTH_MODE says not to send one. "
            "Unset it, or take --ray-address local."
        )
    return RayAddress(address, origin, found=True)


def _is_of_others(owner: int, address: str) -> bool:
    """Tell whether another user wrote Ray's file, or listens at the address on this machine by now."""
    me = os.getuid()
    place = ray_host_and_port(address)
    listening = set() if place is None else listeners(place[1])
    return owner != me or bool(listening and me not in listening)


def listeners(port: int) -> set[int]:
    """Return the ids of the users who listen at a TCP port of this machine; none where the system does not tell."""
    users = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = files.read_bytes(f"/proc/net/{table}").decode().splitlines()[1:]
        except StorageError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, user, *_ = line.split()
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                users.add(int(user))
    return users


def ask(address: str) -> str | None:
    """Ask for two seconds whether a Ray answers.

    Parameters:
        address: ``host:port`` or ``ray://host:port``.

    Returns:
        ``"ready"``, ``"token"`` where it asks for one, None where no Ray answers.
    """
    host, port = ray_host_and_port(address) or ("", 0)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return "ready" if accepts(f"{host}:{port}", PROBE_S) else None
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Ray itself goes past proxies too.
    with grpc.insecure_channel(place, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_CALL)(b"", timeout=PROBE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "token"
            # The server of ray:// does not know the call, and answers nevertheless.
            return "ready" if error.code() == grpc.StatusCode.UNIMPLEMENTED else None
    return "ready"
