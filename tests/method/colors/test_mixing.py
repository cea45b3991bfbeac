"""How vivid colours are made: what the references ask for."""

import numpy as np
import pytest
import torch

from dmt_ray.method import color
from dmt_ray.method.colors.building import held_out
from dmt_ray.method.colors.mixing import (
    LEAST_HELD_OUT,
    MOST_VIVID,
    UNTOLD,
    VIVID_AIM,
    VIVID_COST,
    Mixing,
    _colorfulness,
    fit_mixing,
    vivid,
)
from dmt_ray.method.metrics.pixels import colorfulness


def chroma(pictures: int, seed: int, length: float = 20.0) -> torch.Tensor:
    return torch.randn(pictures, 64, 2, generator=torch.Generator().manual_seed(seed)) * length


def fit_vividness(mixed: torch.Tensor, truth: torch.Tensor) -> float:
    """Where the prior and the nearest patches say the same."""
    return fit_mixing(mixed, mixed, truth).vividness


def loss(found: torch.Tensor, truth: torch.Tensor) -> float:
    errors = (found - truth).square().sum(2).mean(1) + 25
    return float((10 * torch.log10(errors)).mean())


def test_colorfulness_of_chroma_is_that_of_its_pixels():
    planes = chroma(3, 0)
    pixels = color.to_rgb(torch.full((3, 1, 8, 8), 128.0), planes.mT.unflatten(2, (8, 8)))
    expected = [colorfulness(picture.permute(1, 2, 0).numpy()) for picture in pixels]
    np.testing.assert_allclose(_colorfulness(planes), expected, rtol=1e-4)


def test_what_is_known_well_is_left_as_it_is_and_what_is_pale_for_doubt_becomes_vivid():
    known_part, rest = chroma(20, 0, 8), chroma(20, 1, 18)
    truth = known_part + rest
    known = fit_vividness(truth * 0.95, truth)
    assert 1 <= known < 1.1
    doubtful = known_part  # the mean of what may be: colour costs from the start
    factor = fit_vividness(doubtful, truth)
    assert known < factor < MOST_VIVID
    share = _colorfulness(vivid(doubtful, factor)).mean() / _colorfulness(truth).mean()
    assert float(share) == pytest.approx(VIVID_AIM, abs=0.02)
    assert fit_vividness(truth * 0.01, truth) == MOST_VIVID


def test_colour_that_costs_little_is_taken():
    truth = chroma(30, 2)
    pale = 0.8 * truth + chroma(30, 3, 8)
    factor = fit_vividness(pale, truth)
    assert float(_colorfulness(vivid(pale, factor)).mean()) > VIVID_AIM * float(_colorfulness(truth).mean())
    best = min(loss(vivid(pale, 1 + step / 100), truth) for step in range(61))
    assert loss(vivid(pale, factor), truth) <= best + VIVID_COST + 1e-4
    assert loss(vivid(pale, factor + 0.02), truth) > best + VIVID_COST


def test_who_is_nearer_to_the_truth_has_the_larger_share():
    truth, one, other = chroma(20, 0), chroma(20, 1, 5), chroma(20, 2, 15)
    assert fit_mixing(truth + one, truth + other, truth).share > 0.75
    assert fit_mixing(truth + other, truth + one, truth).share < 0.25
    assert fit_mixing(chroma(20, 3), truth, truth).share == 0
    assert 0.4 <= fit_mixing(truth + other, truth + chroma(20, 4, 15), truth).share <= 0.6


def test_too_few_references_tell_nothing():
    truth = chroma(LEAST_HELD_OUT - 1, 4)
    assert fit_mixing(truth * 0.3, truth, truth) == UNTOLD
    assert held_out(3 * LEAST_HELD_OUT - 1, 0) == []
    assert len(held_out(3 * LEAST_HELD_OUT, 0)) == LEAST_HELD_OUT
    many = held_out(10_000, 0)
    assert many == held_out(10_000, 0) == sorted(set(many))
    assert many != held_out(10_000, 1)
    assert len(many) == 64


def test_a_mix_lies_between_both_and_vivid_colours_keep_their_bounds():
    one, other = chroma(2, 5), chroma(2, 6)
    mixed = Mixing(0.3, 1.0).mix(one, other)
    assert bool(((mixed - one) * (mixed - other) <= 0).all())
    torch.testing.assert_close(vivid(mixed, 1.0), mixed)
    assert float(vivid(mixed * 100, 1.5).abs().max()) <= color.CHROMA_BOUND
