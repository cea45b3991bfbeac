"""torchvision's weights, downloaded from where torchvision says, with the checksum that their name carries."""

from __future__ import annotations

import hashlib
import http.client
import re
import threading
import urllib.request
from pathlib import Path
from typing import Any

from dmt_ray.errors import SettingsError
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage.disk_space import FULL_DISK
from dmt_ray.storage.files import masked
from dmt_ray.storage.models.hashed_weights import Arrays
from dmt_ray.storage.models.state_dict import parse_state_dict
from dmt_ray.storage.scratch import scratch_folder

_CONNECT_TIMEOUT_S = 10.0


def download_from_torchvision(backbone: str) -> Arrays:
    """Return a backbone's arrays.

    Raises:
        SettingsError: the download failed, or what came is not this backbone.
    """
    url = _torchvision_url(backbone)
    with scratch_folder("weights") as folder:
        path = folder / "weights.pth"
        _download(url, path)
        return parse_state_dict(backbone, path, url.rpartition("/")[2])


def _torchvision_url(backbone: str) -> str:
    from torchvision import models  # costs a second, and only this source needs it

    name = BACKBONES[backbone].torchvision
    assert name is not None
    return str(getattr(models, name).IMAGENET1K_V1.url)


def _download(url: str, path: Path) -> None:
    """Fetch a URL whose name ends in ``-<first digits of its SHA-256>.<suffix>`` and check them."""
    prefix = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    if prefix is None:
        raise SettingsError(f"{masked(url)} carries no checksum in its name")
    digest = hashlib.sha256()
    try:
        with _connect(url) as response, path.open("wb") as file:
            while block := response.read(2**20):
                digest.update(block)
                file.write(block)
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in FULL_DISK:
            raise
        raise SettingsError(f"the download failed ({masked(str(getattr(error, 'reason', error)))})") from error
    if not digest.hexdigest().startswith(prefix[1]):
        raise SettingsError(
            f"the download has the wrong checksum ({digest.hexdigest()[: len(prefix[1])]}, not {prefix[1]})"
        )


def _connect(url: str) -> Any:
    """Open a URL, or fail within ``_CONNECT_TIMEOUT_S`` even where looking up the host's name hangs."""
    result: list[Any] = []

    def connect() -> None:
        try:
            result.append(urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT_S))
        except Exception as error:  # raised again below, in the caller's thread
            result.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_TIMEOUT_S)
    if not result:
        raise TimeoutError(f"no answer within {_CONNECT_TIMEOUT_S:.0f} s")
    if isinstance(result[0], OSError):
        raise result[0]
    if isinstance(result[0], Exception):
        raise OSError(str(result[0])) from result[0]
    return result[0]
