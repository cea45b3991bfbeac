"""Edit whole image collections by deep manifold traversal, on Ray.

The names in ``_NAMES`` are the Python API (docs/python.md). Each is imported when it is first used, so ``import
dmt_ray`` loads neither torch nor Ray nor Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names once more, for editors and type checkers
    from dmt_ray.api.colorizer import Colorizer as Colorizer
    from dmt_ray.api.editing import EditedPhoto as EditedPhoto
    from dmt_ray.api.running import RunResult as RunResult
    from dmt_ray.api.running import run as run
    from dmt_ray.api.transformer import Transformer as Transformer
    from dmt_ray.config import ComputeConfig as ComputeConfig
    from dmt_ray.config import InputConfig as InputConfig
    from dmt_ray.config import JudgeConfig as JudgeConfig
    from dmt_ray.config import MaskConfig as MaskConfig
    from dmt_ray.config import OutputConfig as OutputConfig
    from dmt_ray.config import RunConfig as RunConfig
    from dmt_ray.errors import DmtError as DmtError
    from dmt_ray.errors import ImageError as ImageError
    from dmt_ray.errors import SettingsError as SettingsError
    from dmt_ray.jobs.colorize import ColorizeConfig as ColorizeConfig
    from dmt_ray.jobs.colorize import ReferenceConfig as ReferenceConfig
    from dmt_ray.jobs.fit import FitConfig as FitConfig
    from dmt_ray.jobs.reconstruct import ReconstructConfig as ReconstructConfig
    from dmt_ray.jobs.reconstruct import reconstruct_config as reconstruct_config
    from dmt_ray.jobs.transform import ExemplarConfig as ExemplarConfig
    from dmt_ray.jobs.transform import TransformConfig as TransformConfig
    from dmt_ray.method.settings import InversionConfig as InversionConfig
    from dmt_ray.method.settings import ModelConfig as ModelConfig
    from dmt_ray.method.settings import TransformInversionConfig as TransformInversionConfig
    from dmt_ray.method.settings import TransformTraversalConfig as TransformTraversalConfig
    from dmt_ray.method.settings import TraversalConfig as TraversalConfig
    from dmt_ray.output.compact import compact as compact
    from dmt_ray.output.verify import verify_output as verify_output
    from dmt_ray.pipeline.fitting import fit as fit
    from dmt_ray.pipeline.run import run_job as run_job

__version__ = "0.2.0"

_NAMES = {
    "dmt_ray.api.colorizer": ("Colorizer",),
    "dmt_ray.api.editing": ("EditedPhoto",),
    "dmt_ray.api.running": ("RunResult", "run"),
    "dmt_ray.api.transformer": ("Transformer",),
    "dmt_ray.config": ("ComputeConfig", "InputConfig", "JudgeConfig", "MaskConfig", "OutputConfig", "RunConfig"),
    "dmt_ray.errors": ("DmtError", "ImageError", "SettingsError"),
    "dmt_ray.jobs.colorize": ("ColorizeConfig", "ReferenceConfig"),
    "dmt_ray.jobs.fit": ("FitConfig",),
    "dmt_ray.jobs.reconstruct": ("ReconstructConfig", "reconstruct_config"),
    "dmt_ray.jobs.transform": ("ExemplarConfig", "TransformConfig"),
    "dmt_ray.method.settings": (
        *(
            "InversionConfig",
            "ModelConfig",
            "TransformInversionConfig",
            "TransformTraversalConfig",
            "TraversalConfig",
        ),
    ),
    "dmt_ray.output.compact": ("compact",),
    "dmt_ray.output.verify": ("verify_output",),
    "dmt_ray.pipeline.fitting": ("fit",),
    "dmt_ray.pipeline.run": ("run_job",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of the API."""
    if name not in _MODULES:
        raise AttributeError(f"module 'dmt_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the API."""
    return sorted([*globals(), *_MODULES])
