"""Presets: one word for a set of options. What is given explicitly wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from dmt_ray.jobs.transform import Transform

PresetName = Literal["paper", "fast", "best"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)

#: What each preset sets in every command that has the option.
_EVERYWHERE: Mapping[str, Mapping[str, Any]] = {
    # Gardner et al. 2015: whole images, every unit standardised, a network of rescaled filters. In bf16 the units
    # that hardly vary drown the loss in rounding, and the inversion of many photos ends after a few steps.
    "paper": {"traversal": "global", "standardise": "unit", "normalise": True},
    "fast": {"size": 128, "lpips": False},
    "best": {"size": 448, "precision": "fp32"},
}
#: What it sets in one job besides.
_IN_JOB: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "transform": {
        # Total variation on the image, and the photo's own pixels and colours left to the features.
        "paper": {
            "method": "dmt",
            "mean_kernel": 0.5,
            "shrink": 0.0,
            "iterations": 60,
            "tv_on": "image",
            "tv_weight": 10.0,
            "pixel_share": 0.0,
            "hold_chroma": 0.0,
        },
        "fast": {"iterations": 10},
        "best": {"iterations": 40},
    },
    "colorize": {"paper": {"iterations": 60}},
}


def preset_values(
    preset: str, command: str, known: Mapping[str, Any], *, saved_manifold: bool = False
) -> dict[str, Any]:
    """Return what a preset sets in a command: values by option, without options that the command lacks.

    Parameters:
        preset: one of ``PRESET_NAMES``.
        command: such as ``transform``.
        known: the command's options.
        saved_manifold: the run uses a saved manifold, which decides some options itself.
    """
    values = {**_EVERYWHERE[preset], **_IN_JOB.get(command, {}).get(preset, {})}
    decided = {name for names in Transform.decided.values() for name in names} if saved_manifold else set()
    return {name: value for name, value in values.items() if name in known and name not in decided}
