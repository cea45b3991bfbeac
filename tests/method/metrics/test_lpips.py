"""LPIPS against torchmetrics' network and its own copy of the published heads; AlexNet against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torchmetrics.functional.image.lpips import _LPIPS

from dmt_ray.method.metrics.lpips import Lpips, lpips_shapes
from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.conv_stack import ConvStack
from dmt_ray.storage.models.weights import load_lpips


@pytest.fixture(scope="module", params=["vgg16", "alexnet"])
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def arrays(network: str, real_weights) -> dict[str, np.ndarray]:
    return real_weights(lambda: load_lpips(network))


@pytest.fixture(scope="module")
def pairs(pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and the same with noise, shifted, darkened, of another picture, and the same again."""
    a = torch.tensor(pictures[:5]).permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(1)
    b = a.clone()
    b[0] = (b[0] + 0.05 * torch.randn(b[0].shape, generator=generator)).clamp(0, 1)
    b[1] = b[1].roll(3, -1)
    b[2] = b[2] * 0.7
    b[3] = a[0]
    return a, b


def theirs(network: str, arrays: dict[str, np.ndarray]) -> _LPIPS:
    """torchmetrics' network with our convolutions and its own heads (``vgg.pth`` and ``alex.pth`` of its package)."""
    judge = _LPIPS(pretrained=True, net={"vgg16": "vgg", "alexnet": "alex"}[network], pnet_rand=True)
    for module_name, module in judge.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            index = module_name.rpartition(".")[2]
            module.weight.data = torch.tensor(arrays[f"features.{index}.weight"])
            module.bias.data = torch.tensor(arrays[f"features.{index}.bias"])
    return judge


def test_agrees_with_torchmetrics(network, arrays, pairs):
    a, b = pairs
    ours = Lpips(network, arrays)(a, b)
    expected = theirs(network, arrays)(a, b, normalize=True).flatten()
    assert ours.shape == (5,)
    assert ours[4] == 0
    assert (ours[:4] > 0.005).all()
    torch.testing.assert_close(ours, expected, rtol=2e-4, atol=1e-6)


def test_the_heads_are_those_that_torchmetrics_ships(network, arrays):
    judge = theirs(network, arrays)
    for k in range(5):
        shipped = judge.state_dict()[f"lin{k}.model.1.weight"]
        assert torch.equal(shipped, torch.tensor(arrays[f"lin{k}.model.1.weight"]))


def test_is_symmetric_and_each_pair_is_judged_alone(network, arrays, pairs):
    a, b = pairs
    judge = Lpips(network, arrays)
    both = judge(a, b)
    torch.testing.assert_close(judge(b, a), both)
    torch.testing.assert_close(torch.cat([judge(a[k : k + 1], b[k : k + 1]) for k in range(5)]), both)
    assert not list(judge.parameters())
    with pytest.raises(ValueError, match="cannot be compared"):
        judge(a, b[:1])


def test_gradient_in_float64(network, arrays):
    """Central differences along random directions; the whole Jacobian would be thousands of passes.

    The step is small because ReLUs and max-pools have kinks, and the pictures are noise because flat ones have ties.
    """
    judge = Lpips(network, arrays).double()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 48, 48, generator=generator, dtype=torch.float64)
    b.requires_grad_()
    (gradient,) = torch.autograd.grad(judge(a, b).sum(), b)
    for _ in range(3):
        direction = torch.randn(b.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = (judge(a, b + 1e-8 * direction) - judge(a, b - 1e-8 * direction)).sum() / 2e-8
        assert float(difference) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_cells_without_features_have_a_finite_gradient(network, arrays):
    """A network whose biases silence it sees no difference, and says so without dividing by zero."""
    silent = {name: np.full_like(values, -1e6) if "bias" in name else values for name, values in arrays.items()}
    a = torch.zeros(1, 3, 32, 32).requires_grad_()
    distance = Lpips(network, silent)(a, torch.ones(1, 3, 32, 32))
    assert distance.item() == 0
    distance.backward()
    assert torch.isfinite(a.grad).all()


def test_alexnet_gives_torchvisions_maps(pairs, real_weights):
    arrays = real_weights(lambda: load_lpips("alexnet"))
    reference = torchvision.models.alexnet(weights=None).features.eval()
    reference.load_state_dict({name[9:]: torch.tensor(values) for name, values in arrays.items() if "feat" in name})
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, expected = (pairs[0] - mean) / std, []
    for layer in reference:
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            expected.append(x.clone())
    maps = ConvStack(ALEXNET_LAYERS, arrays)(pairs[0])
    assert [tap.shape[1] for tap in maps] == [64, 192, 384, 256, 256]
    for ours, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert set(lpips_shapes("alexnet")) == set(arrays)
