"""Do labels truly change? Fool a judge by an adversarial perturbation, change the class by ours, ask other judges.

    python benchmarks/label_change.py --source DAY --target NIGHT --inputs DAY2 --traversal local --largest 2
    python benchmarks/label_change.py --data FACES --largest 12 [--sheet sheet.png]

Both go just so far that the judge, a linear probe on AlexNet's features, calls a photo the other class by
``--margin``. The adversarial one is Szegedy et al. 2013 (arXiv 1312.6199, section 4.1): box-constrained L-BFGS on
c |perturbation|^2 + the judge's logistic loss, with the largest c on a ladder that still succeeds. Ours is
``--until-flipped``. Two judges had no part in it: a probe on the means of VGG-16's conv5_1, and one on grey pixels
of a picture of 32 x 32. A photo counts for a judge that called it right before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _two_classes import (
    ClassOptions,
    Photos,
    at_size,
    decision_values,
    default_network,
    exemplar_weights,
    labelled_exemplars,
    load_classes,
)
from torch import Tensor

from dmt_ray.errors import DmtError
from dmt_ray.method import color, lbfgs
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.metrics.lpips import Lpips
from dmt_ray.method.metrics.probe_fit import Probe, fit_probe
from dmt_ray.method.metrics.verdicts import PROBE_SIZE, ProbeFeatures, ProbeJudge, pooled_maps, resized
from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.conv_stack import ConvStack
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import to_pixels, to_tensor
from dmt_ray.method.settings import (
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.storage.models.weights import load_alexnet, load_lpips

#: Weights of the perturbation's squared length, per pixel in 8-bit units, from the largest.
_LADDER = tuple(10.0**power for power in range(-1, -8, -1))
_STEPS = 30
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

#: Features (N, D) of pictures (1, 3, H, W) in 0..255.
Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Options(ClassOptions):
    """Which photos, and how far to go at most."""

    size: int = 128
    """Working size in pixels."""
    largest: float = 12.0
    """The largest strength."""
    margin: float = 0.5
    """The decision value that both must reach."""
    sheet: str | None = None
    """Write a contact sheet (PNG) here."""
    move: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    """Of our traversal."""
    pixels: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    """Of our inversion."""


class Other:
    """A linear probe on some features, fitted to the exemplars."""

    def __init__(self, features: Features, pictures: Sequence[Tensor], exemplars: Photos, weights: np.ndarray | None):
        self._features = features
        groups: list[str | None] = [*exemplars.groups]
        self.probe: Probe = fit_probe(self._rows(pictures), exemplars.label == 1, groups, weights)

    def __call__(self, pictures: Sequence[Tensor]) -> np.ndarray:
        """Return decision values (N,) of pictures (3, H, W)."""
        return decision_values(self.probe, self._rows(pictures))

    def _rows(self, pictures: Sequence[Tensor]) -> np.ndarray:
        return torch.cat([self._features(picture[None].to(DEVICE)) for picture in pictures]).cpu().numpy()


def vgg_means(network: FeatureNetwork) -> Features:
    """Return what gives the mean of each channel of conv5_1, at 224 px."""

    def features(picture: Tensor) -> Tensor:
        with torch.inference_mode():
            (maps,) = network(resized(picture, PROBE_SIZE, PROBE_SIZE) / 255, ("conv5_1",))
        means: Tensor = maps.float().mean((2, 3))
        return means

    return features


def small_grey(picture: Tensor) -> Tensor:
    """Return the luma of a picture of 32 x 32."""
    return resized(color.luma(picture).expand(-1, 3, -1, -1), 32, 32)[:, 0].flatten(1)


class Attack:
    """Finds the smallest perturbation that an AlexNet probe falls for."""

    def __init__(self, alexnet: dict[str, np.ndarray], probe: Probe, margin: float) -> None:
        self._stack = ConvStack(ALEXNET_LAYERS, alexnet).to(DEVICE)
        self._margin = margin
        names = ("mean", "scale", "coefficients", "intercept")
        self._probe = [
            torch.tensor(probe.arrays[f"judge_{name}"], dtype=torch.float32, device=DEVICE) for name in names
        ]

    def _values(self, pictures: Tensor) -> Tensor:
        mean, scale, coefficients, intercept = self._probe
        return (pooled_maps(self._stack, pictures) - mean) / scale @ coefficients + intercept

    def __call__(self, picture: Tensor, sign: int) -> Tensor:
        """Return a picture (3, H, W) in whole 8-bit units that the probe calls +1 or -1, by the margin if it can."""
        picture = picture.to(DEVICE)
        # What succeeds at a weight succeeds at the smaller ones: bisect the ladder.
        best, low, high = picture, 0, len(_LADDER)
        while low < high:
            middle = (low + high) // 2
            made = self._at(picture, sign, _LADDER[middle]).round()
            with torch.no_grad():
                fooled = float(sign * self._values(made[None])) > self._margin
            if fooled or middle == len(_LADDER) - 1:
                best = made
            low, high = (low, middle) if fooled else (middle + 1, high)
        return best.cpu()

    def _at(self, picture: Tensor, sign: int, weight: float) -> Tensor:
        def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                planes = x.detach().view(-1, *picture.shape).requires_grad_(True)
                # A margin of its own, so that rounding to whole units does not undo it.
                loss = F.softplus(4 * (1.5 * self._margin + 0.1 - sign * self._values(planes)))
                value = loss + weight * (planes - picture).square().flatten(1).mean(1)
                (gradient,) = torch.autograd.grad(value.sum(), planes)
            return value.detach(), gradient.flatten(1)

        minimum = lbfgs.minimise(
            objective, picture.flatten()[None], iterations=_STEPS, lower=0.0, upper=255.0, first_step=10.0
        )
        return minimum.x.view_as(picture)


def ours(
    options: Options,
    network: FeatureNetwork,
    exemplars: Photos,
    weights: np.ndarray | None,
    photos: Sequence[np.ndarray],
    judge: ProbeJudge,
    source: int,
) -> list[Tensor]:
    """Return the photos (3, h, w) moved until the judge calls them the other class."""
    move = replace(options.move, strength=(options.largest,))
    settings = TransformerSettings(options.size, move, options.pixels, until_flipped=True)
    sets = [
        labelled_exemplars(exemplars, label, weights, options.size, keep_aspect=move.traversal == "local")
        for label in (source, 1 - source)
    ]
    arrays = build_manifold(network, [*sets, []], len(exemplars.rgb), settings)
    transformer = Transformer(network, arrays, settings, judge=judge)
    results = []
    for rgb in photos:
        working = transformer.working(rgb)[None]
        moved = transformer.traverse(working, [ImageIdentity()])
        ((edit,),) = transformer.reconstruct(working, moved, [None])
        results.append(to_tensor(edit.picture))
    return results


def main() -> int:
    """Print the table; return 0 when other judges agree with ours on at least 85 % of the photos, else 1."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    try:
        exemplars, inputs = load_classes(options)
        weights = exemplar_weights(exemplars, options.balance)
        network, alexnet = default_network(DEVICE), load_alexnet().arrays
        lpips = Lpips("vgg16", load_lpips("vgg16").arrays)
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    local = options.move.traversal == "local"
    pictures = [to_tensor(rgb) for rgb in at_size(exemplars.rgb, options.size, keep_aspect=local)]
    judges = {
        "judge": Other(ProbeFeatures(alexnet, DEVICE), pictures, exemplars, weights),
        "VGG conv5_1": Other(vgg_means(network), pictures, exemplars, weights),
        "grey pixels": Other(small_grey, pictures, exemplars, weights),
    }
    accuracies = ", ".join(f"{name} {judge.probe.accuracy:.0%}" for name, judge in judges.items())
    print(f"{len(exemplars.rgb)} exemplars, {options.size} px; right on held-out exemplars: {accuracies}.")
    print(f"{'':24}" + "".join(f"{name:>13}" for name in judges) + f"{'rms of 255':>12}{'LPIPS':>7}")
    least = 1.0
    rows = []
    for source in np.unique(inputs.label).tolist():
        sign = 1 if source == 0 else -1
        photos = inputs.of(source)
        before = [to_tensor(rgb) for rgb in at_size(photos, options.size, keep_aspect=local)]
        right = {name: sign * judge(before) < 0 for name, judge in judges.items()}
        probe = judges["judge"].probe
        signed = replace(probe, arrays=dict(probe.arrays))
        for name in ("judge_coefficients", "judge_intercept"):
            signed.arrays[name] = sign * probe.arrays[name]
        judge = ProbeJudge(alexnet, signed.arrays, DEVICE, options.margin)
        attack = Attack(alexnet, probe, options.margin)
        made = {
            "adversarial": [attack(picture, sign) for picture in before],
            "ours": ours(options, network, exemplars, weights, photos, judge, source),
        }
        rows += [[to_pixels(each) for each in row] for row in list(zip(before, *made.values(), strict=True))[:8]]
        for name, results in made.items():
            shares = [float((sign * j(results) > 0)[right[other]].mean()) for other, j in judges.items()]
            with torch.inference_mode():
                distance = np.mean(
                    [float(lpips(a[None] / 255, b[None] / 255)) for a, b in zip(results, before, strict=True)]
                )
            rms = np.mean([float((a - b).square().mean().sqrt()) for a, b in zip(results, before, strict=True)])
            label = f"{name} to {options.names[1 - source]}"
            print(
                f"{label:24}" + "".join(f"{share:13.0%}" for share in shares) + f"{rms:12.1f}{distance:7.3f}",
                flush=True,
            )
            if name == "ours":
                least = min(least, *shares[1:])
    if options.sheet:
        contact_sheet(rows, ["input", "adversarial", "ours"], cell=(192, 192), across=2).save(options.sheet)
    print(f"{'met   ' if least >= 0.85 else 'MISSED'} {least:.0%} by judges that were not used (aim: at least 85%)")
    return 0 if least >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
