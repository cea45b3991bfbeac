"""Compare ways to colorize held-out photos: grey, mean chroma, nearest-patch chroma, global and local traversal.

    python benchmarks/colorize_quality.py --data DIR

DIR holds colour photos, in subfolders or not. Photos named ``person_number.jpg`` are split by person: nobody is both
among the references and the inputs. Photos without colour are left out. Gains
are over the grey input, in dB of PSNR at working size; saturation is the mean chroma norm over the truth's.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from dmt_ray.errors import DmtError
from dmt_ray.method import color
from dmt_ray.method.colorizer import Colorizer, build_exemplars, is_grey
from dmt_ray.method.metrics.pixels import psnr
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, working_rgb
from dmt_ray.method.settings import ColorizerSettings, ModelConfig
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.weights import resolve_weights


@dataclass(frozen=True)
class Options:
    """What to compare on what; everything else takes the job's defaults."""

    data: str
    """Folder of colour photos."""
    size: int = 96
    """Working size in pixels."""
    references: int = 150
    """Reference photos at most."""
    inputs: int = 16
    """Held-out photos, each of another person."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """One split of persons per seed."""
    sheet: str | None = None
    """Write a contact sheet (PNG) of the first split here."""


def person(path: str) -> str:
    """Return the person of ``person_0001.jpg``; a name without a number is its own person."""
    return re.sub(r"_\d+$", "", Path(path).stem)


def split(paths: list[str], options: Options, seed: int) -> tuple[list[str], list[str]]:
    """Return inputs, one photo per person, and references of other persons."""
    rng = np.random.default_rng(seed)
    people = sorted({person(path) for path in paths})
    held_out = set(rng.permutation(people)[: options.inputs].tolist())
    inputs = [str(rng.choice([p for p in paths if person(p) == name])) for name in sorted(held_out)]
    rest = [path for path in paths if person(path) not in held_out]
    return inputs, [str(path) for path in rng.permutation(rest)[: options.references]]


def load(paths: list[str], size: int) -> np.ndarray:
    """Return photos (N, size, size, 3) uint8."""
    return np.stack([working_rgb(decode_image(read_bytes(path), max_pixels=10**9), size) for path in paths])


@dataclass(frozen=True)
class Score:
    """How one method did on one split."""

    gains: np.ndarray
    saturation: float
    seconds: float
    pictures: torch.Tensor


def score(luma: torch.Tensor, chroma: torch.Tensor, truth: torch.Tensor, seconds: float) -> Score:
    """Compare chroma (B, 2, H, W) on luma (B, 1, H, W) with the true pictures (B, 3, H, W)."""
    pictures = color.to_rgb(luma, chroma).clamp(0, 255).round()
    grey = luma.expand_as(pictures).round()
    gains = (psnr(pictures, truth) - psnr(grey, truth)).numpy()
    saturation = color.chroma(pictures).norm(dim=1).mean() / color.chroma(truth).norm(dim=1).mean()
    return Score(gains, float(saturation), seconds / len(truth), pictures)


def compare(
    references: np.ndarray, inputs: np.ndarray, network: FeatureNetwork, defaults: ColorizerSettings
) -> dict[str, Score]:
    """Return each method's score."""
    truth = torch.tensor(inputs).permute(0, 3, 1, 2).float()
    luma = color.luma(truth)
    grey = luma[:, 0].numpy()
    zero = torch.zeros_like(truth[:, :2])
    mean = color.chroma(torch.tensor(references).permute(0, 3, 1, 2).float()).mean(0, keepdim=True)
    scores = {"grey": score(luma, zero, truth, 0.0), "mean chroma": score(luma, mean.expand_as(zero), truth, 0.0)}
    for name, kind, iterations in (
        ("nearest-patch chroma", "local", 0),
        ("global traversal", "global", defaults.inversion.iterations),
        ("local traversal", "local", defaults.inversion.iterations),
    ):
        settings = replace(
            defaults,
            traversal=replace(defaults.traversal, traversal=kind),  # type: ignore[arg-type]
            inversion=replace(defaults.inversion, iterations=iterations),
        )
        recolorer = Colorizer(network, build_exemplars(network, references, settings), settings)
        started, chroma = time.perf_counter(), []
        for begin in range(0, len(grey), BATCH):
            part = grey[begin : begin + BATCH]
            chroma += [found.planes for (found,) in recolorer.reconstruct(part, recolorer.traverse(part))]
        seconds = time.perf_counter() - started
        scores[name] = score(luma, torch.from_numpy(np.stack(chroma)), truth, seconds)
    return scores


def save_sheet(path: str, inputs: np.ndarray, scores: dict[str, Score]) -> None:
    """Write truth and every method's pictures side by side."""
    columns = [scores[name].pictures.permute(0, 2, 3, 1).to(torch.uint8).numpy() for name in scores]
    rows = [[truth, *(column[k] for column in columns)] for k, truth in enumerate(inputs)]
    sheet = contact_sheet(rows, ["truth", *scores])
    (sheet if isinstance(sheet, Image.Image) else Image.fromarray(sheet)).save(path)


def main() -> int:
    """Print the table; return 0 when local traversal meets the aims on the mean of the splits, else 1."""
    options = tyro.cli(Options, description=__doc__)
    model = ModelConfig(size=options.size)
    try:
        paths = list_files(options.data, {".jpg", ".jpeg", ".png", ".webp"})
        weights = resolve_weights(model.backbone, model.weights)
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    paths = [path for path in paths if not is_grey(load([path], options.size)[0])]
    if len({person(path) for path in paths}) <= options.inputs:
        print(
            f"error: {options.data} has colour photos of too few persons for {options.inputs} inputs.",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = FeatureNetwork(weights.arrays, model.backbone, model.taps, precision=model.precision, device=device)
    results: dict[str, list[Score]] = {}
    for number, seed in enumerate(options.seeds):
        inputs, references = (load(part, options.size) for part in split(paths, options, seed))
        scores = compare(references, inputs, network, ColorizerSettings(options.size))
        for name, one in scores.items():
            results.setdefault(name, []).append(one)
        if number == 0 and options.sheet:
            save_sheet(options.sheet, inputs, scores)
    print(
        f"{options.inputs} inputs, {len(references)} references, {options.size} px, splits {options.seeds}, {device}"
    )
    print(f"{'method':22}{'gain dB':>9}{'worst':>8}{'saturation':>12}{'s/image':>9}   gain of each split")
    for name, found in results.items():
        gains = [one.gains.mean() for one in found]
        worst = min(one.gains.min() for one in found)
        saturation, seconds = np.mean([one.saturation for one in found]), np.mean([one.seconds for one in found])
        each = " ".join(f"{gain:.2f}" for gain in gains)
        print(f"{name:22}{np.mean(gains):9.2f}{worst:8.2f}{saturation:12.2f}{seconds:9.2f}   {each}")
    ours, trivial = results["local traversal"], results["mean chroma"]
    margin = np.mean([a.gains.mean() - b.gains.mean() for a, b in zip(ours, trivial, strict=True)])
    worst = min(one.gains.min() for one in ours)
    saturation = np.mean([one.saturation for one in ours])
    aims = (
        (f"{margin:.2f} dB above mean chroma", "at least 0.8", margin >= 0.8),
        (f"worst image {worst:+.2f} dB over grey", "at least 0", worst >= 0),
        (f"saturation {saturation:.2f}", "0.6 to 1.1", 0.6 <= saturation <= 1.1),
    )
    for figure, aim, met in aims:
        print(f"{'met   ' if met else 'MISSED'} {figure} (aim: {aim})")
    return 0 if all(met for _, _, met in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
