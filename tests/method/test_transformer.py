import dataclasses

import numpy as np
import pytest
import torch
from transforming import (
    INPUTS,
    MOVES,
    SIZE,
    SOURCES,
    TARGETS,
    bar_brightness,
    configure,
    edits,
    faces,
    labelled,
    make,
    nearness,
    small_network,
    targets,
    working,
)

from dmt_ray.errors import ImageError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.displacement import Displacement
from dmt_ray.method.metrics.lpips import Lpips, lpips_shapes
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import match_color, upsample_edit
from dmt_ray.method.settings import TransformInversionConfig, TransformTraversalConfig
from dmt_ray.method.transformer import HELD_TAPS, Transformer
from dmt_ray.method.traversal.selection import ImageIdentity, digest


@pytest.fixture(scope="module")
def network(vgg16_arrays: dict[str, np.ndarray]) -> FeatureNetwork:
    return small_network(vgg16_arrays)


@pytest.mark.parametrize("move", MOVES)
def test_pictures_get_what_the_other_class_has(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(move))
    steps = len(transformer.settings.traversal.steps)
    for found in edits(transformer, INPUTS):
        assert len(found) == steps
        reached = [bar_brightness(edit.planes) for edit in found]
        assert reached[-1] > 0.5
        assert reached == sorted(reached)
        lengths = [edit.figures.displacement_norm for edit in found]
        assert lengths == sorted(lengths)
        if move == "local":  # no minimum of a witness function
            assert found[-1].figures.witness_after is None
        else:
            assert found[-1].figures.witness_after < found[-1].figures.witness_before
        assert found[-1].feature_loss_after < found[-1].feature_loss_before
        assert 0 < found[-1].similarity.ssim < 1
        for edit, asked in zip(found, transformer.settings.traversal.steps, strict=True):
            if asked is not None:
                assert edit.figures.strength == pytest.approx(asked)


@pytest.mark.parametrize("move", ["dmt", "dfi", "unit", "none", "neighbors"])
def test_the_strength_is_the_length_of_the_move_over_the_classes_distance(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(move))
    images = working(transformer, INPUTS)
    features = transformer.manifold.features.astype(np.float64)
    mean = features[9:].mean(0) - features[:9].mean(0)
    for displacement in transformer.traverse(images, [ImageIdentity()] * 3):
        for r, figures in zip(displacement.arrays["r"], displacement.steps, strict=True):
            if move == "neighbors":  # a manifold of its own of four sources and four targets
                used = np.flatnonzero(r[:-1])
                assert (used < 9).sum() == 4
                assert (used >= 9).sum() == 4
                mean = features[used[used >= 9]].mean(0) - features[used[used < 9]].mean(0)
            assert figures.displacement_norm / np.linalg.norm(mean) == pytest.approx(figures.strength, rel=0.01)


@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_dfi_equals_its_closed_form(network: FeatureNetwork, beta: float) -> None:
    transformer = make(
        network, configure(TransformTraversalConfig(method="dfi", beta=(beta,), standardise="none", shrink=0))
    )
    images = working(transformer, INPUTS)
    moved = targets(transformer, images)

    def flat(pictures: np.ndarray) -> torch.Tensor:
        rgb = torch.tensor(pictures).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            return torch.cat([tap.flatten(1) for tap in network(rgb / 255)], 1).double()

    w = flat(TARGETS).mean(0) - flat(SOURCES).mean(0)
    expected = flat(INPUTS) + beta / w.square().mean() * w
    got = torch.cat([tap.flatten(1) for tap in moved], 1).double()
    assert float((got - expected).norm() / (expected - flat(INPUTS)).norm()) < 2e-3  # F is kept in half precision


@pytest.mark.parametrize("move", ["dmt", "dfi", "neighbors", "local"])
def test_a_batch_gives_what_its_images_give_alone(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(move))
    together = edits(transformer, INPUTS)
    for b in range(3):
        (alone,) = edits(transformer, INPUTS[b : b + 1])
        for one, other in zip(alone, together[b], strict=True):
            assert nearness(one.planes, other.planes) > 45


@pytest.mark.parametrize("move", ["dmt", "local"])
def test_the_same_again_and_after_the_trip_as_bytes(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(move))
    images = working(transformer, INPUTS)
    identities = [ImageIdentity()] * 3
    first = transformer.traverse(images, identities)
    for one, again in zip(first, transformer.traverse(images, identities), strict=True):
        received = Displacement.from_bytes(again.to_bytes())
        assert list(received.steps) == list(one.steps)
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(received.arrays[name], array)
    results = [transformer.reconstruct(images, first, [None] * 3) for _ in range(2)]
    for one, again in zip(*results, strict=True):
        np.testing.assert_array_equal(one[-1].planes, again[-1].planes)


@pytest.mark.parametrize("move", ["dmt", "local"])
def test_no_strength_returns_the_picture_itself(network: FeatureNetwork, move: str) -> None:
    transformer = make(network, configure(dataclasses.replace(MOVES[move], strength=(0.0,))))
    for (edit,), rgb in zip(edits(transformer, INPUTS), INPUTS, strict=True):
        assert nearness(edit.planes, np.zeros_like(edit.planes)) > 60
        assert nearness(transformer.assemble(rgb, edit, None).astype(float), rgb.astype(float)) > 55


def test_an_exemplar_is_never_moved_by_itself_nor_by_its_group(network: FeatureNetwork) -> None:
    config = configure("dmt")
    people = [ImageIdentity(digest(rgb.tobytes()), group=f"person {n // 3}") for n, rgb in enumerate(SOURCES)]
    sets = [list(zip(SOURCES, people, strict=True)), labelled(TARGETS), []]
    transformer = Transformer(network, build_manifold(network, sets, 17, config), config)
    images = working(transformer, SOURCES[4:5])
    for identity, left_out in (
        (ImageIdentity(people[4].content), {3, 4, 5}),
        (ImageIdentity(b"x" * 32, group="person 0"), {0, 1, 2}),
        (ImageIdentity(people[4].content, group="person 0"), {0, 1, 2, 3, 4, 5}),
        (ImageIdentity(b"x" * 32), set()),
    ):
        (displacement,) = transformer.traverse(images, [identity])
        assert set(np.flatnonzero(displacement.arrays["r"][0, :-1] == 0)) == left_out
    everybody = build_manifold(
        network, [[(rgb, ImageIdentity(group="one")) for rgb in SOURCES], labelled(TARGETS), []], 17, config
    )
    with pytest.raises(ImageError, match="No source exemplar is left"):
        Transformer(network, everybody, config).traverse(images, [ImageIdentity(group="one")])


def test_attributes_choose_the_neighbours(network: FeatureNetwork) -> None:
    move = TransformTraversalConfig(strength=(1.0,), neighbors=2, neighbors_by="attributes")
    config = configure(move)
    sets = [
        [(rgb, ImageIdentity(attributes=np.array([n, 100.0 * n]))) for n, rgb in enumerate(pictures)]
        for pictures in (SOURCES, TARGETS)
    ]
    transformer = Transformer(network, build_manifold(network, [*sets, labelled(INPUTS)], 20, config), config)
    images = working(transformer, INPUTS[:1])
    (displacement,) = transformer.traverse(images, [ImageIdentity(attributes=np.array([5.4, 540.0]))])
    assert set(np.flatnonzero(displacement.arrays["r"][0, :17])) == {5, 6, 9 + 5, 9 + 6}
    with pytest.raises(ImageError, match="no attributes"):
        transformer.traverse(images, [ImageIdentity()])


def test_a_basis_widens_the_manifold_and_belongs_to_no_class(network: FeatureNetwork) -> None:
    config = configure("dmt")
    arrays = build_manifold(network, [labelled(SOURCES), labelled(TARGETS), labelled(faces(5, 4, 0.2))], 21, config)
    transformer = Transformer(network, arrays, config)
    images = working(transformer, INPUTS)
    for displacement in transformer.traverse(images, [ImageIdentity()] * 3):
        r = displacement.arrays["r"][-1]
        assert len(r) == 22
        # The witness function pulls away from sources and towards targets; the basis only serves.
        assert r[9:17].sum() > 0 > r[:9].sum()


def test_outside_the_mask_pixels_come_back_bit_for_bit(network: FeatureNetwork) -> None:
    transformer = make(network, configure("dmt"))
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[32:] = 1
    photo = np.random.default_rng(0).integers(0, 256, (200, 150, 3)).astype(np.uint8)
    whole = np.zeros((200, 150), np.uint8)
    whole[100:] = 255
    ((*_, edit),) = edits(transformer, INPUTS[:1], [mask])
    assert np.abs(edit.planes[:, 40:]).max() > 1
    assert (edit.planes[:, :32] == 0).all()
    result = transformer.assemble(photo, edit, whole)
    np.testing.assert_array_equal(result[:100], photo[:100])
    assert (result[100:] != photo[100:]).any()
    nothing = transformer.assemble(photo, edit, np.zeros_like(whole))
    np.testing.assert_array_equal(nothing, photo)


def test_an_edit_keeps_the_detail_of_a_large_photo() -> None:
    rng = np.random.default_rng(1)
    photo = rng.integers(60, 190, (1024, 768, 3)).astype(np.uint8)  # nothing but detail
    planes = np.full((3, SIZE, SIZE), 10, np.float32)
    planes[2] = -20
    result = upsample_edit(photo, planes, None)
    np.testing.assert_array_equal(result.astype(int) - photo, np.broadcast_to([10, 10, -20], photo.shape))


def test_colour_matching_gives_the_means_and_deviations_of_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 100 + 30 * torch.randn(2, 3, 32, 32, generator=generator)
    results = 140 + 10 * torch.randn(2, 3, 32, 32, generator=generator)
    matched = match_color(results, images, None)
    torch.testing.assert_close(matched.mean((2, 3)), images.mean((2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(matched.std((2, 3)), images.std((2, 3)), rtol=1e-3, atol=1e-3)


def test_colour_matching_takes_a_cast_off_the_result(network: FeatureNetwork) -> None:
    plain, matched = (
        make(
            network,
            configure("dmt", inversion=TransformInversionConfig(iterations=8, tv_weight=1, match_color=match)),
        )
        for match in (False, True)
    )
    shift = [abs(edits(one, INPUTS[:1])[0][-1].planes.mean((1, 2))).max() for one in (plain, matched)]
    assert shift[1] < 0.05 < shift[0]


def test_the_path_leads_from_the_input_to_the_result(network: FeatureNetwork) -> None:
    config = configure("dmt", path=4)
    ((half, full),) = edits(make(network, config), INPUTS[:1])
    assert len(full.frames) == 5  # the input, and a quarter, a half, three quarters, all of the way
    np.testing.assert_array_equal(full.frames[0], INPUTS[0])
    np.testing.assert_array_equal(full.frames[-1], full.picture)
    assert len(half.frames) == 3
    gone = [np.square(frame.astype(float) - full.frames[0]).mean() for frame in full.frames]
    assert gone == sorted(gone)
    assert gone[1] > 0


def test_each_strength_starts_at_the_result_of_the_one_before(network: FeatureNetwork) -> None:
    sweep = make(
        network,
        configure(
            TransformTraversalConfig(strength=(0.9, 1.0)),
            inversion=TransformInversionConfig(iterations=4, tv_weight=1),
        ),
    )
    once = make(
        network,
        configure(
            TransformTraversalConfig(strength=(1.0,)), inversion=TransformInversionConfig(iterations=4, tv_weight=1)
        ),
    )
    warm, cold = edits(sweep, INPUTS)[0][-1], edits(once, INPUTS)[0][-1]
    assert warm.feature_loss_after < cold.feature_loss_after
    assert warm.iterations == cold.iterations == 4


def test_noise_to_start_from_is_the_same_for_every_picture(network: FeatureNetwork) -> None:
    pixels = TransformInversionConfig(iterations=0, start="noise")
    found = edits(make(network, configure(TransformTraversalConfig(strength=(1.0,)), inversion=pixels)), INPUTS)
    noise = [rgb.astype(float) + np.moveaxis(edit.planes, 0, -1) for (edit,), rgb in zip(found, INPUTS, strict=True)]
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-3)
    assert noise[0].std() == pytest.approx(8 / 3**0.5, rel=0.02)


def test_held_layers_hold(network: FeatureNetwork, vgg16_arrays: dict[str, np.ndarray]) -> None:
    with_held = FeatureNetwork(
        vgg16_arrays, "vgg16", network.taps, precision="fp32", device=torch.device("cpu"), also=HELD_TAPS
    )
    change = []
    for weight in (0.0, 0.5):
        config = configure("dmt", inversion=TransformInversionConfig(iterations=8, tv_weight=0, held_weight=weight))
        (found,) = edits(make(with_held, config), INPUTS[:1])
        change.append(np.square(found[-1].planes).mean())
    assert change[1] < 0.8 * change[0]


def test_total_variation_on_the_image_flattens_the_photo_and_on_the_edit_does_not(network: FeatureNetwork) -> None:
    flat = {}
    for on in ("edit", "image"):
        pixels = TransformInversionConfig(iterations=15, tv_weight=1000, tv_on=on)  # type: ignore[arg-type]
        config = configure(TransformTraversalConfig(strength=(0.0,)), inversion=pixels)
        ((edit,),) = edits(make(network, config), INPUTS[:1])
        flat[on] = np.abs(np.diff(edit.picture.astype(float), axis=1)).mean()
    original = np.abs(np.diff(INPUTS[0].astype(float), axis=1)).mean()
    assert flat["edit"] == pytest.approx(original, rel=0.01)
    assert flat["image"] < 0.8 * original


def test_both_classes_must_have_somebody(network: FeatureNetwork) -> None:
    with pytest.raises(ValueError, match="9 sources and 0 targets"):
        build_manifold(network, [labelled(SOURCES), [], []], 9, configure("dmt"))


def test_lpips_to_the_input_is_measured_where_its_arrays_are_given(network: FeatureNetwork) -> None:
    generator = np.random.default_rng(0)
    arrays = {name: generator.random(shape, np.float32) * 0.05 for name, shape in lpips_shapes("vgg16").items()}
    config = configure("dfi")
    sets = [labelled(SOURCES), labelled(TARGETS), []]
    transformer = Transformer(network, build_manifold(network, sets, 17, config), config, arrays)
    measure = Lpips("vgg16", arrays)
    for picture, found in zip(INPUTS, edits(transformer, INPUTS), strict=True):
        before = torch.from_numpy(transformer.working(picture))[None] / 255
        for edit in found:
            after = before + torch.from_numpy(edit.planes)[None] / 255
            assert edit.similarity.lpips == pytest.approx(float(measure(after, before)), rel=1e-3)
            assert edit.similarity.lpips > 0


def test_pixel_share_begins_at_the_exemplars_own_difference(network: FeatureNetwork) -> None:
    still = TransformInversionConfig(iterations=0, tv_weight=1, pixel_share=0.5)
    transformer = make(network, configure("dmt", inversion=still))
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:44] = 1
    for made, covered in (
        (edits(transformer, INPUTS), np.ones_like(mask)),
        (edits(transformer, INPUTS, [mask] * 3), mask),
    ):
        for (half, whole), rgb in zip(made, INPUTS, strict=True):
            for edit, strength in ((half, 0.5), (whole, 1.0)):
                shift = 0.5 * strength * transformer.pixel_difference.numpy() * covered
                expected = np.clip(transformer.working(rgb) + shift, 0, 255) - transformer.working(rgb)
                np.testing.assert_allclose(edit.planes, expected, atol=1e-3)
            assert bar_brightness(whole.planes) > 10


def test_a_wide_kernel_keeps_the_image_and_a_narrow_one_gives_it_up(network: FeatureNetwork) -> None:
    own = {}
    for kernel in (0.5, 0.98):
        transformer = make(network, configure(TransformTraversalConfig(strength=(1.0,), mean_kernel=kernel)))
        moved = transformer.traverse(working(transformer, INPUTS), [ImageIdentity()] * len(INPUTS))
        own[kernel] = np.mean([one.arrays["r"][0, -1] for one in moved])
        images = torch.tensor(working(transformer, INPUTS))
        gram = transformer.manifold.border(transformer.manifold.standardise(network(images / 255)))
        distances = gram.own[:, None] - 2 * gram.cross + gram.shared.diagonal()
        for one, row in zip(moved, distances[:, len(SOURCES) :].mean(1), strict=True):
            assert np.exp(-float(row) / 2 / one.steps[0].rbf_variance) == pytest.approx(kernel, rel=1e-6)
    assert own[0.5] < 3 * own[0.98] < 0


def test_shrinking_moves_what_the_classes_surely_differ_in_and_leaves_the_rest(network: FeatureNetwork) -> None:
    transformers = [
        make(network, configure(TransformTraversalConfig(strength=(1.0,), shrink=c))) for c in (0.0, 1.5, 1e9)
    ]
    images = working(transformers[0], INPUTS)
    maps = transformers[0]._maps(images)[1]
    z = transformers[0].manifold.standardise(maps)
    moves = []
    for transformer in transformers:
        moved = targets(transformer, images)
        moves.append(transformer.manifold.standardise(moved) - z)
    all_of_it, sure, none = moves
    kept = transformers[1].shrinkage
    assert kept is not None
    torch.testing.assert_close(sure, kept * all_of_it, rtol=1e-3, atol=1e-4)
    rows = kept[: 128 * 32 * 32].view(128, 32, 32).mean((0, 2))
    assert rows[19:25].mean() > 2 * rows[:15].mean()  # the bar that one class has, and the background
    assert float(none.abs().max()) < 1e-4


@pytest.mark.parametrize(("kind", "strength"), [("global", 6.0), ("local", 1.0)])
def test_the_default_strength_is_that_of_the_kind_of_traversal(
    network: FeatureNetwork, kind: str, strength: float
) -> None:
    transformer = make(network, configure(TransformTraversalConfig(traversal=kind, patch_neighbors=4)))  # type: ignore[arg-type]
    (found,) = edits(transformer, INPUTS[:1])
    assert [edit.figures.strength for edit in found] == [strength]
    assert transformer.settings.traversal.steps == (strength,)
