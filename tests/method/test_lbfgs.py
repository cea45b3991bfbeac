import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der

from dmt_ray.method import lbfgs


def rosenbrock(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = [rosen(row) for row in x.numpy()]
    gradient = np.stack([rosen_der(row) for row in x.numpy()])
    return torch.tensor(value), torch.tensor(gradient)


def starts(batch: int = 6, n: int = 8) -> torch.Tensor:
    return torch.rand(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 - 1.5


@pytest.mark.parametrize(("lower", "upper"), [(-np.inf, np.inf), (-0.5, 0.6), (0.2, 1.5)])
def test_reaches_the_minimum_of_scipy_within_bounds(lower: float, upper: float) -> None:
    start = starts().clamp(lower, upper)
    found = lbfgs.minimise(rosenbrock, start, iterations=1000, lower=lower, upper=upper, tolerance=1e-15)
    assert (found.x >= lower).all()
    assert (found.x <= upper).all()
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10}
    for b, row in enumerate(start.numpy()):
        bounds = [(lower, upper)] * len(row)
        best = minimize(rosen, row, jac=rosen_der, method="L-BFGS-B", bounds=bounds, options=options)
        if best.fun > 1:  # Rosenbrock's other local minimum in more than three dimensions
            continue
        assert float(found.value[b]) <= max(best.fun * 1.0001, 1e-9)


def test_rows_do_not_influence_each_other_and_leave_when_done() -> None:
    start = starts()
    start[2] = 1.0  # already at the minimum
    asked: list[torch.Tensor] = []

    def counted(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(rows)
        return rosenbrock(x, rows)

    together = lbfgs.minimise(counted, start, iterations=60)
    assert int(together.iterations[2]) == 0
    assert all(2 not in rows for rows in asked[1:])
    for b in range(len(start)):
        alone = lbfgs.minimise(rosenbrock, start[b : b + 1], iterations=60)
        torch.testing.assert_close(alone.x[0], together.x[b], rtol=1e-9, atol=1e-9)
        assert int(alone.iterations) == int(together.iterations[b])


def test_values_never_rise_and_the_start_is_reported() -> None:
    start = starts()
    previous, _ = rosenbrock(start, torch.arange(len(start)))
    for iterations in (1, 3, 10, 30):
        found = lbfgs.minimise(rosenbrock, start, iterations=iterations)
        torch.testing.assert_close(found.value_start, rosenbrock(start, torch.arange(6))[0])
        assert (found.value <= previous + 1e-12).all()
        assert (found.iterations <= iterations).all()
        torch.testing.assert_close(found.value, rosenbrock(found.x, torch.arange(6))[0])
        previous = found.value


def test_a_row_with_a_value_that_is_not_finite_ends_at_its_start() -> None:
    def broken(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = rosenbrock(x, rows)
        return torch.where(rows == 1, torch.nan, value), gradient

    start = starts()
    found = lbfgs.minimise(broken, start, iterations=20)
    assert torch.equal(found.x[1], start[1])
    assert (found.value[[0, 2]] < found.value_start[[0, 2]]).all()
