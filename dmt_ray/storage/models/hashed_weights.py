"""The arrays of a network with the hash of their numbers, and the hash that published ones must have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmt_ray.errors import SettingsError
from dmt_ray.method.networks.backbone import BACKBONES

Arrays = dict[str, npt.NDArray[np.float32]]

#: Content hash of LPIPS 0.1's networks: all convolutions of torchvision's, and the linear heads.
LPIPS_SHA256 = {
    "lpips-vgg16": "ed6da20fb29f3301bf0c1730a8016c753a8e5b52dd81c420fe3335d2e9572c89",
    "lpips-alexnet": "fbb976f02a80c9fdfbca4f0579af81734fc93a273603b74c42a922ee086d29c9",
}


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


def content_sha256(arrays: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """Return the hash of names, shapes and float32 values, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], dtype="<f4")
        digest.update(f"{name} {'x'.join(map(str, values.shape))}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def hash_weights(backbone: str, arrays: Arrays, origin: str) -> Weights:
    """Return arrays with their hash."""
    return Weights(backbone, arrays, content_sha256(arrays), origin)


def pinned_sha256(network: str) -> str | None:
    """Return the content hash that a network's weights must have; None where it is not known."""
    return BACKBONES[network].sha256 if network in BACKBONES else LPIPS_SHA256[network]


def check_pin(weights: Weights) -> None:
    """Check published weights.

    Raises:
        SettingsError: their numbers are not those that the network's must be.
    """
    pinned = pinned_sha256(weights.backbone)
    if pinned is not None and weights.sha256 != pinned:
        raise SettingsError(f"the numbers hash to {weights.sha256[:16]}, not to the pinned {pinned[:16]}")
