"""The bank: which patches are looked at, and what they say."""

import numpy as np
import pytest
import torch

from dmt_ray.method.colors import bank as module
from dmt_ray.method.colors.bank import ArrayStore, ColorBank
from dmt_ray.method.colors.building import build_bank, scenes_of
from dmt_ray.method.colors.describing import COLOR_LAYERS, Described, row_width
from dmt_ray.method.colors.finding import ColorFinder, guided_filter, upsample
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import resize_batch
from dmt_ray.method.settings import ColorizerSettings, TraversalConfig

CPU = torch.device("cpu")
PATCHES = 16


def rows_of(count: int, seed: int) -> np.ndarray:
    """References of scenes of their own, with chroma."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, PATCHES, row_width())) + 2 * random.standard_normal((count, 1, row_width()))
    rows[..., :-4] /= np.linalg.norm(rows[..., :-4], axis=2, keepdims=True)
    rows[..., -4:-2] = random.uniform(-60, 60, (count, PATCHES, 2))
    return rows.astype(np.float16)


def way(scenes: int, neighbors: int | None) -> TraversalConfig:
    return TraversalConfig(scenes=scenes, neighbors=neighbors, softmax_width=0.05)


def described(rows: np.ndarray) -> Described:
    found = torch.tensor(rows).float()
    return Described(found[..., :-4], found[..., -2:])


class Watched:
    """A store that notes what is asked for."""

    def __init__(self, rows: np.ndarray) -> None:
        self.array, self.asked = rows, []

    def rows(self, references):
        self.asked.append(list(references))
        return self.array[np.asarray(references)]


def test_a_reference_finds_itself():
    rows = rows_of(7, 0)
    bank = ColorBank(scenes_of(rows), ArrayStore(rows), CPU)
    found = bank.search(described(rows[2:4]), way(7, 1))
    torch.testing.assert_close(found.chroma, torch.tensor(rows[2:4, :, -4:-2]).float())
    torch.testing.assert_close(found.agreement, torch.ones(2, PATCHES))
    others = bank.search(described(rows[2:4]), way(7, 1), without=[2, 3])
    assert float((others.chroma - found.chroma).abs().max()) > 1


def test_only_the_references_of_the_likest_scenes_are_fetched():
    rows = rows_of(40, 1)
    store = Watched(rows)
    bank = ColorBank(scenes_of(rows), store, CPU)
    new = described(rows_of(2, 2))
    bank.search(new, way(5, 8))
    likest = (new.scenes @ torch.tensor(scenes_of(rows)).float().T).topk(5).indices
    assert store.asked == likest.tolist()


def test_a_store_gives_what_an_array_on_the_device_gives(monkeypatch):
    rows, new = rows_of(9, 3), described(rows_of(2, 4))
    ways = [ColorBank(scenes_of(rows), store, CPU) for store in (ArrayStore(rows), Watched(rows))]
    monkeypatch.setattr(module, "_RESIDENT_BYTES", 0)
    ways.append(ColorBank(scenes_of(rows), ArrayStore(rows), CPU))
    found = [bank.search(new, way(6, None)) for bank in ways]
    for other in found[1:]:
        assert torch.equal(other.chroma, found[0].chroma)
        assert torch.equal(other.agreement, found[0].agreement)


def test_neighbours_of_one_hue_agree_and_those_of_opposite_ones_do_not():
    rows = rows_of(4, 5)
    new = described(rows[:1])
    rows[..., -4:-2] = (20, 10)
    agree = ColorBank(scenes_of(rows), ArrayStore(rows), CPU).search(new, way(4, 32))
    assert float(agree.agreement.min()) > 0.99
    rows[::2, :, -4:-2] *= -1
    apart = ColorBank(scenes_of(rows), ArrayStore(rows), CPU).search(
        new, TraversalConfig(scenes=4, neighbors=64, softmax_width=100.0, scene_weight=0)
    )
    assert float(apart.agreement.max()) < 0.1


def test_a_guide_keeps_its_edges():
    guide = torch.zeros(1, 1, 64, 64)
    guide[..., 32:] = 0.8
    blurred = torch.linspace(-20, 20, 64).expand(1, 1, 64, 64)
    found = guided_filter(blurred, guide, 8)
    assert float(found[0, 0, 32, 32] - found[0, 0, 32, 31]) > 5 * float(blurred[0, 0, 0, 1] - blurred[0, 0, 0, 0])
    flat = guided_filter(torch.full((1, 2, 64, 64), 7.0), guide, 8)
    torch.testing.assert_close(flat, torch.full((1, 2, 64, 64), 7.0), rtol=1e-3, atol=1e-2)


@pytest.fixture(scope="module")
def rich_network(vgg16_arrays) -> FeatureNetwork:
    return FeatureNetwork(vgg16_arrays, "vgg16", ("conv5_1",), precision="fp32", device=CPU, also=COLOR_LAYERS)


def test_a_photo_gets_nearly_the_same_colours_at_every_size(rich_network, pictures):
    arrays = build_bank(rich_network, list(pictures[1:]), ColorizerSettings(64))
    assert not any(name.startswith("prior") for name in arrays)
    finder = ColorFinder(rich_network, arrays, TraversalConfig())
    luma = torch.tensor(pictures[:1]).float().mean(3)
    planes = []
    for side in (128, 192, 320):
        resized = resize_batch(luma[None], side, side)
        found = finder(resized[:, 0])
        planes.append(resize_batch(upsample(found.chroma, resized), 64, 64))
    for other in planes[1:]:
        assert float((other - planes[0]).norm(dim=1).mean()) < 0.05 * float(planes[0].norm(dim=1).mean())
