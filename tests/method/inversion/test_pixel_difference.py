import numpy as np
import pytest
import torch

from dmt_ray.method.inversion.pixel_difference import ClassPictures


def pictures(seed: int, count: int, bar: float) -> torch.Tensor:
    """Make noise (count, 3, 44, 44) around middle grey; ``bar`` is added to rows 20 to 27."""
    made = torch.tensor(np.random.default_rng(seed).normal(128, 20, (count, 3, 44, 44)))
    made[:, :, 20:28] += bar
    return made.float()


def difference(*sets: torch.Tensor) -> torch.Tensor:
    source, target = (ClassPictures(44) for _ in sets)
    for one, images in zip((source, target), sets, strict=True):
        for batch in images.split(7):
            one.add(batch)
    return source.difference_to(target)


def test_what_classes_differ_in_is_kept_and_chance_is_not() -> None:
    sources, targets = pictures(0, 60, 0), pictures(1, 50, 40)
    found = difference(sources, targets)
    plain = (targets.double().mean(0) - sources.double().mean(0)).numpy()
    kept = found.numpy()[:, 20:28].mean() / plain[:, 20:28].mean()
    assert 0.9 < kept <= 1
    assert np.abs(found[:, :12]).mean() < 0.1 * np.abs(plain[:, :12]).mean()


def test_two_photos_of_each_class_are_no_evidence() -> None:
    found = difference(pictures(0, 2, 0), pictures(1, 2, 0))
    assert float(found.norm()) < 0.2 * float((pictures(1, 2, 0).mean(0) - pictures(0, 2, 0).mean(0)).norm())


@pytest.mark.parametrize("counts", [(1, 5), (5, 1)])
def test_one_photo_is_none(counts: tuple[int, int]) -> None:
    assert not difference(pictures(0, counts[0], 0), pictures(1, counts[1], 90)).any()
