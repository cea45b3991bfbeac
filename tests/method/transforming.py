"""A small transformer, and pictures of two classes, for the tests of the transform job's method."""

import dataclasses

import numpy as np
import torch

from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.displacement import Edit
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import TransformerSettings, TransformInversionConfig, TransformTraversalConfig
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity, digest

SIZE = 64


TAPS = ("conv2_1", "conv3_1")


MOVES = {
    "dmt": TransformTraversalConfig(strength=(0.5, 1.0)),
    "dfi": TransformTraversalConfig(method="dfi", strength=(0.5, 1.0)),
    "beta": TransformTraversalConfig(method="dfi", beta=(0.05, 0.1)),
    "budget": TransformTraversalConfig(budget_weight=(1e-6, 3e-7)),
    "unit": TransformTraversalConfig(strength=(1.0,), standardise="unit"),
    "none": TransformTraversalConfig(strength=(1.0,), standardise="none"),
    "neighbors": TransformTraversalConfig(strength=(0.5, 1.0), neighbors=4),
    "local": TransformTraversalConfig(strength=(0.5, 1.0), traversal="local", patch_neighbors=4),
}


def small_network(arrays: dict[str, np.ndarray]) -> FeatureNetwork:
    return FeatureNetwork(arrays, "vgg16", TAPS, precision="fp32", device=torch.device("cpu"))


def configure(move: TransformTraversalConfig | str, **changes: object) -> TransformerSettings:
    traversal = MOVES[move] if isinstance(move, str) else move
    settings = TransformerSettings(SIZE, traversal, TransformInversionConfig(iterations=8, tv_weight=1))
    return dataclasses.replace(settings, **changes)


def faces(seed: int, count: int, smile: float) -> np.ndarray:
    """Make pictures (count, 64, 64, 3) uint8 of one thing, of which those of the other class have a bright bar."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, SIZE)
    made = []
    for _ in range(count):
        x, y, width = *rng.uniform(-0.1, 0.1, 2), rng.uniform(0.5, 0.7)
        blob = np.exp(-(((grid[None] - x) / width) ** 2) - ((grid[:, None] - y) / 0.8) ** 2)
        bar = np.exp(-((grid[None] / 0.4) ** 2) - ((grid[:, None] - 0.4) / 0.12) ** 2)
        rgb = np.stack([0.3 + 0.4 * blob + smile * bar, 0.2 + 0.4 * blob, 0.4 - 0.2 * blob + smile * bar], -1)
        made.append((255 * np.clip(rgb + rng.normal(0, 0.01, rgb.shape), 0, 1)).astype(np.uint8))
    return np.stack(made)


def labelled(pictures: np.ndarray) -> list[tuple[np.ndarray, ImageIdentity]]:
    return [(rgb, ImageIdentity(digest(rgb.tobytes()))) for rgb in pictures]


SOURCES, TARGETS, INPUTS = faces(0, 9, 0.0), faces(1, 8, 0.4), faces(2, 3, 0.0)


_MADE: dict[tuple[str, ...], dict[str, np.ndarray]] = {}


def make(network: FeatureNetwork, config: TransformerSettings) -> Transformer:
    kind = (config.traversal.traversal, config.traversal.standardise)
    if kind not in _MADE:
        _MADE[kind] = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), []], 17, config)
        for array in _MADE[kind].values():
            array.flags.writeable = False  # as the object store hands them out
    return Transformer(network, _MADE[kind], config)


def working(transformer: Transformer, pictures: np.ndarray) -> np.ndarray:
    return np.stack([transformer.working(rgb) for rgb in pictures])


def edits(
    transformer: Transformer, pictures: np.ndarray, masks: list[np.ndarray | None] | None = None
) -> list[list[Edit]]:
    images = working(transformer, pictures)
    moved = transformer.traverse(images, [ImageIdentity()] * len(images))
    return transformer.reconstruct(images, moved, masks or [None] * len(images))


def targets(transformer: Transformer, images: np.ndarray) -> list[torch.Tensor]:
    """Return the moved features of the first step."""
    planes, maps = transformer._maps(images)
    found = transformer.traverse(images, [ImageIdentity()] * len(images))
    return transformer.moves(maps, planes, found).step(0).targets


def nearness(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-12)))


def bar_brightness(planes: np.ndarray) -> float:
    """Return the edit's mean where the other class has its bar, less its mean elsewhere."""
    inside = planes[:, 42:47, 24:40]
    outside = planes[:, :30]
    return float(inside[[0, 2]].mean() - outside[[0, 2]].mean())
