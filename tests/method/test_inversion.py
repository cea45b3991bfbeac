import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dmt_ray.method import color, lbfgs
from dmt_ray.method.inversion import FEATURE_SCALE, FeatureLoss, PictureObjective, TotalVariation, invert_chroma
from dmt_ray.method.vgg import VGG


@pytest.fixture(scope="module")
def problem(network: VGG, pictures: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Luma of two pictures, the features of their colour versions, and no colour to start from."""
    rgb = torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        targets = network(rgb / 255)
    return color.luma(rgb), targets, torch.zeros(2, 2, 64, 64)


def test_losses_equal_their_formulas_and_gradients_in_float64() -> None:
    a, b = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    c, d = torch.randn(2, 2, 2, 2, dtype=torch.float64), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    expected = FEATURE_SCALE * (0.5 * ((a - b) ** 2).sum((1, 2, 3)) + 0.5 * ((c - d) ** 2).sum((1, 2, 3))) / 2
    torch.testing.assert_close(FeatureLoss()([a, c], [b, d]), expected)
    tv = TotalVariation(3.0)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert float(tv(ramp)) == 3.0 * 12  # twelve horizontal differences of one, none vertical
    assert torch.autograd.gradcheck(lambda x: FeatureLoss()([x, c], [b, d]), (a.clone().requires_grad_(True),))
    assert torch.autograd.gradcheck(tv, (a.clone().requires_grad_(True),))


def test_gradient_of_the_objective_equals_finite_differences(
    network: VGG, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    objective = PictureObjective(network, targets, start, luma=luma, tv_weight=10)
    x = torch.randn(2, 2 * 64 * 64, generator=torch.Generator().manual_seed(0)) * 5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(2)
    _, gradient = objective(x, rows)
    step = 0.02
    rise = objective(x + step * direction, rows)[0] - objective(x - step * direction, rows)[0]
    torch.testing.assert_close((gradient * direction).sum(1), rise / (2 * step), rtol=2e-2, atol=0)


def test_ends_within_one_percent_of_scipys_lbfgsb_on_the_same_objective(
    network: VGG, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    objective = PictureObjective(network, targets, start, luma=luma, tv_weight=1)
    found = lbfgs.minimise(
        objective, start.flatten(1), iterations=60, lower=-color.CHROMA_BOUND, upper=color.CHROMA_BOUND, first_step=90
    )
    for b in range(2):
        row = torch.tensor([b])

        def value_and_gradient(x: np.ndarray, row: torch.Tensor = row) -> tuple[float, np.ndarray]:
            value, gradient = objective(torch.tensor(x, dtype=torch.float32)[None], row)
            return float(value), gradient[0].numpy().astype(np.float64)

        theirs = minimize(
            value_and_gradient,
            start[b].flatten().numpy().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-color.CHROMA_BOUND, color.CHROMA_BOUND)] * start[b].numel(),
            options={"maxiter": 60, "maxcor": 10},
        )
        start_value = float(found.value_start[b])
        assert theirs.fun < 0.5 * start_value  # the comparison is about something
        assert float(found.value[b]) <= theirs.fun * 1.01


def test_finds_the_colours_whose_features_it_is_given(
    network: VGG, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor], pictures: np.ndarray
) -> None:
    luma, targets, start = problem
    truth = color.chroma(torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float())
    found = invert_chroma(network, luma, targets, start, tv_weight=0.1, iterations=80)
    assert (found.feature_loss_after < 0.1 * found.feature_loss_before).all()
    error = (found.planes - truth).square().mean().sqrt()
    assert float(error) < 0.35 * float(truth.square().mean().sqrt())
    assert (found.iterations > 5).all()


def test_a_batch_gives_what_its_images_give_alone(
    network: VGG, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    together = invert_chroma(network, luma, targets, start, tv_weight=5, iterations=15)
    for b in range(2):
        part = slice(b, b + 1)
        alone = invert_chroma(
            network, luma[part], [t[part] for t in targets], start[part], tv_weight=5, iterations=15
        )
        difference = (alone.planes[0] - together.planes[b]).square().mean()
        assert 10 * torch.log10(255**2 / difference) > 45


def test_no_iterations_return_the_start(
    network: VGG, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    found = invert_chroma(network, luma, targets, start + 7, tv_weight=5, iterations=0)
    assert torch.equal(found.planes, start + 7)
    assert (found.iterations == 0).all()
