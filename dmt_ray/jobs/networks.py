"""The network that a run's options ask for, on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dmt_ray.jobs.job import Array, JobConfig
from dmt_ray.method.networks.feature_network import FeatureNetwork


def make_network(
    arrays: Mapping[str, Array], config: JobConfig, device: str, also: Sequence[str] = ()
) -> FeatureNetwork:
    """Build the run's network on a device; ``also`` are layers that it must have beside its taps."""
    model = config.model
    return FeatureNetwork(
        arrays, model.backbone, model.taps, precision=model.precision, device=torch.device(device), also=also
    )
