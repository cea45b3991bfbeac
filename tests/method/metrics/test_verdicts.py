"""What a judge sees of a picture, and what it says of an image and its result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_transformer import INPUTS, SOURCES, TARGETS, configure, edits, labelled
from test_transformer import network as network  # a fixture

from dmt_ray.errors import ImageError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.metrics.probe_fit import fit_probe
from dmt_ray.method.metrics.verdicts import ProbeFeatures, ProbeJudge, Verdict
from dmt_ray.method.pictures import to_tensor
from dmt_ray.method.transformer import Transformer
from dmt_ray.storage.models.weights import load_alexnet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alexnet(real_weights) -> dict[str, np.ndarray]:
    return real_weights(load_alexnet)


@pytest.fixture(scope="module")
def judge(alexnet) -> ProbeJudge:
    """A judge of pictures without and with a bar."""
    pictures = torch.stack([to_tensor(rgb) for rgb in (*SOURCES, *TARGETS)])
    target = np.arange(len(pictures)) >= len(SOURCES)
    probe = fit_probe(ProbeFeatures(alexnet, CPU)(pictures).numpy(), target, [None] * len(pictures))
    assert probe.accuracy == 1.0
    return ProbeJudge(alexnet, probe.arrays, CPU)


def test_features_are_alexnets_maps_in_four_cells(alexnet):
    pictures = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    found = ProbeFeatures(alexnet, CPU)(pictures)
    assert found.shape == (2, 4 * (64 + 192 + 384 + 256 + 256))
    assert found.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pictures / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    weight, bias = (torch.from_numpy(alexnet[f"features.0.{name}"]) for name in ("weight", "bias"))
    first = F.relu(F.conv2d(x, weight, bias, stride=4, padding=2))
    upper_left = first[:, :, :28, :28].mean((2, 3))  # adaptive cells of 55 rows share the middle one
    np.testing.assert_allclose(found[:, : 4 * 64].reshape(2, 64, 4)[:, :, 0], upper_left, rtol=1e-3, atol=1e-4)


def test_pictures_of_any_shape_are_judged_each_for_itself(judge):
    pictures = torch.stack([to_tensor(rgb) for rgb in (*INPUTS, *TARGETS[:2])])
    together = judge(pictures)
    assert together.dtype == torch.float64
    assert (together < 0).tolist() == [True] * 3 + [False] * 2
    torch.testing.assert_close(torch.cat([judge(each[None]) for each in pictures]), together, atol=1e-4, rtol=1e-4)
    wide = F.interpolate(pictures, size=(96, 160), mode="bilinear", align_corners=False)
    assert ((judge(wide) > 0) == (together > 0)).all()


@pytest.mark.parametrize(
    ("before", "after", "margin", "flipped"),
    [
        (-1, 2, 0, True),
        (-1, -2, 0, False),
        (-1, 0, 0, False),
        (0, 0.5, 0, True),
        (-1, 2, 3, False),
        (0.1, 5, 0, None),
    ],
)
def test_only_what_was_no_target_can_flip(before, after, margin, flipped):
    assert Verdict.of(before, after, margin) == Verdict(before, after, flipped)


def test_every_step_has_a_verdict_and_a_strong_move_flips(network, judge):
    config = configure("dmt")
    config = replace(config, traversal=replace(config.traversal, strength=(0.1, 4.0)))
    arrays = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), []], 17, config)
    transformer = Transformer(network, arrays, config, judge=judge)
    before = judge(torch.stack([to_tensor(rgb) for rgb in INPUTS])).tolist()
    for value, (little, much) in zip(before, edits(transformer, INPUTS), strict=True):
        assert little.verdict.before == much.verdict.before == pytest.approx(value, rel=1e-4, abs=1e-4)
        assert much.verdict.after > little.verdict.after
        assert float(judge(to_tensor(much.picture)[None])) == pytest.approx(much.verdict.after, rel=0.05)
        assert (little.verdict.flipped, much.verdict.flipped) == (False, True)
    assert all(
        edit.verdict is None for found in edits(Transformer(network, arrays, config), INPUTS) for edit in found
    )


def test_a_verdict_that_is_not_finite_is_an_error_of_its_image(network, judge):
    class Broken:
        margin = 0.0

        def __call__(self, pictures):
            return judge(pictures) * float("nan")

    config = configure("dfi")
    arrays = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), []], 17, config)
    with pytest.raises(ImageError, match="verdict before") as caught:
        edits(Transformer(network, arrays, config, judge=Broken()), INPUTS)
    assert caught.value.kind == "not-finite"
