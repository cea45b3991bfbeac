"""The network that a run's options ask for, on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dmt_ray.jobs.job import Array, JobConfig
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import Precision


def make_network(
    arrays: Mapping[str, Array], config: JobConfig, device: str, also: Sequence[str] = ()
) -> FeatureNetwork:
    """Build the run's network on a device; ``also`` are layers that it must have beside its taps."""
    model = config.model
    return FeatureNetwork(
        arrays, model.backbone, model.taps, precision=precision_of(config), device=torch.device(device), also=also
    )


def precision_of(config: JobConfig) -> Precision:
    """Return the precision that the options ask for.

    Where units are standardised one by one, as in the papers, the rounding of bf16 ends the inversion of many photos
    at once: ``auto`` is fp32 then.
    """
    auto = config.model.precision == "auto"
    unit = config.has_option("standardise") and config.option("standardise") == "unit"
    return "fp32" if auto and unit else config.model.precision
