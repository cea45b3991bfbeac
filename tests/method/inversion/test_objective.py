import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from skimage.data import astronaut

from dmt_ray.method import color, lbfgs
from dmt_ray.method.inversion.objective import (
    FEATURE_SCALE,
    FeatureLoss,
    PictureObjective,
    TotalVariation,
    invert,
    invert_chroma,
)
from dmt_ray.method.inversion.preconditioner import SpectralPreconditioner
from dmt_ray.method.metrics.pixels import psnr
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import resize
from dmt_ray.storage.models.weights import resolve_weights


@pytest.fixture(scope="module")
def pictures(pictures: np.ndarray) -> np.ndarray:
    """The same eight pictures, (8, 32, 32, 3): a quarter of the work for the optimisers."""
    return pictures[:, ::2, ::2]


@pytest.fixture(scope="module")
def problem(network: FeatureNetwork, pictures: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Luma of two pictures, the features of their colour versions, and no colour to start from."""
    rgb = torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        targets = network(rgb / 255)
    return color.luma(rgb), targets, torch.zeros(2, 2, 32, 32)


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
    network: FeatureNetwork, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    objective = PictureObjective(network, targets, start, luma=luma, tv_weight=10)
    x = torch.randn(2, 2 * 32 * 32, generator=torch.Generator().manual_seed(0)) * 5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(2)
    _, gradient = objective(x, rows)
    step = 0.02
    rise = objective(x + step * direction, rows)[0] - objective(x - step * direction, rows)[0]
    torch.testing.assert_close((gradient * direction).sum(1), rise / (2 * step), rtol=2e-2, atol=0)


def test_ends_within_one_percent_of_scipys_lbfgsb_on_the_same_objective(
    network: FeatureNetwork, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
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
    network: FeatureNetwork, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor], pictures: np.ndarray
) -> None:
    luma, targets, start = problem
    truth = color.chroma(torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float())
    found = invert_chroma(network, luma, targets, start, tv_weight=0.1, iterations=80)
    assert (found.feature_loss_after < 0.1 * found.feature_loss_before).all()
    error = (found.planes - truth).square().mean().sqrt()
    assert float(error) < 0.35 * float(truth.square().mean().sqrt())
    assert (found.iterations > 5).all()


def test_a_batch_gives_what_its_images_give_alone(
    network: FeatureNetwork, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
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
    network: FeatureNetwork, problem: tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]
) -> None:
    luma, targets, start = problem
    found = invert_chroma(network, luma, targets, start + 7, tv_weight=5, iterations=0)
    assert torch.equal(found.planes, start + 7)
    assert (found.iterations == 0).all()


def test_the_preconditioner_is_a_symmetric_positive_operator_that_favours_coarse_structure() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3 * 16 * 12, generator=generator) for _ in range(2))
    for power, colour in ((0.5, False), (1.0, True)):
        operator = SpectralPreconditioner((3, 16, 12), power, colour=colour, device=torch.device("cpu"))
        torch.testing.assert_close((a * operator(b)).sum(1), (operator(a) * b).sum(1), rtol=1e-4, atol=1e-3)
        assert ((a * operator(a)).sum(1) > 0).all()
    flat = torch.ones(1, 3, 16, 12)
    checks = flat * ((torch.arange(16)[:, None] + torch.arange(12)) % 2 * 2 - 1)
    operator = SpectralPreconditioner((3, 16, 12), 1.0, colour=False, device=torch.device("cpu"))
    gains = [float(operator(planes.flatten(1)).norm() / planes.norm()) for planes in (flat, checks)]
    # 1/f^2 of the lowest frequency, 1/16, against that of the highest, sqrt(1/2).
    assert gains[0] / gains[1] == pytest.approx(16**2 / 2, rel=1e-3)
    identity = SpectralPreconditioner((3, 16, 12), 0.0, colour=False, device=torch.device("cpu"))
    torch.testing.assert_close(identity(a), a)


def test_preconditioned_steps_go_further(network: FeatureNetwork, pictures: np.ndarray) -> None:
    """Ten steps of ``invert`` leave less of the objective than ten plain ones, and twice as many."""
    images = torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        targets = [tap.flip(0) for tap in network(images / 255)]
    objective = PictureObjective(network, targets, images, tv_weight=3)
    rows, first_step = torch.arange(2), images[0].numel() ** 0.5
    found = invert(objective, images, before=images, bounds=(0.0, 255.0), iterations=10)
    ours = objective(found.planes.flatten(1), rows)[0]
    for steps in (10, 20):
        plain = lbfgs.minimise(
            objective,
            images.flatten(1),
            iterations=steps,
            lower=0.0,
            upper=255.0,
            first_step=first_step,
        )
        assert (ours < plain.value).all(), steps


def test_own_features_give_the_picture_back(network: FeatureNetwork, pictures: np.ndarray) -> None:
    """From the picture itself nothing moves; from one with its colours turned down, they come back."""
    images = torch.tensor(pictures[:2]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        targets = network(images / 255)
    objective = PictureObjective(network, targets, images, tv_weight=30)
    same = invert(objective, images, before=images, bounds=(0.0, 255.0), iterations=20)
    assert (psnr(same.planes, images) > 99).all()
    near = images * 0.7 + 0.3 * images.mean((1, 2, 3), keepdim=True)
    assert (psnr(near, images) < 28).all()
    objective = PictureObjective(network, targets, near, tv_weight=0.001)
    found = invert(objective, near, before=images, bounds=(0.0, 255.0), iterations=100)
    assert (psnr(found.planes, images) > 35).all()


@pytest.mark.slow
def test_conv3_1_alone_gives_a_photo_back_from_noise() -> None:
    """At 96 px, through the real network, by what ``--start noise`` does."""
    arrays = resolve_weights("vgg16", "auto").arrays
    network = FeatureNetwork(arrays, "vgg16", ("conv3_1",), precision="fp32", device=torch.device("cpu"))
    picture = torch.from_numpy(astronaut()[:256, 100:356].copy())
    images = resize(picture.permute(2, 0, 1).float(), 96, 96).clamp(0, 255)[None]
    with torch.no_grad():
        targets = network(images / 255)
    objective = PictureObjective(network, targets, images, tv_weight=0.01, tv_on="image")
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = invert(objective, 127.5 + 8 * noise, before=images, bounds=(0.0, 255.0), iterations=400, far=True)
    assert float(psnr(found.planes, images)) > 25
