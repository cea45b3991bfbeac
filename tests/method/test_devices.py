"""Every way through the method on a device that is not the CPU: nothing is mixed, and little is read back."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pretend_device import pretend, reads
from transforming import INPUTS, MOVES, SOURCES, TAPS, TARGETS, configure, labelled

from dmt_ray.method import lbfgs
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.colorizer import Colorizer, build_exemplars, working_luma
from dmt_ray.method.displacement import Edit
from dmt_ray.method.metrics.probe_fit import fit_probe
from dmt_ray.method.metrics.verdicts import ProbeFeatures, ProbeJudge
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import ColorizerSettings, InversionConfig, TransformInversionConfig, TraversalConfig
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.models.weights import load_alexnet, load_lpips

CPU = torch.device("cpu")
ITERATIONS = 4


def network_on(arrays: dict[str, np.ndarray], device: torch.device, held: Sequence[str] = ()) -> FeatureNetwork:
    return FeatureNetwork(arrays, "vgg16", TAPS, precision="fp32", device=device, also=held)


def transform(arrays: dict[str, np.ndarray], name: str, device: torch.device) -> list[list[Edit]]:
    """Learn, move, invert and judge on a device."""
    inversions = {
        "held": TransformInversionConfig(iterations=ITERATIONS, held_weight=0.02, match_color=True),
        "noise": TransformInversionConfig(iterations=ITERATIONS, start="noise"),
    }
    until_flipped = name == "until flipped"
    settings = configure("dmt" if until_flipped or name in inversions else name, until_flipped=until_flipped)
    inversion = inversions.get(name, dataclasses.replace(settings.inversion, iterations=ITERATIONS))
    settings = dataclasses.replace(settings, inversion=inversion)
    network = network_on(arrays, device, ("conv1_1", "conv2_1") if name == "held" else ())
    exemplars = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), []], 17, settings)
    lpips, judge = None, None
    if name in ("held", "until flipped"):
        alexnet = load_alexnet().arrays
        pictures = torch.tensor(np.concatenate([SOURCES, TARGETS])).permute(0, 3, 1, 2).float().to(device)
        features = ProbeFeatures(alexnet, device)(pictures).cpu().numpy()
        judge = ProbeJudge(alexnet, fit_probe(features, np.arange(17) >= 9, [None] * 17).arrays, device)
        lpips = load_lpips("vgg16").arrays if name == "held" else None
    transformer = Transformer(network, exemplars, settings, lpips, judge=judge)
    images = np.stack([transformer.working(rgb) for rgb in INPUTS[:2]])
    moved = transformer.traverse(images, [ImageIdentity()] * len(images))
    mask = np.ones(images.shape[2:], np.float32)
    mask[:20] = 0
    reads.clear()  # from here on they are the inversion's
    return transformer.reconstruct(images, moved, [mask, None])


def colorize(arrays: dict[str, np.ndarray], name: str, device: torch.device) -> list[list[Edit]]:
    traversal = TraversalConfig(traversal=name, neighbors=16)  # type: ignore[arg-type]
    settings = ColorizerSettings(64, traversal, InversionConfig(iterations=ITERATIONS))
    network = network_on(arrays, device)
    colorizer = Colorizer(network, build_exemplars(network, TARGETS, settings), settings)
    luma = np.stack([working_luma(rgb, 64) for rgb in INPUTS[:2]])
    moved = colorizer.traverse(luma)
    reads.clear()
    return colorizer.reconstruct(luma, moved)


QUICK = [(transform, "local"), (transform, "held"), (colorize, "local")]
SLOW = [(transform, each) for each in (*MOVES, "noise", "until flipped") if each != "local"] + [(colorize, "global")]
WAYS = [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_a_device_gives_what_the_cpu_gives_and_reads_little_back(way, name, vgg16_arrays):
    expected = way(vgg16_arrays, name, CPU)
    with pretend() as device:
        found = way(vgg16_arrays, name, device)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.picture, b.picture)
            assert a.figures == b.figures
            assert a.verdict == b.verdict
    inverting = sum(count for what, count in reads.items() if "lbfgs.py" in what)
    iterations = sum(max(each.iterations for each in step) for step in zip(*found, strict=True))
    if name != "until flipped":  # which shows one attempt of several
        # At most two reads an iteration of the batch, and one to begin each step with.
        assert 0 < inverting <= 2 * iterations + len(found[0]), reads


def test_mixing_with_the_cpu_is_refused():
    with pretend() as device, pytest.raises(RuntimeError, match="mixes the device with the CPU"):
        torch.ones(3).to(device) + torch.ones(3)


def test_reads_are_counted():
    with pretend() as device:
        values = torch.arange(3.0).to(device)
        assert float(values.sum()) == 3
        assert values.tolist() == [0, 1, 2]
        assert len(values[values > 0]) == 2
    assert sum(reads.values()) == 3


def test_an_iteration_reads_back_once():
    def bowl(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        far = x - (1 + rows)[:, None]
        stretch = torch.arange(1.0, 1 + x.shape[1]).to(x)
        return (stretch * far.square()).sum(1), 2 * stretch * far

    start = torch.zeros(4, 30)
    expected = lbfgs.minimise(bowl, start, iterations=12, lower=-3, upper=3)
    with pretend() as device:
        found = lbfgs.minimise(bowl, start.to(device), iterations=12, lower=-3, upper=3)
        count = sum(reads.values())
        x = found.x.cpu()
    assert torch.equal(x, expected.x)
    assert 12 <= count <= 18, reads  # one to begin with, one for each iteration, and one for each backtrack
