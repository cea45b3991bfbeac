"""The transform job's inversion of random pictures with random weights, and how long an action takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmt_ray.method.inversion.objective import PictureObjective, invert
from dmt_ray.method.inversion.starting import ChromaHold
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import TransformInversionConfig


class CountedObjective(PictureObjective):
    """The objective, which counts how many images it was asked for."""

    images = 0

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return value (R,) and gradient (R, n); see ``PictureObjective``."""
        self.images += len(rows)
        return super().__call__(x, rows)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, action: Callable[[], object], repeats: int = 1) -> float:
    """Return how long an action takes on a device that has nothing else to do."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    synchronise(device)
    return (time.perf_counter() - started) / repeats


def matrix_rate(device: torch.device, side: int) -> float:
    """Return the operations a second of a product of two random bf16 matrices (side, side)."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        a @ b
    return float(2 * side**3 / seconds(device, lambda: a @ b, 10))


def random_arrays(backbone: str) -> dict[str, np.ndarray]:
    """Return weights of the right shapes, scaled so that maps neither vanish nor explode."""
    random = np.random.default_rng(0)
    return {
        name: random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        if len(shape) > 1
        else np.zeros(shape, np.float32)
        for name, shape in BACKBONES[backbone].shapes.items()
    }


def weights_of(backbone: str, spec: str) -> dict[str, np.ndarray]:
    """Return random weights, or those that ``--weights`` names, where they can be had."""
    if spec == "random":
        return random_arrays(backbone)
    from dmt_ray.errors import DmtError
    from dmt_ray.storage.models.weights import resolve_weights

    try:
        return dict(resolve_weights(backbone, spec).arrays)
    except DmtError as error:
        print(f"{backbone}: random weights, because: {error}", flush=True)
        return random_arrays(backbone)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let convolutions of float32 be computed in TF32, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def pictures(count: int, size: int, device: torch.device, seed: int) -> Tensor:
    """Return pictures (count, 3, size, size) in 0..255 with coarse and fine detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 16, size // 16, generator=generator)
    fine = torch.rand(1, 3, size, size, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    picture = (255 * (0.8 * wide + 0.2 * fine)).to(device)
    shades = torch.linspace(0.7, 1.0, count, device=device)[:, None, None, None]
    return picture * shades


def objective_of(network: FeatureNetwork, batch: int, size: int) -> tuple[CountedObjective, Tensor]:
    """Return the transform job's objective for a batch, and where its inversion begins."""
    start = pictures(batch, size, network.device, 0)
    settings = TransformInversionConfig()
    with torch.no_grad():
        targets = network(pictures(batch, size, network.device, 1) / 255)
    hold = ChromaHold(start, settings.hold_sigma * size / 128)
    return CountedObjective(network, targets, start, tv_weight=settings.tv_weight, hold=hold), start


def run(objective: PictureObjective, start: Tensor, iterations: int) -> int:
    """Invert; return the iterations of all images together."""
    found = invert(objective, start, before=start, bounds=(0.0, 255.0), iterations=iterations)
    return int(found.iterations.sum())


def operations(network: FeatureNetwork, size: int) -> tuple[int, int]:
    """Return the operations of value and gradient of one image, and of its forward pass alone."""
    objective, start = objective_of(network, 1, size)
    rows = objective.everything()
    with FlopCounterMode(display=False) as both:
        objective(start.flatten(1), rows)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        objective.features_term(start, rows)
    return both.get_total_flops(), forward.get_total_flops()
