"""Edit whole image collections by deep manifold traversal, on Ray.

The names in ``_NAMES`` are the Python API. Each is imported when it is first used, so ``import dmt_ray`` loads
neither torch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "dmt_ray.config": ("ComputeConfig", "InputConfig", "JudgeConfig", "MaskConfig", "OutputConfig", "RunConfig"),
    "dmt_ray.errors": ("DmtError", "ImageError", "SettingsError"),
    "dmt_ray.jobs.colorize": ("ColorizeConfig", "ReferenceConfig"),
    "dmt_ray.jobs.fit": ("FitConfig", "fit"),
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
