r"""Compare ways to colorize held-out photos: grey, mean chroma, and the program with and without its colour prior.

    python benchmarks/colorize_quality.py --data DIR
    python benchmarks/colorize_quality.py --data FACES --aims faces --size 96 --references 150 --inputs 16 \
        --seeds 0 1 2 3 4 5

DIR holds colour photos, in subfolders or not. Photos named ``person_number.jpg`` are split by person: nobody is both
among the references and the inputs. Photos without colour are left out. Gains are over the grey input, in dB of PSNR
at working size; CF is the colourfulness (Hasler and Suesstrunk 2003) of all results over that of the true photos;
saturation is the mean chroma norm over the truth's. ``--compare-sizes`` colorizes some photos of the first split at
several sizes, brings the results to the smallest, and prints the mean CIEDE2000 between them (needs scikit-image).
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image

from dmt_ray.errors import DmtError
from dmt_ray.method import color
from dmt_ray.method.colorizer import Colorizer, build_exemplars, exemplar_side, is_grey, working_luma
from dmt_ray.method.colors.describing import COLOR_LAYERS
from dmt_ray.method.metrics.pixels import colorfulness, psnr
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, working_rgb
from dmt_ray.method.settings import ColorizerSettings, ModelConfig
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.weights import resolve_weights

#: arXiv 2212.11613, Table 1: PSNR and CF ratio on ImageNet's validation photos, where grey has 23.19 dB.
PUBLISHED = (("DeOldify", 0.9, 0.56), ("DDColor-large", 0.7, 1.00))
PUBLISHED_GREY = 23.19


@dataclass(frozen=True)
class Options:
    """What to compare on what; everything else takes the job's defaults."""

    data: str
    """Folder of colour photos."""
    size: int = 128
    """Working size in pixels."""
    references: int | None = None
    """Reference photos at most. Default: all that are no inputs."""
    inputs: int = 64
    """Held-out photos, each of another person."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One split per seed."""
    with_global: bool = False
    """Compare global traversal too."""
    compare_sizes: tuple[int, ...] = ()
    """Sizes to colorize the same photos at, the smallest first."""
    compare_count: int = 8
    """Photos that are colorized at several sizes."""
    aims: Literal["photos", "faces"] = "photos"
    """What to check in the end."""
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
    cf_ratio: float
    saturation: float
    seconds: float
    pictures: torch.Tensor

    @property
    def worse(self) -> float:
        """Share of photos that are worse than grey."""
        return float((self.gains < 0).mean())


def score(luma: torch.Tensor, chroma: torch.Tensor, truth: torch.Tensor, seconds: float) -> Score:
    """Compare chroma (B, 2, H, W) on luma (B, 1, H, W) with the true pictures (B, 3, H, W)."""
    pictures = color.to_rgb(luma, chroma).clamp(0, 255).round()
    grey = luma.expand_as(pictures).round()
    gains = (psnr(pictures, truth) - psnr(grey, truth)).numpy()
    made, true = (
        np.mean([colorfulness(picture.permute(1, 2, 0).numpy()) for picture in each]) for each in (pictures, truth)
    )
    saturation = color.chroma(pictures).norm(dim=1).mean() / color.chroma(truth).norm(dim=1).mean()
    return Score(gains, float(made / true), float(saturation), seconds / len(truth), pictures)


def colorize(colorizer: Colorizer, luma: np.ndarray) -> torch.Tensor:
    """Return chroma (B, 2, H, W) of luma (B, H, W)."""
    chroma = []
    for begin in range(0, len(luma), BATCH):
        part = luma[begin : begin + BATCH]
        chroma += [found.planes for (found,) in colorizer.reconstruct(part, colorizer.traverse(part))]
    return torch.from_numpy(np.stack(chroma))


def compare(
    references: np.ndarray,
    inputs: np.ndarray,
    network: FeatureNetwork,
    defaults: ColorizerSettings,
    bank: dict[str, np.ndarray],
    with_global: bool,
) -> dict[str, Score]:
    """Return each method's score."""
    truth = torch.tensor(inputs).permute(0, 3, 1, 2).float()
    luma = color.luma(truth)
    grey = luma[:, 0].numpy()
    zero = torch.zeros_like(truth[:, :2])
    mean = color.chroma(torch.tensor(references).permute(0, 3, 1, 2).float()).mean(0, keepdim=True)
    scores = {"grey": score(luma, zero, truth, 0.0), "mean chroma": score(luma, mean.expand_as(zero), truth, 0.0)}
    ways = [("nearest patches", "local", "off"), ("with prior", "local", "auto")]
    for name, kind, prior in [*ways, *([("global", "global", "off")] if with_global else [])]:
        traversal = replace(defaults.traversal, traversal=kind, prior=prior)  # type: ignore[arg-type]
        settings = replace(defaults, traversal=traversal)
        exemplars = bank if kind == "local" else build_exemplars(network, list(references), settings)
        colorizer = Colorizer(network, exemplars, settings)
        started = time.perf_counter()
        chroma = colorize(colorizer, grey)
        scores[name] = score(luma, chroma, truth, time.perf_counter() - started)
    return scores


def compare_sizes(
    paths: list[str], options: Options, network: FeatureNetwork, bank: dict[str, np.ndarray]
) -> dict[tuple[int, int], float]:
    """Return the mean CIEDE2000 between results of the same photos at each two sizes, brought to the smallest."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    photos = [decode_image(read_bytes(path), max_pixels=10**9) for path in paths]
    smallest = min(options.compare_sizes)
    shown: dict[int, list[np.ndarray]] = {}
    for size in options.compare_sizes:
        colorizer = Colorizer(network, bank, ColorizerSettings(size))
        for photo in photos:
            luma = working_luma(photo, size)[None]
            ((edit,),) = colorizer.reconstruct(luma, colorizer.traverse(luma))
            shown.setdefault(size, []).append(rgb2lab(working_rgb(edit.picture, smallest)))
    pairs = [(a, b) for k, a in enumerate(options.compare_sizes) for b in options.compare_sizes[k + 1 :]]
    return {
        (a, b): float(np.mean([deltaE_ciede2000(x, y).mean() for x, y in zip(shown[a], shown[b], strict=True)]))
        for a, b in pairs
    }


def save_sheet(path: str, inputs: np.ndarray, scores: dict[str, Score]) -> None:
    """Write truth and every method's pictures side by side."""
    columns = [scores[name].pictures.permute(0, 2, 3, 1).to(torch.uint8).numpy() for name in scores]
    rows = [[truth, *(column[k] for column in columns)] for k, truth in enumerate(inputs)]
    sheet = contact_sheet(rows, ["truth", *scores])
    (sheet if isinstance(sheet, Image.Image) else Image.fromarray(sheet)).save(path)


def print_table(results: dict[str, list[Score]]) -> None:
    print(
        f"{'method':22}{'gain dB':>9}{'worst':>8}{'CF':>7}{'worse':>8}{'saturation':>12}{'s/image':>9}"
        "   gain of each split"
    )
    for name, found in results.items():
        gains = [one.gains.mean() for one in found]
        worst = min(one.gains.min() for one in found)
        cf, worse, saturation, seconds = (
            np.mean([getattr(one, figure) for one in found])
            for figure in ("cf_ratio", "worse", "saturation", "seconds")
        )
        each = " ".join(f"{gain:.2f}" for gain in gains)
        print(
            f"{name:22}{np.mean(gains):9.2f}{worst:8.2f}{cf:7.2f}{100 * worse:6.0f} %{saturation:12.2f}{seconds:9.2f}"
            f"   {each}"
        )
    for name, gain, cf in PUBLISHED:
        print(f"{name + ' (published)':22}{gain:9.1f}{'':8}{cf:7.2f}   on ImageNet, over grey of {PUBLISHED_GREY} dB")


def check_aims(results: dict[str, list[Score]], kind: str) -> bool:
    """Print the aims and whether they are met; return whether all are."""
    ours, without, trivial = (results[name] for name in ("with prior", "nearest patches", "mean chroma"))

    def mean(found: list[Score], figure: str) -> float:
        return float(np.mean([np.mean(getattr(one, figure)) for one in found]))

    gain, saturation = mean(ours, "gains"), mean(ours, "saturation")
    if kind == "faces":
        margin = gain - mean(trivial, "gains")
        aims = [
            (f"{margin:.2f} dB above mean chroma", "at least 0.58", margin >= 0.58),
            (f"saturation {saturation:.2f}", "at least 0.60", saturation >= 0.60),
        ]
    else:
        cf, worse = mean(ours, "cf_ratio"), mean(ours, "worse")
        margin = gain - mean(without, "gains")
        aims = [
            (f"{margin:.2f} dB above the nearest patches", "at least 0.4", margin >= 0.4),
            (f"CF ratio {cf:.2f}", "at least 0.45", cf >= 0.45),
            (f"{100 * worse:.0f} % worse than grey", "at most 15 %", worse <= 0.15),
        ]
    for figure, aim, met in aims:
        print(f"{'met   ' if met else 'MISSED'} {figure} (aim: {aim})")
    return all(met for _, _, met in aims)


def main() -> int:
    """Print the table; return 0 when the program meets the aims on the mean of the splits, else 1."""
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
    network = FeatureNetwork(
        weights.arrays, model.backbone, model.taps, precision=model.precision, device=device, also=COLOR_LAYERS
    )
    settings = ColorizerSettings(options.size)
    results: dict[str, list[Score]] = {}
    for number, seed in enumerate(options.seeds):
        named, of_references = split(paths, options, seed)
        inputs, references = load(named, options.size), load(of_references, options.size)
        started = time.perf_counter()
        bank = build_exemplars(network, list(load(of_references, exemplar_side(settings))), settings)
        seconds = time.perf_counter() - started
        scores = compare(references, inputs, network, settings, bank, options.with_global)
        for name, one in scores.items():
            results.setdefault(name, []).append(one)
        if number == 0:
            has = "with" if any(name.startswith("prior") for name in bank) else "without"
            print(
                f"{len(inputs)} inputs, {len(references)} references, {options.size} px, splits {options.seeds}, "
                f"{device}; a bank {has} a prior takes {seconds:.0f} s",
                flush=True,
            )
            if options.sheet:
                save_sheet(options.sheet, inputs, scores)
            if options.compare_sizes:
                found = compare_sizes(named[: options.compare_count], options, network, bank)
                for (a, b), value in found.items():
                    print(f"the same photos at {a} and {b} px: CIEDE2000 {value:.2f}", flush=True)
    print_table(results)
    return 0 if check_aims(results, options.aims) else 1


if __name__ == "__main__":
    sys.exit(main())
