import math

import numpy as np
import pytest

from dmt_ray.method.pictures import BATCH, fits_batch, same_shaped, working_rgb, working_shape


@pytest.mark.parametrize("size", [64, 128, 224, 448])
def test_a_working_shape_keeps_aspect_ratio_and_area(size: int) -> None:
    for height, width in ((250, 250), (235, 320), (1080, 1920), (4000, 3000), (2000, 3000), (900, 301)):
        rows, columns = working_shape(height, width, size)
        assert rows % 16 == columns % 16 == 0
        assert 0.7 * size**2 <= rows * columns <= size**2
        # A side can be off by half a step of 16, and shorter by one where the area would be too large.
        assert abs(math.log(columns / rows * height / width)) < 16 / min(rows, columns)
        assert working_shape(width, height, size) == (columns, rows) or height == width


def test_squares_stay_and_extremes_are_squeezed_to_the_area() -> None:
    assert working_shape(10, 10, 128) == (128, 128)
    assert working_shape(10, 10_000, 128) == (32, 512)
    assert working_shape(7, 3, 32) == (32, 32)


def test_a_picture_is_resized_to_its_working_shape() -> None:
    rgb = np.zeros((60, 120, 3), np.uint8)
    assert working_rgb(rgb, 64).shape == (64, 64, 3)
    assert working_rgb(rgb, 64, keep_aspect=True).shape == (*working_shape(60, 120, 64), 3)


def test_places_are_batched_by_shape_and_a_batch_takes_one_shape_while_there_is_room() -> None:
    a, b = np.zeros((2, 3, 3)), np.zeros((3, 2, 3))
    shapes = [a.shape, b.shape, None, a.shape, a.shape, None]
    assert same_shaped(shapes, 2) == [[0, 3], [4], [1], [2, 5]]
    assert fits_batch([], a)
    assert fits_batch([a] * (BATCH - 1), a)
    assert not fits_batch([a] * BATCH, a)
    assert not fits_batch([a], b)
