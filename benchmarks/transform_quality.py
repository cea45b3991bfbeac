"""Move held-out faces between two classes by the paper's settings, by DFI and by ours, and let another network judge.

    python benchmarks/transform_quality.py --data DIR [--sheet sheet.png]

DIR holds two subfolders of photos (``--classes``, young and old), named ``person_number.jpg``: nobody is both among
the exemplars and the inputs. The judge is a linear probe on AlexNet's features, fitted to the exemplars; VGG, whose
features are moved, has no part in it. A face counts as flipped when the probe calls it the other class afterwards;
only faces that it called right before are counted. SSIM and LPIPS are to the input. Both directions are moved.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.displacement import Edit
from dmt_ray.method.networks.alexnet import ALEXNET_LAYERS
from dmt_ray.method.networks.conv_stack import ConvStack
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import to_tensor, working_rgb
from dmt_ray.method.settings import (
    ModelConfig,
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.weights import load_alexnet, load_lpips, resolve_weights

#: What each method sets; the rest are the job's defaults.
METHODS: dict[str, tuple[TransformTraversalConfig, TransformInversionConfig]] = {
    # Gardner et al. 2015: every unit standardised, total variation on the image.
    "paper": (
        TransformTraversalConfig(standardise="unit", mean_kernel=0.5, shrink=0.0),
        TransformInversionConfig(tv_on="image", tv_weight=10.0, iterations=60, pixel_share=0.0),
    ),
    # Upchurch et al. 2017: a straight line between means of nearest exemplars, total variation on the image.
    "dfi": (
        TransformTraversalConfig(method="dfi", standardise="none", neighbors=100, shrink=0.0),
        TransformInversionConfig(tv_on="image", tv_weight=10.0, iterations=60, pixel_share=0.0),
    ),
    "ours": (TransformTraversalConfig(), TransformInversionConfig()),
}


@dataclass(frozen=True)
class Options:
    """What to move how; everything else takes the job's defaults."""

    data: str
    """Folder with a subfolder of photos for each class."""
    classes: tuple[str, str] = ("young", "old")
    """The subfolders."""
    size: int = 96
    """Working size in pixels."""
    faces: int = 16
    """Held-out photos of each class, each of another person."""
    strengths: tuple[float, ...] = (4.0, 6.0, 8.0)
    """How far to go."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which of paper, dfi and ours."""
    seed: int = 0
    """Seed for the split of persons."""
    sheet: str | None = None
    """Write a contact sheet (PNG) of the first faces of each direction here."""
    move: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    """For ours."""
    pixels: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    """For ours."""


@dataclass(frozen=True)
class Faces:
    """Photos with their classes: 0 for the first, 1 for the second."""

    rgb: np.ndarray
    label: np.ndarray

    def of(self, one: int) -> np.ndarray:
        """Return the photos of a class."""
        chosen: np.ndarray = self.rgb[self.label == one]
        return chosen


@dataclass(frozen=True)
class Moved:
    """Results of one method at one strength, in the order of the inputs."""

    rgb: np.ndarray
    ssim: np.ndarray
    lpips: np.ndarray
    seconds: float


class Judge:
    """A linear probe on AlexNet's features."""

    def __init__(self, network: ConvStack, exemplars: Faces, device: torch.device) -> None:
        self._network, self._device = network, device
        self._probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000, class_weight="balanced")
        )
        self._probe.fit(self._features(exemplars.rgb), exemplars.label)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Return the class (N,) of photos (N, H, W, 3) uint8."""
        found: np.ndarray = self._probe.predict(self._features(rgb))
        return found

    def _features(self, rgb: np.ndarray) -> np.ndarray:
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(rgb), 16):
                images = torch.tensor(rgb[begin : begin + 16]).permute(0, 3, 1, 2).float() / 255
                images = F.interpolate(images, size=(224, 224), mode="bilinear", align_corners=False)
                maps = self._network(images.to(self._device))[1:]
                pooled = [F.adaptive_avg_pool2d(one, 6).flatten(1) for one in maps]
                parts.append(torch.cat(pooled, 1).cpu())
        return torch.cat(parts).numpy()


def person(path: str) -> str:
    """Return the person of ``person_0001.jpg``; a name without a number is its own person."""
    return re.sub(r"_\d+$", "", Path(path).stem)


def load(paths: Sequence[str], size: int) -> np.ndarray:
    """Return photos (N, size, size, 3) uint8."""
    return np.stack([working_rgb(decode_image(read_bytes(path), max_pixels=10**9), size) for path in paths])


def split(options: Options) -> tuple[Faces, Faces]:
    """Return exemplars and inputs, of different persons.

    Raises:
        SettingsError: a class has too few persons.
    """
    rng = np.random.default_rng(options.seed)
    listed = [list_files(str(Path(options.data) / name), {".jpg", ".jpeg", ".png"}) for name in options.classes]
    held_out: set[str] = set()
    inputs: list[tuple[str, int]] = []
    for label, paths in enumerate(listed):
        people = [name for name in rng.permutation(sorted(set(map(person, paths)))) if name not in held_out]
        if len(people) <= 2 * options.faces:
            raise SettingsError(f"{options.data}/{options.classes[label]} has photos of only {len(people)} persons.")
        for name in people[: options.faces]:
            inputs.append((str(rng.choice([path for path in paths if person(path) == name])), label))
        held_out |= set(people[: options.faces])
    rest = [(path, label) for label, paths in enumerate(listed) for path in paths if person(path) not in held_out]
    return tuple(  # type: ignore[return-value]
        Faces(load([path for path, _ in part], options.size), np.array([label for _, label in part]))
        for part in (rest, inputs)
    )


def transform(
    method: tuple[TransformTraversalConfig, TransformInversionConfig],
    options: Options,
    exemplars: Faces,
    inputs: Faces,
    network: FeatureNetwork,
) -> list[Moved]:
    """Move every input to the other class; return the results of each strength."""
    move = replace(method[0], strength=options.strengths)
    settings = TransformerSettings(options.size, move, method[1])
    lpips = load_lpips("vgg16").arrays
    edits: dict[int, list[Edit]] = {}
    seconds = 0.0
    for source in (0, 1):
        sets = [((rgb, ImageIdentity()) for rgb in exemplars.of(label)) for label in (source, 1 - source)]
        arrays = build_manifold(network, [*sets, iter(())], len(exemplars.rgb), settings)
        transformer = Transformer(network, arrays, settings, lpips)
        chosen = np.flatnonzero(inputs.label == source)
        started = time.perf_counter()
        for begin in range(0, len(chosen), 8):
            part = chosen[begin : begin + 8]
            pictures = np.stack([to_tensor(inputs.rgb[index]).numpy() for index in part]).astype(np.float32)
            moved = transformer.traverse(pictures, [ImageIdentity()] * len(part))
            edits |= dict(zip(part, transformer.reconstruct(pictures, moved, [None] * len(part)), strict=True))
        seconds += time.perf_counter() - started
    each = seconds / len(inputs.rgb) / len(options.strengths)
    return [
        Moved(
            np.stack([edits[index][step].picture for index in range(len(inputs.rgb))]),
            np.array([edits[index][step].similarity.ssim for index in range(len(inputs.rgb))]),
            np.array([edits[index][step].similarity.lpips for index in range(len(inputs.rgb))]),
            each,
        )
        for step in range(len(options.strengths))
    ]


def save_sheet(path: str, inputs: Faces, results: dict[str, list[Moved]], options: Options) -> None:
    """Write the first faces of each class with what became of them."""
    chosen = [index for label in (0, 1) for index in np.flatnonzero(inputs.label == label)[:5]]
    titles = ["input", *(f"{name} {strength:g}" for name in results for strength in options.strengths)]
    rows = [[inputs.rgb[k], *(one.rgb[k] for found in results.values() for one in found)] for k in chosen]
    contact_sheet(rows, titles, cell=(128, 128)).save(path)


def main() -> int:
    """Print the table; return 0 when ours meets the aims, else 1."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = ModelConfig()
    try:
        exemplars, inputs = split(options)
        weights = resolve_weights(model.backbone, model.weights)
        judge = Judge(ConvStack(ALEXNET_LAYERS, load_alexnet().arrays).to(device), exemplars, device)
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    network = FeatureNetwork(weights.arrays, model.backbone, model.taps, precision=model.precision, device=device)
    right = judge(inputs.rgb) == inputs.label
    print(
        f"{len(exemplars.rgb)} exemplars ({(exemplars.label == 1).sum()} {options.classes[1]}), "
        f"{len(inputs.rgb)} inputs of other persons, {options.size} px, {device}; "
        f"the probe calls {right.mean():.0%} of them right."
    )
    towards = [f"to {name}" for name in reversed(options.classes)]
    print(
        f"{'method':8}{'strength':>9}{'flipped':>9}{towards[0]:>10}{towards[1]:>10}{'SSIM':>7}{'LPIPS':>7}{'s/image':>9}"
    )
    results: dict[str, list[Moved]] = {}
    table: dict[str, list[tuple[float, float]]] = {}
    for name in options.methods:
        method = (options.move, options.pixels) if name == "ours" else METHODS[name]
        results[name] = transform(method, options, exemplars, inputs, network)
        for strength, one in zip(options.strengths, results[name], strict=True):
            flipped = judge(one.rgb) != inputs.label
            share, *sides = (flipped[right & chosen].mean() for chosen in _sides(inputs))
            table.setdefault(name, []).append((float(share), float(one.ssim.mean())))
            print(
                f"{name:8}{strength:9g}{share:9.0%}{sides[0]:10.0%}{sides[1]:10.0%}{one.ssim.mean():7.3f}"
                f"{one.lpips.mean():7.3f}{one.seconds:9.2f}",
                flush=True,
            )
    if options.sheet:
        save_sheet(options.sheet, inputs, results, options)
    if "ours" not in table:
        return 0
    best = max((share for share, similarity in table["ours"] if similarity >= 0.9), default=0.0)
    print(f"{'met   ' if best >= 0.9 else 'MISSED'} {best:.0%} flipped at SSIM 0.90 or more (aim: at least 90%)")
    worse = [
        f"{name} at strength {strength:g}"
        for name in table.keys() - {"ours"}
        for strength, one in zip(options.strengths, table[name], strict=True)
        if not _beaten(one, table["ours"])
    ]
    if len(table) > 1:
        print(f"{'MISSED' if worse else 'met   '} better than the others at every strength {sorted(worse) or ''}")
    return 0 if best >= 0.9 and not worse else 1


def _sides(inputs: Faces) -> list[np.ndarray]:
    return [np.ones(len(inputs.label), bool), inputs.label == 0, inputs.label == 1]


def _beaten(other: tuple[float, float], ours: Sequence[tuple[float, float]]) -> bool:
    """Tell whether ours, between its strengths, flips as many at a higher SSIM."""
    shares, similarities = zip(*sorted([(0.0, 1.0), *ours]), strict=True)
    return other[0] <= shares[-1] and bool(np.interp(other[0], shares, similarities) >= other[1])


if __name__ == "__main__":
    sys.exit(main())
