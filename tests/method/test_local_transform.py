"""Transform by local traversal, and what it has in common with global traversal between its steps."""

import dataclasses

import numpy as np
import pytest
import torch
from transforming import (
    INPUTS,
    SIZE,
    SOURCES,
    TARGETS,
    configure,
    edits,
    make,
    small_network,
    working,
)

from dmt_ray.method import color
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.inversion.starting import ChromaHold
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import working_rgb
from dmt_ray.method.settings import TransformInversionConfig
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.patches import BankLayout
from dmt_ray.method.traversal.selection import ImageIdentity, digest


@pytest.fixture(scope="module")
def network(vgg16_arrays: dict[str, np.ndarray]) -> FeatureNetwork:
    return small_network(vgg16_arrays)


def test_local_traversal_leaves_out_cells_of_the_image_itself(network: FeatureNetwork) -> None:
    transformer = make(network, configure("local"))
    assert transformer.patches is not None
    images = working(transformer, SOURCES[4:5])
    rows, columns = transformer.match_grid(torch.tensor(images))
    patches = rows * columns
    (free,) = transformer.traverse(images, [ImageIdentity()])
    (barred,) = transformer.traverse(images, [ImageIdentity(digest(SOURCES[4].tobytes()))])
    assert 4 in free.arrays["index"] // patches
    assert 4 not in barred.arrays["index"] // patches


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_local_traversal_begins_at_its_own_patches_pixels(network: FeatureNetwork, share: float) -> None:
    still = TransformInversionConfig(iterations=0, tv_weight=1, pixel_share=share)
    transformer = make(network, configure("local", inversion=still))
    assert transformer.patches is not None
    images = working(transformer, INPUTS)
    found = transformer.traverse(images, [ImageIdentity()] * 3)
    made = transformer.reconstruct(images, found, [None] * 3)
    pictures = np.concatenate([SOURCES, TARGETS]).astype(np.float64)
    # One mean colour per patch of 4 x 4 pixels, the match grid of these taps.
    colors = pictures.reshape(17, 16, 4, 16, 4, 3).mean((2, 4)).reshape(-1, 3)
    for image, displacement, steps in zip(images, found, made, strict=True):
        index, weight = displacement.arrays["index"], displacement.arrays["weight"].astype(np.float64)
        sides = [(colors[index] * np.maximum(sign * weight, 0)[..., None]).sum(1) for sign in (-1, 1)]
        change = np.log(sides[1] + 16) - np.log(sides[0] + 16)
        planes = torch.tensor(change.T.reshape(1, 3, 16, 16))
        whole = torch.nn.functional.interpolate(planes, size=(64, 64), mode="bilinear", align_corners=False)[0]
        for edit, strength in zip(steps, (0.5, 1.0), strict=True):
            expected = np.clip((image + 16) * np.exp(share * strength * whole.numpy()) - 16, 0, 255) - image
            np.testing.assert_allclose(edit.planes, expected, atol=0.5)  # colours are kept in half precision
        farthest = float(np.abs(steps[-1].planes).max())
        assert farthest > 3 if share else farthest < 1e-3


def test_the_coarse_chroma_of_a_result_is_that_of_its_start(network: FeatureNetwork) -> None:
    held, free = (
        make(
            network,
            configure("local", inversion=TransformInversionConfig(iterations=8, tv_weight=1, hold_chroma=hold)),
        )
        for hold in (8.0, 0.0)
    )
    images = working(held, INPUTS)
    displacements = held.traverse(images, [ImageIdentity()] * 3)
    planes, maps = held._maps(images)
    start = held.moves(maps, planes, displacements).step(1).start
    coarse = ChromaHold(start, 4.0)  # of 64 pixels, as 8 is of 128

    def strayed(transformer: Transformer) -> tuple[float, float]:
        made = transformer.reconstruct(images, displacements, [None] * 3)
        results = torch.stack([planes[b] + torch.tensor(edit[1].planes) for b, edit in enumerate(made)])
        moved = coarse(results, torch.arange(3)) - results
        return float(color.chroma(moved).abs().mean()), float(color.luma(results - start).abs().mean())

    (chroma_held, luma_held), (chroma_free, _) = strayed(held), strayed(free)
    assert chroma_held < 0.3 * chroma_free
    assert luma_held > 0.1


def test_local_pictures_keep_their_aspect_ratio_among_exemplars_of_other_shapes(network: FeatureNetwork) -> None:
    config = configure("local")
    wide = [np.ascontiguousarray(np.tile(rgb, (1, 2, 1))[8:56]) for rgb in SOURCES]
    sets = [
        [(working_rgb(rgb, SIZE, keep_aspect=True), ImageIdentity()) for rgb in pictures]
        for pictures in ([*SOURCES, *wide], [*TARGETS, *(rgb.transpose(1, 0, 2) for rgb in wide)])
    ]
    transformer = Transformer(network, build_manifold(network, [*sets, []], 40, config), config)
    (high,) = working(transformer, [wide[0].transpose(1, 0, 2)])
    assert high.shape == (3, 80, 32)
    ((half, whole),) = edits(transformer, [wide[0]])
    assert whole.picture.shape == (32, 80, 3)
    assert half.figures.displacement_norm == pytest.approx(whole.figures.displacement_norm / 2)
    assert transformer.assemble(wide[0], whole, None).shape == wide[0].shape


def test_patches_of_exemplars_without_weight_move_nothing(network: FeatureNetwork) -> None:
    config = configure("local")
    weights = np.ones(9)
    weights[4] = 0
    sets = [
        [(rgb, ImageIdentity(weight=weight)) for rgb, weight in zip(SOURCES, weights, strict=True)],
        [(rgb, ImageIdentity(weight=1.0)) for rgb in TARGETS],
    ]
    weighted = Transformer(network, build_manifold(network, [*sets, []], 17, config), config)
    images = working(weighted, SOURCES[4:5])
    (free,) = make(network, config).traverse(images, [ImageIdentity()])
    (found,) = weighted.traverse(images, [ImageIdentity()])
    patches = len(found.arrays["index"])
    assert 4 in free.arrays["index"] // patches
    assert 4 not in found.arrays["index"] // patches


@pytest.mark.parametrize("move", ["dmt", "local"])
def test_a_strength_between_two_steps_lies_between_them(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(move))  # to 0.5 and 1
    images = working(transformer, INPUTS)
    planes, maps = transformer._maps(images)
    moves = transformer.moves(maps, planes, transformer.traverse(images, [ImageIdentity()] * 3))
    steps = [moves.step(0), moves.step(1)]
    same = moves.strengths(torch.tensor([0.5, 1.0, 0.75]))
    still = moves.strengths(torch.zeros(3))
    for k, tap in enumerate(same.targets):
        torch.testing.assert_close(tap[0], steps[0].targets[k][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tap[1], steps[1].targets[k][1], rtol=1e-4, atol=1e-4)
        middle = (steps[0].targets[k][2] + steps[1].targets[k][2]) / 2
        torch.testing.assert_close(tap[2], middle, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(still.targets[k], maps[k], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(still.start, planes)
    assert float(steps[0].norms[2]) < float(same.norms[2]) < float(steps[1].norms[2])
    assert not still.norms.any()


def test_a_patch_of_features_takes_the_same_place_within_the_patches_it_is_matched_to() -> None:
    # Two exemplars: 2 x 3 match patches over 4 x 9 of features, and 1 x 2 over 3 x 4.
    layout = BankLayout([(2, 3), (1, 2)], [(4, 9), (3, 4)], torch.device("cpu"))
    index = torch.tensor([[5, 7], [0, 6]])  # an image of 1 x 2 match patches, and its two neighbours each
    found = layout.finer(index, (1, 2), (2, 6))
    assert layout.over((1, 2), (2, 6)).tolist() == [0, 0, 0, 1, 1, 1] * 2

    def place(row: int, column: int, exemplar: int) -> int:
        return row * (9, 4)[exemplar] + column + 36 * exemplar

    # Its features' rows lie at 1/4 and 3/4 of a match patch, its columns at 1/6, 1/2 and 5/6. Match patches 5 and 0
    # are the last (rows 2 and 3, columns 6 to 8) and the first of exemplar 0, 6 and 7 are those of exemplar 1.
    first = [[place(2, 6, 0), place(2, 7, 0), place(2, 8, 0)], [place(3, 6, 0), place(3, 7, 0), place(3, 8, 0)]]
    then = [[place(0, 0, 0), place(0, 1, 0), place(0, 2, 0)], [place(1, 0, 0), place(1, 1, 0), place(1, 2, 0)]]
    assert found[:, 0].tolist() == [*first[0], *then[0], *first[1], *then[1]]
    right = [[place(0, 2, 1), place(0, 3, 1), place(0, 3, 1)], [place(2, 2, 1), place(2, 3, 1), place(2, 3, 1)]]
    left = [[place(0, 0, 1), place(0, 1, 1), place(0, 1, 1)], [place(2, 0, 1), place(2, 1, 1), place(2, 1, 1)]]
    assert found[:, 1].tolist() == [*right[0], *left[0], *right[1], *left[1]]


def test_a_picture_takes_the_same_patches_and_begins_at_the_same_colours_at_any_size(network: FeatureNetwork) -> None:
    still = TransformInversionConfig(iterations=0, tv_weight=1, pixel_share=1)
    started, indices = [], []
    for size in (128, 192):
        config = dataclasses.replace(configure("local", inversion=still), size=size)
        sets = [
            [(working_rgb(rgb, size, keep_aspect=True), ImageIdentity()) for rgb in each]
            for each in (SOURCES, TARGETS)
        ]
        transformer = Transformer(network, build_manifold(network, [*sets, []], 17, config), config)
        images = working(transformer, INPUTS)
        displacements = transformer.traverse(images, [ImageIdentity()] * 3)
        planes, maps = transformer._maps(images)
        moved = transformer.moves(maps, planes, displacements).step(1)
        assert [tap.shape for tap in moved.targets] == [tap.shape for tap in maps]
        started.append(torch.nn.functional.interpolate(moved.start - planes, size=(64, 64), mode="area"))
        indices.append(np.stack([each.arrays["index"] for each in displacements]))
    assert indices[0].shape == indices[1].shape
    assert float(started[0].abs().max()) > 5
    assert float((started[0] - started[1]).abs().mean()) < 0.5
