"""Every loss's gradient in float64 against finite differences. (That of LPIPS is in test_lpips.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from dmt_ray.method import color
from dmt_ray.method.inversion.objective import FeatureLoss, HeldLayers, PictureObjective, TotalVariation
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.traversal.solving import _Whitening
from dmt_ray.method.traversal.witness import BorderedGram, half_bandwidth, objective, witness

TAPS = ("conv2_2", "conv3_1")
HELD = ("conv1_1", "conv2_1")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def central_difference(function, x: Tensor, direction: Tensor, step: float) -> Tensor:
    """The rise (B,) of a function of rows (B, n) along one direction for each row."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@pytest.fixture(scope="module")
def network64(vgg16_arrays: dict[str, np.ndarray]) -> FeatureNetwork:
    """The network itself, its arrays in float64."""
    network = FeatureNetwork(vgg16_arrays, "vgg16", TAPS, precision="fp32", device=torch.device("cpu"), also=HELD)
    network.double()
    return network


@pytest.fixture(scope="module")
def photos64() -> Tensor:
    """Two noisy pictures (2, 3, 24, 24) in 0..255: flat ones would have max-pools with ties."""
    return 127 + 100 * torch.tanh(normal(2, 3, 24, 24))


@pytest.mark.parametrize("loss", [FeatureLoss(), HeldLayers(0.3)], ids=["features", "held"])
def test_losses_over_maps(loss: torch.nn.Module) -> None:
    targets = [normal(2, 3, 4, 4, seed=1), normal(2, 5, 2, 2, seed=2)]
    maps = tuple(normal(*target.shape, seed=3).requires_grad_() for target in targets)
    assert gradcheck(lambda *maps: loss(list(maps), targets), maps)


def test_total_variation() -> None:
    assert gradcheck(TotalVariation(7.0), (normal(2, 3, 5, 4).requires_grad_(),))


@pytest.mark.parametrize("held", [(), HELD], ids=["free", "held"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("tv_on", ["edit", "image"])
@pytest.mark.parametrize("planes", ["colours", "chroma"])
def test_the_objective_as_the_optimiser_sees_it(network64, photos64, planes, tv_on, masked, held) -> None:
    anchor = photos64 if planes == "colours" else color.chroma(photos64)
    with torch.no_grad():
        targets = [tap + normal(*tap.shape, seed=4) * tap.std() for tap in network64(photos64 / 255)]
    whole = PictureObjective(
        network64,
        targets,
        anchor,
        tv_weight=20.0,
        tv_on=tv_on,
        luma=None if planes == "colours" else color.luma(photos64),
        mask=torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(5)).double() if masked else None,
        held=held,
        held_weight=0.5 if held else 0.0,
    )
    for rows in (torch.tensor([0, 1]), torch.tensor([1])):
        x = (anchor + 3 * normal(*anchor.shape, seed=6))[rows].flatten(1)
        value, gradient = whole(x, rows)
        assert (value.dtype, gradient.dtype) == (torch.float64, torch.float64)
        for seed in (7, 8):
            direction = normal(*x.shape, seed=seed)
            rise = central_difference(lambda x, rows=rows: whole(x, rows)[0], x, direction, 1e-5)
            torch.testing.assert_close((gradient * direction).sum(1), rise, rtol=1e-5, atol=0)


def test_the_objective_is_the_sum_of_its_terms(network64, photos64) -> None:
    """So the checks above see each term: none is lost, none is counted twice."""
    with torch.no_grad():
        targets = [tap * 1.1 for tap in network64(photos64 / 255)]
    planes, rows = photos64 + normal(2, 3, 24, 24, seed=6), torch.arange(2)
    whole = PictureObjective(network64, targets, photos64, tv_weight=20.0, held=HELD, held_weight=0.5)
    with torch.no_grad():
        maps, original = (network64(picture / 255, TAPS + HELD) for picture in (planes, photos64))
        features = 100 * sum(0.5 * (maps[k] - targets[k]).square().sum((1, 2, 3)) for k in (0, 1)) / 2
        holding = 0.5 * 100 * sum(0.5 * (maps[k] - original[k]).square().sum((1, 2, 3)) for k in (2, 3))
        edit = planes - photos64
        variation = 20 * sum(edit.diff(dim=axis).square().sum((1, 2, 3)) for axis in (2, 3))
        assert all((term > 0).all() for term in (features, holding, variation))
        torch.testing.assert_close(whole.value(planes, rows), features + holding + variation)


def gram(*, own_exemplars: bool, images: int = 3, sources: int = 5, targets: int = 4, basis: int = 2) -> BorderedGram:
    """Gram matrices of images that share their exemplars, or that have exemplars of their own, as patches do."""
    count = sources + targets + basis
    features = normal(images if own_exemplars else 1, count, 40)
    features[:, sources : sources + targets, :4] += 2
    own = normal(images, 40, seed=1)
    cross = (features @ own[..., None])[..., 0]
    shared = features @ features.mT
    return BorderedGram(shared if own_exemplars else shared[0], cross, own.square().sum(1), sources, targets)


@pytest.mark.parametrize("own_exemplars", [False, True], ids=["global", "patches"])
def test_witness_direction(own_exemplars: bool) -> None:
    """The written-out gradient of witness and budget is autograd's, and autograd's is that of finite differences."""
    matrices = gram(own_exemplars=own_exemplars)
    variance = half_bandwidth(matrices)
    weight = torch.tensor([0.0, 1e-3, 1e-1], dtype=torch.float64)
    r = (0.2 * normal(3, 12, seed=2)).requires_grad_()
    assert gradcheck(lambda r: witness(matrices, r, variance), (r,))
    assert gradcheck(lambda r: objective(matrices, r, variance, weight)[0], (r,))
    value, gradient = objective(matrices, r, variance, weight)
    (expected,) = torch.autograd.grad(value.sum(), r)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert (expected.norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize("own_exemplars", [False, True], ids=["global", "patches"])
def test_witness_direction_in_whitened_coordinates(own_exemplars: bool) -> None:
    matrices = gram(own_exemplars=own_exemplars)
    variance, weight = half_bandwidth(matrices), torch.full((3,), 1e-2, dtype=torch.float64)
    whitening, rows = _Whitening(matrices), torch.arange(3)
    u = whitening.to_u(0.2 * normal(3, 12, seed=2), rows)
    torch.testing.assert_close(whitening.to_u(whitening.to_r(u, rows), rows), u)

    def at(u: Tensor) -> tuple[Tensor, Tensor]:
        return objective(matrices, whitening.to_r(u, rows), variance, weight)

    gradient = whitening.gradient(at(u)[1], rows)
    for k in range(u.shape[1]):
        axis = torch.zeros_like(u)
        axis[:, k] = 1
        rise = central_difference(lambda u: at(u)[0], u, axis, 1e-5)
        torch.testing.assert_close(gradient[:, k], rise, rtol=1e-6, atol=1e-9)
