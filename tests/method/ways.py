"""Every way through the method, from pictures to edits, on a device; for the tests of devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transforming import INPUTS, MOVES, SOURCES, TAPS, TARGETS, configure, labelled

from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.colorizer import Colorizer, build_exemplars, working_luma
from dmt_ray.method.colors.describing import COLOR_LAYERS
from dmt_ray.method.displacement import Edit
from dmt_ray.method.metrics.lpips import lpips_shapes
from dmt_ray.method.metrics.probe_fit import fit_probe
from dmt_ray.method.metrics.verdicts import ProbeFeatures, ProbeJudge
from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.networks.layers import convolution_shapes
from dmt_ray.method.settings import ColorizerSettings, InversionConfig, TransformInversionConfig, TraversalConfig
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity

CPU = torch.device("cpu")
ITERATIONS = 4


def network_on(
    arrays: dict[str, np.ndarray], device: torch.device, precision: str = "fp32", held: Sequence[str] = ()
) -> FeatureNetwork:
    return FeatureNetwork(arrays, "vgg16", TAPS, precision=precision, device=device, also=held)


def random_arrays(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of a network that judges or compares: which numbers they are matters to no device."""
    random = np.random.default_rng(0)
    return {
        name: np.abs(random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)).astype(np.float32)
        if name.startswith("lin")
        else random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def transform(
    arrays: dict[str, np.ndarray],
    name: str,
    device: torch.device,
    begin: Callable[[], object] = lambda: None,
    precision: str = "fp32",
) -> list[list[Edit]]:
    """Learn, move, invert and judge on a device; ``begin`` is called before the inversion."""
    inversions = {
        "held": TransformInversionConfig(iterations=ITERATIONS, held_weight=0.02, match_color=True),
        "noise": TransformInversionConfig(iterations=ITERATIONS, start="noise"),
    }
    until_flipped = name == "until flipped"
    settings = configure("dmt" if until_flipped or name in inversions else name, until_flipped=until_flipped)
    inversion = inversions.get(name, dataclasses.replace(settings.inversion, iterations=ITERATIONS))
    settings = dataclasses.replace(settings, inversion=inversion)
    network = network_on(arrays, device, precision, ("conv1_1", "conv2_1") if name == "held" else ())
    exemplars = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), []], 17, settings)
    lpips, judge = None, None
    if name in ("held", "until flipped"):
        alexnet = random_arrays(convolution_shapes(ALEXNET_LAYERS))
        pictures = torch.tensor(np.concatenate([SOURCES, TARGETS])).permute(0, 3, 1, 2).float().to(device)
        features = ProbeFeatures(alexnet, device)(pictures).cpu().numpy()
        judge = ProbeJudge(alexnet, fit_probe(features, np.arange(17) >= 9, [None] * 17).arrays, device)
        lpips = random_arrays(lpips_shapes("vgg16")) if name == "held" else None
    transformer = Transformer(network, exemplars, settings, lpips, judge=judge)
    images = np.stack([transformer.working(rgb) for rgb in INPUTS[:2]])
    moved = transformer.traverse(images, [ImageIdentity()] * len(images))
    mask = np.ones(images.shape[2:], np.float32)
    mask[:20] = 0
    begin()
    return transformer.reconstruct(images, moved, [mask, None])


def colorize(
    arrays: dict[str, np.ndarray],
    name: str,
    device: torch.device,
    begin: Callable[[], object] = lambda: None,
    precision: str = "fp32",
) -> list[list[Edit]]:
    """Learn, move and invert on a device; ``begin`` is called before the inversion."""
    traversal = TraversalConfig(traversal=name, neighbors=16, prior="on", strength=(1.5,))  # type: ignore[arg-type]
    settings = ColorizerSettings(64, traversal, InversionConfig(iterations=ITERATIONS))
    network = network_on(arrays, device, precision, COLOR_LAYERS)
    colorizer = Colorizer(network, build_exemplars(network, TARGETS, settings), settings)
    luma = np.stack([working_luma(rgb, 64) for rgb in INPUTS[:2]])
    moved = colorizer.traverse(luma)
    begin()
    return colorizer.reconstruct(luma, moved)


#: Every way: what does it, and which kind of it.
WAYS = [
    *((transform, name) for name in (*MOVES, "held", "noise", "until flipped")),
    (colorize, "local"),
    (colorize, "global"),
]
