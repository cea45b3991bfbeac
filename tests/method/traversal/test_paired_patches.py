import numpy as np
import pytest
import torch

from dmt_ray.method.traversal import patches as module
from dmt_ray.method.traversal.paired_patches import PairedPatches
from dmt_ray.method.traversal.patches import match_stride

CPU = torch.device("cpu")
TAPS = ("conv3_1", "conv4_1", "conv5_1")


def bank(seed: int, count: int, size: int = 64) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Random maps before and after, and random chroma."""
    rng = np.random.default_rng(seed)
    shapes = [(6, size // 4), (10, size // 8), (12, size // 16)]
    source = [np.abs(rng.standard_normal((count, c, n, n))).astype(np.float32) for c, n in shapes]
    target = [maps + rng.standard_normal(maps.shape).astype(np.float32) for maps in source]
    return source, target, rng.uniform(-100, 100, (count, 2, size, size)).astype(np.float32)


@pytest.mark.parametrize(
    ("taps", "stride"), [(TAPS, 8), (("conv3_1",), 4), (("conv5_1",), 16), (("conv1_1", "conv5_1"), 16)]
)
def test_cells_are_matched_on_the_grid_nearest_to_stride_8(taps: tuple[str, ...], stride: int) -> None:
    assert match_stride(taps) == stride


def test_an_exemplar_finds_itself_and_goes_the_way_it_went() -> None:
    source, target, chroma = bank(0, 5)
    exemplars = PairedPatches(PairedPatches.build(source, target, chroma, TAPS, 64), TAPS, 64, CPU)
    images = [torch.tensor(maps[1:4]) for maps in source]
    index, weights = exemplars.search(images, neighbors=1, softmax_width=0.05, scene_weight=0)
    assert torch.equal(index[..., 0], torch.arange(64, 4 * 64).view(3, 64))
    assert torch.equal(weights, torch.ones(3, 64, 1))
    for change, before, after in zip(exemplars.displacement(index, weights, images), source, target, strict=True):
        torch.testing.assert_close(change, torch.tensor((after - before)[1:4]), rtol=2e-3, atol=2e-3)
    start = exemplars.start_chroma(index, weights, 64)
    patches = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(chroma[1:4]), 8)
    smooth = torch.nn.functional.interpolate(patches, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(start, smooth, rtol=1e-2, atol=0.1)


def test_search_in_blocks_equals_search_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, chroma = bank(1, 6)
    exemplars = PairedPatches(PairedPatches.build(source, target, chroma, TAPS, 64), TAPS, 64, CPU)
    images = [torch.tensor(maps) for maps in bank(2, 3)[0]]
    index, weights = exemplars.search(images, 20, 0.1, 0.2)
    monkeypatch.setattr(module, "_SEARCH_BLOCK", 50)
    block_index, block_weights = exemplars.search(images, 20, 0.1, 0.2)
    torch.testing.assert_close(block_weights, weights)
    assert float((block_index == index).float().mean()) > 0.999
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 64))
    assert (weights.diff(dim=2) <= 1e-7).all()
    for a, b in zip(
        exemplars.displacement(block_index, block_weights, images),
        exemplars.displacement(index, weights, images),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_more_neighbors_than_cells_takes_them_all() -> None:
    source, target, chroma = bank(3, 1)
    exemplars = PairedPatches(PairedPatches.build(source, target, chroma, TAPS, 64), TAPS, 64, CPU)
    index, _ = exemplars.search([torch.tensor(maps) for maps in source], 1000, 0.1, 0.2)
    assert index.shape == (1, 64, 64)
    assert torch.equal(index[0].sort(1).values, torch.arange(64).expand(64, 64))


def test_cells_of_pictures_that_are_alike_as_a_whole_come_first() -> None:
    source, target, chroma = bank(4, 2)
    for maps in source:  # two pictures of different kinds that share their first patch
        maps[1, : maps.shape[1] // 2] += 3
        side = max(1, maps.shape[2] // 8)
        maps[1, :, :side, :side] = maps[0, :, :side, :side]
    exemplars = PairedPatches(PairedPatches.build(source, target, chroma, TAPS, 64), TAPS, 64, CPU)
    images = [torch.tensor(maps[1:]) for maps in source]
    shares = []
    for scene_weight in (0.0, 0.2, 2.0):
        index, weights = exemplars.search(images, 128, 0.1, scene_weight)
        shares.append(float(weights[0, 0][index[0, 0] == 64] / weights[0, 0][index[0, 0] == 0]))
    assert shares[0] == pytest.approx(1, abs=0.05)
    assert 2 < shares[1] < shares[2]


def test_principal_directions_keep_the_cosines_of_correlated_descriptors() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(40, 600, generator=generator)
    descriptors = torch.nn.functional.normalize(torch.randn(3000, 40, generator=generator) @ mixing, dim=1)
    projection = module.principal_directions(descriptors)
    assert projection.shape == (600, module.SEARCH_DIMENSIONS)
    identity = torch.eye(module.SEARCH_DIMENSIONS)
    torch.testing.assert_close(projection.T @ projection, identity, rtol=0, atol=1e-4)
    projected = descriptors @ projection
    torch.testing.assert_close(projected @ projected.T, descriptors @ descriptors.T, rtol=0, atol=1e-3)
