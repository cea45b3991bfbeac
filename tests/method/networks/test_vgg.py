import numpy as np
import pytest
import torch
import torchvision

from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.conv_stack import IMAGENET_MEAN, IMAGENET_STD
from dmt_ray.method.networks.feature_network import FeatureNetwork, resolve_precision
from dmt_ray.method.networks.layers import tap_stride
from dmt_ray.storage.models.weights import resolve_weights

CPU = torch.device("cpu")


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_every_tap_equals_torchvision(backbone: str) -> None:
    arrays = resolve_weights(backbone, "random:0").arrays
    reference = getattr(torchvision.models, backbone)(weights=None).features.eval()
    state = reference.state_dict()
    state.update({name.removeprefix("features."): torch.tensor(array) for name, array in arrays.items()})
    reference.load_state_dict(state)
    images = torch.rand(2, 3, 48, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    x, expected = (images - mean) / std, []
    with torch.no_grad():
        for layer in reference:
            x = layer(x)
            if isinstance(layer, torch.nn.ReLU):
                expected.append(x.clone())
        network = FeatureNetwork(arrays, backbone, BACKBONES[backbone].taps, precision="fp32", device=CPU)
        maps = network(images)
    assert len(maps) == len(BACKBONES[backbone].taps)
    for tap, ours, theirs in zip(BACKBONES[backbone].taps, maps, expected, strict=False):
        assert ours.shape == theirs.shape
        assert ours.shape[2:] == (48 // tap_stride(tap), 32 // tap_stride(tap))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_layer_shapes_are_torchvisions(backbone: str) -> None:
    state = getattr(torchvision.models, backbone)(weights=None).state_dict()
    shapes = BACKBONES[backbone].shapes
    assert len(shapes) == 2 * len(BACKBONES[backbone].taps)
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_taps_come_in_the_order_asked_and_the_trunk_stops_at_the_deepest(vgg16_arrays: dict[str, np.ndarray]) -> None:
    deepest = {name: array for name, array in vgg16_arrays.items() if int(name.split(".")[1]) <= 5}
    network = FeatureNetwork(deepest, "vgg16", ("conv2_1", "conv1_1"), precision="fp32", device=CPU)
    first, second = network(torch.rand(1, 3, 32, 32))
    assert first.shape == (1, 128, 16, 16)
    assert second.shape == (1, 64, 32, 32)


def test_bf16_is_close_to_fp32_and_carries_gradients(
    vgg16_arrays: dict[str, np.ndarray], network: FeatureNetwork
) -> None:
    half = FeatureNetwork(vgg16_arrays, "vgg16", network.taps, precision="bf16", device=CPU)
    images = torch.rand(1, 3, 64, 64)
    gradients = []
    for model in (network, half):
        x = images.clone().requires_grad_(True)
        loss = sum(tap.square().sum() for tap in model(x))
        gradients.append(torch.autograd.grad(loss, x)[0].flatten())
    for exact, rounded in zip(network(images), half(images), strict=True):
        assert rounded.dtype == torch.float32
        assert float((exact - rounded).norm() / exact.norm()) < 0.02
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > 0.99


def test_precision_is_what_was_asked() -> None:
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)
