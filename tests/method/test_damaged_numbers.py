"""Damaged manifolds and displacements: every one is an error of its image, and none hangs or gives a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from safetensors.numpy import save
from test_transformer import INPUTS, SOURCES, TARGETS, labelled
from test_transformer import network as network  # a fixture
from ways import CPU, network_on

from dmt_ray.errors import ImageError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.colorizer import Colorizer, build_exemplars
from dmt_ray.method.colors.describing import COLOR_LAYERS
from dmt_ray.method.displacement import Displacement, Edit, Figures
from dmt_ray.method.settings import (
    ColorizerSettings,
    InversionConfig,
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
    TraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity

Arrays = Mapping[str, np.ndarray]
Make = Callable[[Arrays], Colorizer | Transformer]
KINDS = ["colorize local", "colorize global", "transform local", "transform global", "transform dfi"]
WITH_GRAM = ["colorize global", "transform global", "transform dfi"]
#: What a kind of traversal never reads.
UNREAD = {"colorize global": {"f_ratio"}}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, network, vgg16_arrays) -> tuple[str, Arrays, Make]:
    """A kind of traversal, what it learned, and how its editor is made."""
    job, traversal = request.param.split()
    if job == "colorize":
        colorizer = ColorizerSettings(
            64,
            TraversalConfig(traversal=traversal, neighbors=8, strength=(0.5, 1.0), prior="on"),
            InversionConfig(iterations=1),
        )
        network = network_on(vgg16_arrays, CPU, held=COLOR_LAYERS)
        arrays = build_exemplars(network, TARGETS[:3], colorizer)
        return request.param, arrays, lambda arrays: Colorizer(network, arrays, colorizer)
    move = (
        TransformTraversalConfig(method="dfi", strength=(0.5, 1.0))
        if traversal == "dfi"
        else TransformTraversalConfig(traversal=traversal, strength=(0.5, 1.0), patch_neighbors=3)
    )
    transformer = TransformerSettings(64, move, TransformInversionConfig(iterations=1))
    arrays = build_manifold(network, [labelled(SOURCES[:3]), labelled(TARGETS[:3]), []], 6, transformer)
    return request.param, arrays, lambda arrays: Transformer(network, arrays, transformer)


def pictures(editor: Colorizer | Transformer) -> np.ndarray:
    return np.stack([editor.working(rgb) for rgb in INPUTS[:2]])


def edits(editor: Colorizer | Transformer) -> list[list[Edit]]:
    images = pictures(editor)
    return editor.reconstruct(images, editor.traverse(images, [ImageIdentity()] * 2), [None] * 2)


@pytest.mark.timeout(120)
def test_no_array_of_a_manifold_may_have_a_nan(kind) -> None:
    name_of_kind, arrays, make = kind
    assert all(np.isfinite(edit.planes).all() for found in edits(make(arrays)) for edit in found)
    tried = 0
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not array.size or name in UNREAD.get(name_of_kind, ()):
            continue
        damaged = array.copy()
        damaged.reshape(-1)[array.size // 3] = np.nan
        with pytest.raises(ImageError) as caught:
            edits(make({**arrays, name: damaged}))
        assert caught.value.kind == "not-finite", name
        tried += 1
    assert tried >= 6


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", WITH_GRAM, indirect=True)  # those of patches are made when they are needed
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(1, 1), (0, 1)], ids=["diagonal", "beside"])
def test_a_gram_matrix_that_no_ridge_can_mend_ends_at_once(kind, place: tuple[int, int], value: float) -> None:
    _, arrays, make = kind
    gram = arrays["gram"].copy()
    gram[place] = gram[place[::-1]] = value
    with pytest.raises(ImageError) as caught:
        edits(make({**arrays, "gram": gram}))
    assert caught.value.kind == "not-finite"


def changed(displacement: Displacement, **changes: Callable[[np.ndarray], np.ndarray]) -> Displacement:
    """Return a displacement some of whose arrays, where it has them, are changed."""
    arrays = {name: changes.get(name, lambda array: array)(array) for name, array in displacement.arrays.items()}
    return Displacement(arrays, displacement.steps)


CHANGES = [lambda array: array[:1], lambda array: array[..., :-1], lambda array: array[0]]


def test_a_displacement_of_other_exemplars_is_refused(kind) -> None:
    _, arrays, make = kind
    editor = make(arrays)
    images = pictures(editor)
    sound = editor.traverse(images, [ImageIdentity()] * 2)
    own = sound[1]
    foreign = [
        Displacement({}, own.steps),
        Displacement(own.arrays, own.steps[:1]),
        Displacement(own.arrays, []),
        Displacement(own.arrays, [*own.steps, *own.steps]),
        *(changed(own, **dict.fromkeys(("r", "weight", "chroma"), change)) for change in CHANGES),
    ]
    if "index" in own.arrays:
        foreign += [
            changed(own, index=lambda array: array + 10**6),
            changed(own, index=lambda array: array - 10**6),
            changed(own, index=lambda array: array.astype(np.float32)),
            changed(own, index=lambda array: array[:-1]),
        ]
    for displacement in foreign:
        with pytest.raises(ImageError) as caught:
            editor.reconstruct(images, [sound[0], displacement], [None] * 2)
        assert caught.value.kind == "bad-displacement"
    assert [len(found) for found in editor.reconstruct(images, sound, [None] * 2)] == [2, 2]


def test_numbers_too_large_for_the_network_are_no_picture(kind) -> None:
    _, arrays, make = kind
    editor = make(arrays)
    images = pictures(editor)

    def huge(array: np.ndarray) -> np.ndarray:
        return np.full_like(array, np.finfo(array.dtype).max)

    moved = [
        changed(found, r=huge, weight=huge, chroma=huge) for found in editor.traverse(images, [ImageIdentity()] * 2)
    ]
    with pytest.raises(ImageError) as caught:
        editor.reconstruct(images, moved, [None] * 2)
    assert caught.value.kind == ("not-finite" if "chroma" not in moved[0].arrays else "bad-displacement")


def with_steps(steps: str) -> bytes:
    return save({"r": np.zeros((1, 3))}, metadata={"steps": steps})


SOUND = Displacement({"r": np.zeros((1, 3))}, [Figures(1.0, 2.0)]).to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"abc", SOUND[: len(SOUND) // 2], SOUND[:-1], b"\x89PNG\r\n\x1a\n" + bytes(64)),
        (2).to_bytes(8, "little") + b"[]",
        save({"r": np.zeros((1, 3))}),
        *map(with_steps, ("", "3", "[3]", "null", '{"strength": 1}', '["text"]', "[" * 100_000, "[[1, 2]]")),
        with_steps('[{"strength": 1}]'),
        with_steps('[{"strength": 1, "displacement_norm": 1, "other": 2}]'),
        with_steps('[{"strength": "far", "displacement_norm": 1}]'),
        with_steps('[{"strength": null, "displacement_norm": 1}]'),
        with_steps('[{"strength": true, "displacement_norm": 1}]'),
        with_steps('[{"strength": [1], "displacement_norm": 1}]'),
        with_steps('[{"strength": 1' + 400 * "0" + ', "displacement_norm": 1}]'),
    ],
    ids=lambda data: repr(data[-40:]),
)
def test_bytes_that_are_no_displacement(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        Displacement.from_bytes(data)
    assert caught.value.kind == "bad-displacement"


def test_damaged_bytes_are_an_error_of_the_image_or_leave_finite_numbers() -> None:
    random = np.random.default_rng(0)
    for _ in range(1000):
        data = bytearray(SOUND)
        for place in random.integers(len(data), size=random.integers(1, 4)):
            data[place] = random.integers(256)
        with contextlib.suppress(ImageError):
            found = Displacement.from_bytes(bytes(data))
            assert all(np.isfinite(array).all() for array in found.arrays.values())
            assert all(np.isfinite(figures.strength) for figures in found.steps)
