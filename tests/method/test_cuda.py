"""The method on a CUDA device: what the CPU gives, within rounding, in no more memory than docs/memory.md says."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from transforming import INPUTS, TAPS, faces
from ways import CPU, WAYS, colorize, network_on, random_arrays, transform

from dmt_ray.method.displacement import Edit
from dmt_ray.method.inversion.objective import PictureObjective, invert
from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.method.metrics.lpips import Lpips, lpips_shapes
from dmt_ray.method.metrics.similarity import SimilarityMeter
from dmt_ray.method.metrics.verdicts import ProbeFeatures
from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.networks.layers import convolution_shapes
from dmt_ray.method.settings import ModelConfig
from dmt_ray.method.traversal import device_blocks
from dmt_ray.method.traversal.manifold import Manifold
from dmt_ray.method.traversal.solving import traverse_to_strengths
from dmt_ray.method.traversal.witness import BorderedGram

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda", 0)
#: Bytes that kernels may take for themselves, whatever the batch.
WORKSPACE = 2**28


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolutions of float32 in float32: PyTorch computes them in TF32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def far(found: Sequence[Sequence[Edit]], expected: Sequence[Sequence[Edit]]) -> float:
    """Return the mean difference of the pictures, in 8-bit units."""
    pairs = [(a, b) for ours, theirs in zip(found, expected, strict=True) for a, b in zip(ours, theirs, strict=True)]
    assert pairs
    return float(np.mean([np.abs(a.picture.astype(float) - b.picture).mean() for a, b in pairs]))


@pytest.mark.parametrize(("way", "name"), WAYS)
def test_cuda_gives_what_the_cpu_gives(way, name, vgg16_arrays, exact):
    expected = way(vgg16_arrays, name, CPU)
    found = way(vgg16_arrays, name, CUDA)
    assert far(found, expected) < 0.05
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a.picture.astype(int) - b.picture).max() <= 4
            assert a.figures.strength == pytest.approx(b.figures.strength, rel=1e-2)
            assert a.figures.displacement_norm == pytest.approx(b.figures.displacement_norm, rel=1e-2)
            assert a.feature_loss_before == pytest.approx(b.feature_loss_before, rel=1e-3)
            assert a.feature_loss_after == pytest.approx(b.feature_loss_after, rel=0.01)
            if b.verdict is not None:
                assert a.verdict is not None
                assert a.verdict.before == pytest.approx(b.verdict.before, rel=0.02, abs=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # fp32 as PyTorch has it by default: TF32
@pytest.mark.parametrize(("way", "name"), [(transform, "dmt"), (transform, "local"), (colorize, "local")])
def test_coarser_numbers_give_nearly_the_same_pictures(way, name, precision, vgg16_arrays):
    assert far(way(vgg16_arrays, name, CUDA, precision=precision), way(vgg16_arrays, name, CPU)) < 0.5


def test_the_networks_maps_are_those_of_the_cpu(vgg16_arrays, network, exact):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    there = FeatureNetwork(vgg16_arrays, "vgg16", network.taps, precision="fp32", device=CUDA)
    for ours, theirs in zip(network(images), there(images.to(CUDA)), strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-3, atol=1e-3)


def test_lpips_and_the_judges_features_are_those_of_the_cpu(exact):
    a, b = (torch.tensor(faces(seed, 3, 0.3)).permute(0, 3, 1, 2).float() for seed in (5, 6))
    alexnet, vgg = random_arrays(convolution_shapes(ALEXNET_LAYERS)), random_arrays(lpips_shapes("vgg16"))
    expected = Lpips("vgg16", vgg)(a / 255, b / 255)
    found = Lpips("vgg16", vgg).to(CUDA)(a.to(CUDA) / 255, b.to(CUDA) / 255).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        ProbeFeatures(alexnet, CUDA)(a).cpu(), ProbeFeatures(alexnet, CPU)(a), rtol=1e-2, atol=1e-2
    )
    for ours, theirs in zip(
        SimilarityMeter(vgg, CUDA)(a.to(CUDA), b.to(CUDA)), SimilarityMeter(vgg, CPU)(a, b), strict=True
    ):
        assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-3)


def test_the_witness_moves_as_on_the_cpu():
    random = np.random.default_rng(0)
    sources, targets, batch = 20, 15, 3
    points = torch.tensor(random.normal(size=(sources + targets, 40)) + (np.arange(35) >= sources)[:, None] * 0.7)
    images = torch.tensor(random.normal(size=(batch, 40)))

    def moved(device: torch.device) -> list[np.ndarray]:
        f, x = points.to(device), images.to(device)
        gram = BorderedGram(f @ f.T, x @ f.T, x.square().sum(1), sources, targets)
        return [traversal.r.cpu().numpy() for traversal in traverse_to_strengths(gram, (0.5, 1.0, 2.0))]

    for ours, theirs in zip(moved(CUDA), moved(CPU), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("some", [False, True])
def test_features_move_alike_whether_they_lie_on_the_card_or_travel(some, monkeypatch):
    """Many blocks, several times over, so that each page-locked buffer is used again while the card is busy."""
    monkeypatch.setattr(device_blocks, "BLOCK_BYTES", 2**22)
    random = np.random.default_rng(0)
    arrays = {
        **{"features": random.normal(size=(40, 60_000)).astype(np.float16), "gram": np.eye(40)},
        **{"sources": np.array(20), "targets": np.array(20), "mean_0": np.zeros((1, 1, 1), np.float32)},
        "deviation_0": np.ones((1, 1, 1), np.float32),
    }
    assert len(device_blocks.block_columns(arrays["features"])) > 4
    x = torch.tensor(random.normal(size=(3, 60_000)), dtype=torch.float32)
    r = torch.tensor(random.normal(size=(3, 41)))
    if some:
        r[:, 5:30] = 0
    expected = Manifold(arrays, 1, CPU)
    for resident in (True, False, None):
        manifold = Manifold(arrays, 1, CUDA, resident=resident)
        for _ in range(3):
            moved = manifold.move(x.to(CUDA), r.to(CUDA)).cpu()
            torch.testing.assert_close(moved, expected.move(x, r), rtol=1e-4, atol=1e-3)
            cross = manifold.border(x.to(CUDA)).cross.cpu()
            torch.testing.assert_close(cross, expected.border(x).cross, rtol=1e-6, atol=1e-6)


def problem(network: FeatureNetwork, size: int, batch: int) -> tuple[PictureObjective, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start, other = (255 * torch.rand(batch, 3, size, size, generator=generator).to(CUDA) for _ in range(2))
    with torch.no_grad():
        targets = network(other / 255)
    return PictureObjective(network, targets, start, tv_weight=5.0), start


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("size", "batch"), [(128, 16), (224, 8), (512, 4)])
def test_an_inversion_takes_no_more_memory_than_the_formula_says(size, batch, precision, vgg16_arrays):
    network = FeatureNetwork(vgg16_arrays, "vgg16", ModelConfig.taps, precision=precision, device=CUDA)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    objective, start = problem(network, size, batch)
    invert(objective, start, before=start, bounds=(0.0, 255.0), iterations=12)  # more than are remembered
    peak = torch.cuda.max_memory_allocated() - before
    said = inversion_bytes(size**2, values_per_pixel("vgg16", ModelConfig.taps), half=precision == "bf16")
    share = peak / (batch * said)
    print(f"{size} px, {precision}: {peak / batch / 2**20:.1f} MiB an image, formula {said / 2**20:.1f}: {share:.2f}")
    assert share > 1 / 4
    assert peak <= batch * said + WORKSPACE


def test_an_iteration_waits_for_the_device_at_most_twice(vgg16_arrays):
    objective, start = problem(network_on(vgg16_arrays, CUDA), 64, 2)

    def waits(iterations: int) -> Counter[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                found = invert(objective, start, before=start, bounds=(0.0, 255.0), iterations=iterations)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert int(found.iterations.min()) == iterations
        return Counter(f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message))

    waits(2)
    few, many = waits(4), waits(12)
    assert few
    assert (sum(many.values()) - sum(few.values())) / 8 <= 2, many - few


def test_a_batch_gives_what_its_images_give_alone(vgg16_arrays, exact):
    network = network_on(vgg16_arrays, CUDA)
    assert network.taps == TAPS
    pictures = torch.tensor(INPUTS).permute(0, 3, 1, 2).float().to(CUDA)
    with torch.no_grad():
        targets = network(pictures.flip(0) / 255)

    def inverted(rows: slice) -> torch.Tensor:
        objective = PictureObjective(network, [tap[rows] for tap in targets], pictures[rows], tv_weight=5.0)
        begin = pictures[rows]
        return invert(objective, begin, before=begin, bounds=(0.0, 255.0), iterations=4).planes

    whole = inverted(slice(0, 3))
    for row in range(3):
        alone = inverted(slice(row, row + 1))
        assert float((whole[row] - alone[0]).abs().mean()) < 0.05
