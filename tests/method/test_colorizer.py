import dataclasses

import numpy as np
import pytest
import torch

from dmt_ray.method import color
from dmt_ray.method.colorizer import Colorizer, assemble, build_exemplars, is_grey, working_luma
from dmt_ray.method.displacement import Displacement
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import working_rgb
from dmt_ray.method.settings import ColorizerSettings, InversionConfig, TraversalConfig


def configure(traversal: str) -> ColorizerSettings:
    return ColorizerSettings(
        64,
        TraversalConfig(traversal=traversal, neighbors=16),  # type: ignore[arg-type]
        InversionConfig(iterations=8, tv_weight=5),
    )


@pytest.fixture(scope="module", params=["local", "global"])
def setting(
    request: pytest.FixtureRequest, network: FeatureNetwork, pictures: np.ndarray
) -> tuple[ColorizerSettings, dict[str, np.ndarray]]:
    config = configure(request.param)
    exemplars = build_exemplars(network, pictures[2:], config)
    for array in exemplars.values():
        assert array.flags.c_contiguous
        array.flags.writeable = False  # as the object store hands them out
    return config, exemplars


def lumas(pictures: np.ndarray) -> np.ndarray:
    return np.stack([working_luma(rgb, 64) for rgb in pictures])


def test_colours_come_back_for_held_out_pictures(
    setting: tuple[ColorizerSettings, dict[str, np.ndarray]], network: FeatureNetwork, pictures: np.ndarray
) -> None:
    config, exemplars = setting
    recolorer = Colorizer(network, exemplars, config)
    luma = lumas(pictures[:2])
    displacements = recolorer.traverse(luma)
    found = recolorer.reconstruct(luma, displacements)
    truth = color.chroma(torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float()).numpy()
    for displacement, (result,), expected in zip(displacements, found, truth, strict=True):
        (figures,) = displacement.steps
        assert result.planes.shape == (2, 64, 64)
        assert np.square(result.planes - expected).mean() < 0.5 * np.square(expected).mean()
        assert result.feature_loss_after < result.feature_loss_before
        assert 0 <= result.iterations <= 8
        assert 0 < result.similarity.ssim <= 1
        assert figures.displacement_norm > 0
        assert (figures.budget_weight is None) == (config.traversal.traversal == "local")
        if config.traversal.traversal == "local":
            assert figures.confidence is not None
            assert 0 < figures.confidence <= 1
        else:
            assert figures.confidence is None
            assert result.iterations > 0


def test_result_does_not_depend_on_the_batch_nor_on_the_trip_as_bytes(
    setting: tuple[ColorizerSettings, dict[str, np.ndarray]], network: FeatureNetwork, pictures: np.ndarray
) -> None:
    config, exemplars = setting
    recolorer = Colorizer(network, exemplars, config)
    luma = lumas(pictures[:3])
    together = recolorer.reconstruct(luma, recolorer.traverse(luma))
    again = recolorer.reconstruct(luma, recolorer.traverse(luma))
    for b in range(3):
        np.testing.assert_array_equal(together[b][0].planes, again[b][0].planes)
        part = luma[b : b + 1]
        (sent,) = recolorer.traverse(part)
        received = Displacement.from_bytes(sent.to_bytes())
        assert list(received.steps) == list(sent.steps)
        for name, array in sent.arrays.items():
            np.testing.assert_array_equal(received.arrays[name], array)
            assert received.arrays[name].dtype == array.dtype
        ((alone,),) = recolorer.reconstruct(part, [received])
        error = np.square(alone.planes - together[b][0].planes).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-12)) > 45


def test_native_resolution_keeps_every_pixels_luma() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(60, 190, (1000, 1400, 3), dtype=np.uint8)
    chroma = rng.uniform(-15, 15, (2, 64, 64)).astype(np.float32)
    coloured = assemble(photo, chroma, "native")
    assert coloured.shape == (1000, 1400, 3)
    assert coloured.dtype == np.uint8
    before, after = (color.luma(torch.tensor(p).permute(2, 0, 1).float()) for p in (photo, coloured))
    assert float((before - after).abs().max()) <= 0.6  # rounding to 8 bits
    assert assemble(photo, chroma, "working").shape == (64, 64, 3)
    back = color.chroma(torch.tensor(working_rgb(coloured, 64)).permute(2, 0, 1).float()).numpy()
    assert np.corrcoef(back.ravel(), chroma.ravel())[0, 1] > 0.95


def test_a_grey_photo_of_16_bits_keeps_every_level() -> None:
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    chroma = np.random.default_rng(0).uniform(-60, 60, (2, 64, 64)).astype(np.float32)
    coloured = assemble(np.repeat(levels[..., None], 3, axis=2), chroma, "native")
    assert coloured.dtype == np.uint16
    back = color.luma(torch.tensor(coloured).permute(2, 0, 1).double())[0]
    assert np.array_equal(back.round().numpy(), levels)
    assert np.ptp(coloured.astype(int), axis=2).mean() > 5000  # it is in colour


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2)])
def test_tiny_and_thin_pictures_keep_their_size(shape: tuple[int, int]) -> None:
    photo = np.full((*shape, 3), 120, np.uint8)
    assert working_luma(photo, 64) == pytest.approx(np.full((64, 64), 120), abs=0.01)
    result = assemble(photo, np.full((2, 64, 64), 10, np.float32), "native")
    assert result.shape == (*shape, 3)
    assert (result.reshape(-1, 3) == result.reshape(-1, 3)[0]).all()


def test_strength_turns_the_colour_down_to_none(
    setting: tuple[ColorizerSettings, dict[str, np.ndarray]], network: FeatureNetwork, pictures: np.ndarray
) -> None:
    config, exemplars = setting
    luma = lumas(pictures[:1])

    def found(*strengths: float) -> list[np.ndarray]:
        traversal = dataclasses.replace(config.traversal, strength=strengths)
        recolorer = Colorizer(network, exemplars, dataclasses.replace(config, traversal=traversal))
        (edits,) = recolorer.reconstruct(luma, recolorer.traverse(luma))
        return [edit.planes for edit in edits]

    sweep = found(0.0, 0.4, 1.0)
    colourfulness = [float(np.linalg.norm(planes, axis=0).mean()) for planes in sweep]
    assert colourfulness[0] < 0.5
    assert colourfulness[0] < colourfulness[1] < colourfulness[2]
    (alone,) = found(1.0)
    assert np.square(sweep[2] - alone).mean() < 0.02 * np.square(alone).mean()  # warm or cold, the same colours


def test_grey_pictures_are_told_from_coloured_ones(pictures: np.ndarray) -> None:
    assert not is_grey(pictures[0])
    assert is_grey(np.repeat(pictures[0, :, :, :1], 3, axis=2))
    assert is_grey(np.array([101, 100, 99], np.uint8) * np.ones((9, 9, 1), np.uint8))
