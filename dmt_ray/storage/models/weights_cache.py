"""The cache of weights: safetensors files named after the network and the first 16 digits of the content hash."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save as save_safetensors

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage import files
from dmt_ray.storage.models.cache import cache_folder
from dmt_ray.storage.models.hashed_weights import LPIPS_SHA256, Weights, check_pin, hash_weights
from dmt_ray.storage.models.state_dict import parse_state_dict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedWeights:
    """One sound file of the cache."""

    backbone: str
    sha256: str
    path: Path
    size: int
    """Bytes on disk."""


def cached_weights() -> list[CachedWeights]:
    """Return what the cache holds, each file checked against the hash in its name."""
    found = []
    for path in cache_files("*"):
        with contextlib.suppress(DmtError):
            weights = _load_cached(path)
            found.append(CachedWeights(weights.backbone, weights.sha256, path, path.stat().st_size))
    return found


def cache_files(backbone: str) -> list[Path]:
    """Return the files of the cache that are named after a network; ``*``: after any."""
    return sorted(cache_folder().glob(f"{backbone}-????????????????.safetensors"))


def _load_cached(path: Path) -> Weights:
    """Load a file of the cache.

    Raises:
        StorageError: it cannot be read now.
        SettingsError: it is damaged, or not what its name says.
    """
    backbone, _, digest = path.stem.rpartition("-")
    if backbone not in (*BACKBONES, *LPIPS_SHA256):
        raise SettingsError(f"{path.name} is of no backbone that is known")
    weights = hash_weights(backbone, parse_state_dict(backbone, files.read_bytes(str(path)), str(path)), "cache")
    if not weights.sha256.startswith(digest):
        raise SettingsError(f"its numbers hash to {weights.sha256[:16]}")
    check_pin(weights)
    return weights


def load_from_cache(backbone: str) -> Weights | None:
    """Return a network's weights; None where the cache has none that are sound. Unsound files are deleted."""
    for path in cache_files(backbone):
        try:
            return _load_cached(path)
        except files.StorageError as error:  # a disk that fails, or a file of another user: it may be sound
            logger.warning("The cached weights cannot be read, and are left as they are: %s", error)
        except DmtError as error:
            logger.warning("Discarding the cached weights %s: %s", path, str(error).rstrip("."))
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def keep_in_cache(weights: Weights) -> None:
    """Write weights into the cache, or log why they cannot be kept."""
    path = cache_folder() / f"{weights.backbone}-{weights.sha256[:16]}.safetensors"
    try:
        files.write_atomic(str(path), save_safetensors(weights.arrays))
    except files.StorageError as error:
        logger.warning("Cannot keep the weights in the cache: %s", error)
