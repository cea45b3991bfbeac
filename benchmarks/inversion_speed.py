"""Time the batched inversion against SciPy's L-BFGS-B on one image at a time, on the same objective in the same run.

    python benchmarks/inversion_speed.py --data DIR

DIR holds colour photos. Each photo's grey copy is given its own colour features back, from no colour at the start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from scipy.optimize import minimize

from dmt_ray.errors import DmtError
from dmt_ray.method import color, lbfgs
from dmt_ray.method.inversion.objective import PictureObjective
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import working_rgb
from dmt_ray.method.settings import InversionConfig, ModelConfig
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.weights import resolve_weights


@dataclass(frozen=True)
class Options:
    """What to invert; everything else takes the job's defaults."""

    data: str
    """Folder of colour photos."""
    size: int = 96
    """Working size in pixels."""
    images: int = 8
    """How many photos."""
    iterations: int = 10
    """L-BFGS iterations per image at most."""


def scipy_one_by_one(objective: PictureObjective, start: torch.Tensor, iterations: int) -> np.ndarray:
    """Return the final values of SciPy's L-BFGS-B, an image at a time."""
    values = []
    for b in range(len(start)):
        row = torch.tensor([b])

        def value_and_gradient(x: np.ndarray, row: torch.Tensor = row) -> tuple[float, np.ndarray]:
            value, gradient = objective(torch.tensor(x, dtype=torch.float32)[None].to(start.device), row)
            return float(value), gradient[0].cpu().numpy().astype(np.float64)

        result = minimize(
            value_and_gradient,
            start[b].flatten().cpu().numpy().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-color.CHROMA_BOUND, color.CHROMA_BOUND)] * start[b].numel(),
            options={"maxiter": iterations, "maxcor": 10},
        )
        values.append(result.fun)
    return np.array(values)


def batched(
    objective: PictureObjective, start: torch.Tensor, iterations: int, batch: int
) -> tuple[torch.Tensor, float]:
    """Return the chroma that our L-BFGS ends with (B, n) and its evaluations per iteration."""
    parts, evaluations, steps = [], 0, 0
    for rows in torch.arange(len(start)).split(batch):

        def part(
            x: torch.Tensor, index: torch.Tensor, rows: torch.Tensor = rows
        ) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal evaluations
            evaluations += len(index)
            return objective(x, rows[index.cpu()].to(x.device))

        found = lbfgs.minimise(
            part,
            start[rows].flatten(1),
            iterations=iterations,
            lower=-color.CHROMA_BOUND,
            upper=color.CHROMA_BOUND,
            first_step=float(start[0].numel()) ** 0.5,
        )
        parts.append(found.x)
        steps += int(found.iterations.sum())
    return torch.cat(parts), evaluations / max(1, steps)


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """Return seconds and result."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def main() -> int:
    """Print the table; return 0."""
    options = tyro.cli(Options, description=__doc__)
    try:
        paths = list_files(options.data, {".jpg", ".jpeg", ".png", ".webp"})[: options.images]
        weights = resolve_weights(ModelConfig.backbone, ModelConfig.weights)
        photos = [working_rgb(decode_image(read_bytes(path), max_pixels=10**9), options.size) for path in paths]
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not photos:
        print(f"error: no photo in {options.data}.", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rgb = torch.tensor(np.stack(photos)).permute(0, 3, 1, 2).float().to(device)
    start = torch.zeros_like(rgb[:, :2])
    objectives = {}
    for precision in ("fp32", "bf16"):
        network = FeatureNetwork(
            weights.arrays, ModelConfig.backbone, ModelConfig.taps, precision=precision, device=device
        )
        with torch.no_grad():
            targets = network(rgb / 255)
        objectives[precision] = PictureObjective(
            network, targets, start, luma=color.luma(rgb), tv_weight=InversionConfig.tv_weight
        )
    exact, everything = objectives["fp32"], torch.arange(len(start), device=device)
    timed(lambda: exact(start.flatten(1), everything))  # the first call allocates
    reference_seconds, values = timed(lambda: scipy_one_by_one(exact, start, options.iterations))
    reference = np.asarray(values)
    print(f"{len(photos)} photos, {options.size} px, {options.iterations} iterations, {device}")
    columns = (
        f"{'s/image':>9}{'speed-up':>10}{'final loss over SciPy (mean, worst)':>38}{'evaluations/iteration':>23}"
    )
    print(f"{'solver':32}{columns}")
    print(f"{'SciPy L-BFGS-B, one by one, fp32':32}{reference_seconds / len(photos):9.2f}{1:10.1f}")
    for precision, objective in objectives.items():
        for batch in (1, 8):
            seconds, found = timed(lambda o=objective, b=batch: batched(o, start, options.iterations, b))  # type: ignore[misc]
            assert isinstance(found, tuple)
            chroma, evaluations = found
            value, _ = exact(chroma, everything)  # every result is judged by the exact objective
            ratio = value.cpu().numpy() / reference
            name, gain = f"ours, batch {batch}, {precision}", reference_seconds / seconds
            loss = f"{ratio.mean():20.4f}{ratio.max():18.4f}"
            print(f"{name:32}{seconds / len(photos):9.2f}{gain:10.1f}{loss}{evaluations:23.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
