"""A classifier of the user's own as the judge: an ONNX file at any URI, checked, and run by onnxruntime on the CPU.

What the file must be:

- one input, float32 (N, 3, H, W) with N free: RGB in 0..1, or normalised as ImageNet's where the model's
  ``metadata_props`` have ``dmt_ray.normalisation`` = ``imagenet`` (``none`` is the default). Pictures are resized to
  H x W, 224 x 224 where these are free;
- one output of floats: (N,) or (N, 1), a logit that is above 0 for the target class, or (N, 2), the logits of the
  source and of the target class, whose difference target - source is the decision value.

An ONNX file is a graph of known operators: reading it runs no code of its own, unlike a pickle.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmt_ray.errors import SettingsError
from dmt_ray.method.metrics.verdicts import resized
from dmt_ray.method.networks.conv_stack import IMAGENET_MEAN, IMAGENET_STD
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

NORMALISATION_KEY = "dmt_ray.normalisation"
NORMALISATIONS = ("none", "imagenet")
#: Side of the pictures where the model leaves it free.
DEFAULT_SIDE = 224
#: Pictures that the check runs, to see that any number will do and what comes out.
_TRIED = 2
_NEEDED = (
    "The judge needs one float32 input (N, 3, H, W) with N free, and one output (N,) or (N, 1), a logit above 0 for "
    "the target, or (N, 2), the logits of source and target; see docs/output.md"
)


@dataclass(frozen=True)
class OnnxClassifier:
    """A checked ONNX file."""

    uri: str
    """Where it was read from, without credentials."""
    data: bytes
    sha256: str
    """Of the file's bytes."""
    side: tuple[int, int]
    """Height and width in pixels of the pictures that it takes."""
    normalisation: str
    """One of ``NORMALISATIONS``."""


class OnnxJudge:
    """Judges pictures by a checked classifier.

    Parameters:
        classifier: what ``load_classifier`` returned; its session is made when it is first needed.
        margin: see ``Judge``.
    """

    def __init__(self, classifier: OnnxClassifier, margin: float = 0.0) -> None:
        self.margin = margin
        self._classifier = classifier

    @functools.cached_property
    def _session(self) -> Any:
        return _open_session(self._classifier.data)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the decision value (B,) float64 of pictures (B, 3, H, W) in 0..255; above 0 is the target class."""
        images = resized(pictures.float(), *self._classifier.side).cpu().clamp(0, 255) / 255
        if self._classifier.normalisation == "imagenet":
            mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
            images = (images - mean) / std
        (output,) = self._session.run(None, {self._session.get_inputs()[0].name: images.numpy()})
        values = torch.from_numpy(np.asarray(output, np.float64))
        if values.ndim == 2:
            values = values[:, 0] if values.shape[1] == 1 else values[:, 1] - values[:, 0]
        return values.to(pictures.device)


def load_classifier(uri: str) -> OnnxClassifier:
    """Read and check an ONNX classifier.

    Parameters:
        uri: a local path or any URI that fsspec knows.

    Raises:
        SettingsError: onnxruntime is not installed, or the file cannot be read or is not what a judge must be; names
            the file, what it has, and what is needed.
    """
    shown = masked(uri)
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"--judge {shown} needs onnxruntime: pip install 'dmt-ray[judge]', or say --judge alexnet or none."
        ) from error
    try:
        data = files.read_bytes(uri)
    except files.StorageError as error:
        raise SettingsError(f"Cannot read the judge {error}") from error
    try:
        session = _open_session(data)
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise SettingsError(
            f"The judge {shown} is no ONNX model in one file that onnxruntime can run: {_words(error)}. {_NEEDED}."
        ) from error
    side = _input_side(session, shown)
    normalisation = session.get_modelmeta().custom_metadata_map.get(NORMALISATION_KEY, NORMALISATIONS[0])
    if normalisation not in NORMALISATIONS:
        raise SettingsError(
            f"The judge {shown} says {NORMALISATION_KEY} = {normalisation!r} in its metadata_props, which must be "
            f"{' or '.join(NORMALISATIONS)}."
        )
    _check_output(session, side, shown)
    return OnnxClassifier(shown, data, hashlib.sha256(data).hexdigest(), side, normalisation)


def _open_session(data: bytes) -> Any:
    """Return a session on the CPU with one thread: an actor has its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong comes as an exception
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _input_side(session: Any, shown: str) -> tuple[int, int]:
    """Return height and width of the pictures that a model takes."""
    inputs = session.get_inputs()
    has = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs) or "none"
    shape = inputs[0].shape if len(inputs) == 1 else []
    fits = len(shape) == 4 and not isinstance(shape[0], int) and shape[1] == 3
    if not fits or inputs[0].type != "tensor(float)":
        raise SettingsError(f"The judge {shown} has the inputs {has}. {_NEEDED}.")
    height, width = (length if isinstance(length, int) and length > 0 else DEFAULT_SIDE for length in shape[2:])
    return height, width


def _check_output(session: Any, side: tuple[int, int], shown: str) -> None:
    """Run a few grey pictures, and see that the model has one output of a shape that tells a decision value."""
    outputs = session.get_outputs()
    has = ", ".join(f"{each.name} {each.type} {each.shape}" for each in outputs)
    if len(outputs) != 1 or outputs[0].type not in ("tensor(float)", "tensor(double)", "tensor(float16)"):
        raise SettingsError(f"The judge {shown} has the outputs {has}. {_NEEDED}.")
    try:
        grey = np.full((_TRIED, 3, *side), 0.5, np.float32)
        (output,) = session.run(None, {session.get_inputs()[0].name: grey})
    except Exception as error:
        raise SettingsError(
            f"The judge {shown} fails on {_TRIED} pictures of {side[0]} x {side[1]}: {_words(error)}. {_NEEDED}."
        ) from error
    if output.shape not in ((_TRIED,), (_TRIED, 1), (_TRIED, 2)):
        raise SettingsError(
            f"The judge {shown} gives {output.shape} for {_TRIED} pictures, and says {has}. {_NEEDED}."
        )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
