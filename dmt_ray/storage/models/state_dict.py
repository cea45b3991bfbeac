"""State dicts from outside: what a network needs of one, or an error that says what is wrong with it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from dmt_ray.errors import SettingsError
from dmt_ray.method.metrics.lpips import lpips_shapes
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.models.hashed_weights import Arrays


def array_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of a network, as ``Weights.backbone`` names it."""
    return lpips_shapes(network.removeprefix("lpips-")) if network.startswith("lpips-") else BACKBONES[network].shapes


def read_state_dict(backbone: str, uri: str) -> Arrays:
    """Read a state dict from a path or URI, see ``parse_state_dict``."""
    try:
        data = files.read_bytes(uri)
    except files.StorageError as error:
        raise SettingsError(f"Cannot read the weights {error}") from error
    return parse_state_dict(backbone, data, masked(uri))


def parse_state_dict(backbone: str, data: bytes | Path, source: str) -> Arrays:
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
    return pick_arrays(backbone, state, source)


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


def pick_arrays(backbone: str, state: Mapping[str, Any], source: str) -> Arrays:
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
