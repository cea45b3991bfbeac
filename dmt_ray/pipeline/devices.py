"""The device of an actor: the GPU that Ray gave it, or an error that says why CUDA does not answer there."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Sequence

import torch

from dmt_ray.errors import SettingsError

logger = logging.getLogger(__name__)

#: Seconds that nvidia-smi may take; a driver that hangs would never answer.
_SMI_S = 15.0
_FALLBACK = "let the CPU compute what that GPU was to do, with --allow-cpu-fallback"


class NoDeviceError(SettingsError):
    """CUDA does not answer where Ray gave an actor a GPU."""


def claim_device(gpu_ids: Sequence[int | str], node: str, *, allow_cpu: bool, remedy: str = _FALLBACK) -> str:
    """Return the torch device of an actor to which Ray gave ``gpu_ids``, such as ``cuda:0``, once it has computed.

    Ray narrows CUDA_VISIBLE_DEVICES to these GPUs, so the first one an actor sees is its own. An actor without a GPU
    takes the CPU even where CUDA would answer, because those GPUs belong to others.

    Parameters:
        gpu_ids: what ``ray.get_gpu_ids`` says.
        node: names the node in the error.
        allow_cpu: take the CPU with a warning where CUDA does not answer.
        remedy: what the error says that one can do, beside mending the node.

    Raises:
        NoDeviceError: Ray gave a GPU, and CUDA does not answer.
    """
    if not gpu_ids:
        return "cpu"
    trouble = cuda_trouble()
    if trouble is None:
        return "cuda:0"
    found = f"Ray gave GPU {', '.join(map(str, gpu_ids))} of node {node}, but CUDA does not answer there: {trouble}"
    if allow_cpu:
        logger.warning("%s The CPU computes instead (--allow-cpu-fallback).", found)
        return "cpu"
    raise NoDeviceError(
        f"{found} Mend the driver or PyTorch on that node, or start its Ray with --num-gpus 0; or {remedy}."
    )


def device_name(device: str) -> str:
    """Return a torch device as a row names it: ``cpu``, or ``cuda:`` and the model, as ``cuda:NVIDIA A100``."""
    kind = torch.device(device).type
    return f"{kind}:{torch.cuda.get_device_name(device)}" if kind == "cuda" else kind


def complaint_in(error: BaseException) -> str | None:
    """Return the ``NoDeviceError`` that an error of Ray tells of, as its sentence; None where there is none.

    Ray gives an error of an actor's constructor as text alone.
    """
    match = re.search(rf"{NoDeviceError.__name__}: ([^\n]+)", str(error))
    return None if match is None else match[1].strip()


def cuda_trouble() -> str | None:
    """Return why the first CUDA device computes nothing, with the driver's own words; None when it computes."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is built without CUDA. {_driver()}"
    try:
        torch.cuda.init()
        numbers = torch.arange(4.0, device="cuda:0")
        right = float((numbers * numbers).sum()) == 14.0
    except Exception as error:  # RuntimeError, AssertionError, AcceleratorError: whatever torch says
        words = " ".join(str(error).split()).partition(" CUDA kernel errors might be")[0]
        return f"{words[:300].rstrip('. ')} (PyTorch {torch.__version__}). {_driver()}"
    return None if right else f"its first sum is wrong (PyTorch {torch.__version__}). {_driver()}"


def _driver() -> str:
    """Say what nvidia-smi knows of the driver, in one sentence."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_S, check=False)
    except FileNotFoundError:
        return "That node has no nvidia-smi."
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer ({type(error).__name__})."
    said = "; ".join((done.stdout + done.stderr).strip().splitlines()[:8])
    return f"nvidia-smi says: {(said or f'nothing (exit code {done.returncode})').rstrip('.')}."
