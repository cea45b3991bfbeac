"""Networks with random weights, and pictures, for the tests of the method."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dmt_ray.errors import SettingsError
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.storage.models.hashed_weights import Weights
from dmt_ray.storage.models.weights import resolve_weights

TAPS = ("conv3_1", "conv4_1", "conv5_1")


@pytest.fixture(scope="session")
def real_weights() -> Callable[[Callable[[], Weights]], dict[str, np.ndarray]]:
    """Loads published weights; skips the test on a GPU machine that cannot have them."""

    def load(loader: Callable[[], Weights]) -> dict[str, np.ndarray]:
        try:
            return loader().arrays
        except SettingsError as error:
            if torch.cuda.is_available():
                pytest.skip(str(error))
            raise

    return load


@pytest.fixture(scope="session")
def vgg16_arrays() -> dict[str, np.ndarray]:
    return resolve_weights("vgg16", "random:0").arrays


@pytest.fixture(scope="session")
def network(vgg16_arrays: dict[str, np.ndarray]) -> FeatureNetwork:
    return FeatureNetwork(vgg16_arrays, "vgg16", TAPS, precision="fp32", device=torch.device("cpu"))


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """Eight smooth coloured pictures (8, 64, 64, 3) uint8, alike, whose colour depends on their brightness."""
    rng = np.random.default_rng(3)
    grid = np.linspace(0, 1, 64)
    made = []
    for _ in range(8):
        fx, fy, phase = rng.uniform(1.4, 1.6), rng.uniform(1.4, 1.6), rng.uniform(1, 1.3)
        base = 0.5 + 0.4 * np.sin(fx * 6 * grid[:, None] + phase) * np.cos(fy * 6 * grid[None])
        rgb = np.stack([base, base * 0.7 + 0.1, 0.9 - 0.6 * base], -1)
        made.append((255 * np.clip(rgb + rng.normal(0, 0.01, rgb.shape), 0, 1)).astype(np.uint8))
    return np.stack(made)
