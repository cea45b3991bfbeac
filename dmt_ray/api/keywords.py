"""The keywords of the Python API: the jobs' options by their names on the command line, typed for editors and mypy.

``tests/api/test_keywords.py`` compares them with the options themselves, which alone have defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_type_hints

from dmt_ray.config import ImageFormat, MetadataChoice, PathFormat, Resolution
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.option_values import option_value
from dmt_ray.method.networks.backbone import BackboneName
from dmt_ray.method.settings import Method, Precision, PriorUse, Standardise, Start, TraversalKind, TvOn
from dmt_ray.options import option_types


class EditKeywords(TypedDict, total=False):
    """What each edit of any model may be told."""

    max_pixels: int
    max_bytes: int
    accept_truncated: bool
    image_format: ImageFormat
    image_quality: int
    metadata: MetadataChoice
    resolution: Resolution
    save_path: int
    path_format: PathFormat
    lpips: bool
    batch_size: int | Literal["auto"]
    allow_cpu_fallback: bool


class ModelKeywords(TypedDict, total=False):
    """What any model may be told when it is fitted or loaded."""

    strength: float | Sequence[float]
    seed: int
    allow_uri: Sequence[str]
    weights: str
    precision: Precision


class NetworkKeywords(TypedDict, total=False):
    """What is decided when any model is fitted."""

    backbone: BackboneName
    taps: Sequence[str]
    size: int
    normalise: bool
    traversal: TraversalKind
    standardise: Standardise


class ColorizerEdit(EditKeywords, total=False):
    """Keywords of ``Colorizer.edit`` and ``Colorizer.path``."""

    neighbors: int | None
    softmax_width: float
    scene_weight: float
    scenes: int
    prior: PriorUse
    iterations: int | None
    tv_weight: float


class ColorizerLoad(ColorizerEdit, ModelKeywords, total=False):
    """Keywords of ``Colorizer.load``."""


class ColorizerFit(ColorizerLoad, NetworkKeywords, total=False):
    """Keywords of ``Colorizer.fit``."""

    image_column: str | None
    uri_column: str | None
    reference_limit: int | None


class TransformerEdit(EditKeywords, total=False):
    """Keywords of ``Transformer.edit`` and ``Transformer.path``."""

    method: Method
    budget_weight: float | Sequence[float]
    beta: float | Sequence[float]
    rbf_variance: float | None
    mean_kernel: float
    shrink: float
    neighbors: int | None
    patch_neighbors: int
    patch_width: float
    scene_weight: float
    position_weight: float
    iterations: int
    tv_weight: float
    tv_on: TvOn
    held_weight: float
    pixel_share: float | None
    hold_chroma: float | None
    start: Start
    match_color: bool
    judge_margin: float
    until_flipped: bool


class TransformerLoad(TransformerEdit, ModelKeywords, total=False):
    """Keywords of ``Transformer.load``."""

    judge: str


class TransformerFit(TransformerLoad, NetworkKeywords, total=False):
    """Keywords of ``Transformer.fit``."""

    source_where: str | None
    target_where: str | None
    basis_where: str | None
    exemplar_image_column: str | None
    exemplar_uri_column: str | None
    balance: Sequence[str]
    group_column: str | None
    exemplar_limit: int | None


def checked(caller: str, allowed: type, config: type[JobConfig], keywords: Mapping[str, object]) -> dict[str, Any]:
    """Return keywords as values of the job's options.

    Parameters:
        caller: what is called, such as ``Colorizer.edit``.
        allowed: the class of its keywords.
        config: the job's options.
        keywords: what was given.

    Raises:
        TypeError: it has no such keyword; names the one that is meant, most likely.
        SettingsError: a value is of another type.
    """
    names, types = get_type_hints(allowed), option_types(config)
    for name in keywords:
        if name not in names:
            raise TypeError(f"{caller}() has no keyword {name!r}{_meant(name, names, types)}")
    return {name: option_value(name, value, types[name]) for name, value in keywords.items()}


def _meant(name: str, names: Iterable[str], options: Iterable[str]) -> str:
    if name in options:
        return ": this option is for fit(), for load() or for whole runs."
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
