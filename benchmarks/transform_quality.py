"""Move held-out photos between two classes by the papers' settings, by DFI and by ours; another network judges.

    python benchmarks/transform_quality.py --data FACES [--balance eyeglasses male] [--sheet sheet.png]
    python benchmarks/transform_quality.py --source DAY --target NIGHT --inputs DAY2 [--back-inputs NIGHT2] \\
        --methods ours --traversal local

The judge is the one that runs have: a linear probe on AlexNet's features, fitted to the exemplars; VGG, whose
features are moved, has no part in it. A photo counts as flipped when the judge calls it the other class afterwards;
only photos that it called right before are counted. SSIM and LPIPS are to the input. "colour" is how far the mean
(a*, b*) in the middle of the pictures moves, over how far the classes themselves lie apart there. ``--probe COLUMN``
says on how many photos that lack something, such as eyeglasses, a probe for it sees it afterwards (and, in brackets,
before). ``--compare-sizes 128 224 448`` edits the same photos at several sizes and gives the mean CIEDE2000 between
them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import tyro
from _two_classes import (
    ClassOptions,
    Photos,
    PictureFeatures,
    at_size,
    color_difference,
    decision_values,
    default_network,
    exemplar_weights,
    labelled_exemplars,
    load_classes,
    middle_lab,
)

from dmt_ray.command_line.presets import preset_values
from dmt_ray.errors import DmtError
from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.metrics.probe_fit import Probe, fit_probe
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, same_shaped
from dmt_ray.method.settings import (
    TransformerSettings,
    TransformInversionConfig,
    TransformTraversalConfig,
)
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.report.contact_sheet import contact_sheet
from dmt_ray.storage.models.weights import load_lpips


def _from_preset(section: type[Any]) -> Any:
    """Return the settings of one section as ``--preset paper`` makes them."""
    return section(**preset_values("paper", "transform", {field.name: field.type for field in fields(section)}))


#: What each method sets; the rest are the job's defaults.
METHODS: dict[str, tuple[TransformTraversalConfig, TransformInversionConfig]] = {
    # Gardner et al. 2015, as --preset paper, but with the network's own filters.
    "paper": (_from_preset(TransformTraversalConfig), _from_preset(TransformInversionConfig)),
    # Upchurch et al. 2017: a straight line between means of nearest exemplars, total variation on the image.
    "dfi": (
        TransformTraversalConfig(method="dfi", standardise="none", neighbors=100, shrink=0.0),
        TransformInversionConfig(tv_on="image", tv_weight=10.0, iterations=60, pixel_share=0.0, hold_chroma=0.0),
    ),
    "ours": (TransformTraversalConfig(), TransformInversionConfig()),
}


@dataclass(frozen=True, kw_only=True)
class Options(ClassOptions):
    """What to move how; everything else takes the job's defaults."""

    size: int = 96
    """Working size in pixels."""
    strengths: tuple[float, ...] = (4.0, 6.0, 8.0)
    """How far to go."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which of paper, dfi and ours."""
    probe: str | None = None
    """A column of attributes.csv that no photo shall win."""
    compare_sizes: tuple[int, ...] = ()
    """Edit by ours at these sizes, and compare the colours."""
    sheet: str | None = None
    """Write a contact sheet (PNG) of the first photos of each direction here."""
    sheet_rows: int = 5
    """Photos of each direction on it."""
    move: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    """For ours."""
    pixels: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    """For ours."""


@dataclass(frozen=True)
class Moved:
    """Results of one method at one strength, in the order of the inputs."""

    rgb: list[np.ndarray]
    ssim: np.ndarray
    lpips: np.ndarray
    seconds: float


def transform(
    method: tuple[TransformTraversalConfig, TransformInversionConfig],
    strengths: Sequence[float],
    size: int,
    exemplars: Photos,
    weights: np.ndarray | None,
    inputs: Photos,
    network: FeatureNetwork,
) -> list[Moved]:
    """Move every input to the other class; return the results of each strength."""
    move = replace(method[0], strength=tuple(strengths))
    settings = TransformerSettings(size, move, method[1])
    lpips = load_lpips("vgg16").arrays
    count = len(inputs.rgb)
    results = [Moved([np.empty(0)] * count, np.empty(count), np.empty(count), 0.0) for _ in strengths]
    seconds = 0.0
    for source in np.unique(inputs.label):
        sets = [
            labelled_exemplars(exemplars, label, weights, size, keep_aspect=move.traversal == "local")
            for label in (source, 1 - source)
        ]
        arrays = build_manifold(network, [*sets, iter(())], len(exemplars.rgb), settings)
        transformer = Transformer(network, arrays, settings, lpips)
        started = time.perf_counter()
        chosen = np.flatnonzero(inputs.label == source)
        pictures = [transformer.working(inputs.rgb[index]) for index in chosen]
        for batch in same_shaped([picture.shape for picture in pictures], BATCH):
            stacked = np.stack([pictures[place] for place in batch])
            moved = transformer.traverse(stacked, [ImageIdentity()] * len(batch))
            edits = transformer.reconstruct(stacked, moved, [None] * len(batch))
            for index, steps in zip(chosen[batch], edits, strict=True):
                for result, edit in zip(results, steps, strict=True):
                    result.rgb[index] = edit.picture
                    result.ssim[index], result.lpips[index] = edit.similarity.ssim, edit.similarity.lpips
        seconds += time.perf_counter() - started
    return [replace(result, seconds=seconds / count / len(strengths)) for result in results]


class Table:
    """Measures results, and prints a row for each method and strength."""

    def __init__(self, options: Options, exemplars: Photos, weights: np.ndarray | None, inputs: Photos) -> None:
        self._options, self._inputs = options, inputs
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._features = PictureFeatures(device)
        local = options.move.traversal == "local"
        self.inputs = at_size(inputs.rgb, options.size, keep_aspect=local)
        pictures = at_size(exemplars.rgb, options.size, keep_aspect=local)
        features = self._features(pictures)
        groups: list[str | None] = [*exemplars.groups]
        self.probe = fit_probe(features, exemplars.label == 1, groups, weights)
        self._before = self._features(self.inputs)
        self.right = (decision_values(self.probe, self._before) > 0) == (inputs.label == 1)
        self._other: Probe | None = None
        if options.probe is not None:
            self._other = fit_probe(features, exemplars.attributes[options.probe] > 0, groups)
        share = np.ones(len(pictures)) if weights is None else weights
        lab = middle_lab(pictures)
        means = [
            np.average(lab[exemplars.label == label], axis=0, weights=share[exemplars.label == label])
            for label in (0, 1)
        ]
        self.apart = means[1] - means[0]

    def title(self) -> None:
        """Print the columns' names."""
        towards = [f"to {self._options.names[1 - label]}" for label in np.unique(self._inputs.label)]
        names = "".join(f"{name:>10}" for name in towards)
        print(
            f"{'method':8}{'strength':>9}{'flipped':>9}{names}{'SSIM':>7}{'LPIPS':>7}{'level':>7}{'colour':>8}",
            end="",
        )
        print(f"{self._options.probe or '':>14}{'s/image':>9}")

    def row(self, name: str, strength: float, moved: Moved) -> tuple[float, float]:
        """Print a row; return the share flipped and the mean SSIM."""
        labels = self._inputs.label
        after = self._features(moved.rgb)
        flipped = (decision_values(self.probe, after) > 0) != (labels == 1)
        sides = "".join(f"{flipped[self.right & (labels == label)].mean():10.0%}" for label in np.unique(labels))
        share = float(flipped[self.right].mean())
        level = np.mean([rgb.mean() for rgb in moved.rgb])
        print(f"{name:8}{strength:9g}{share:9.0%}{sides}{moved.ssim.mean():7.3f}{moved.lpips.mean():7.3f}", end="")
        print(f"{level:7.0f}{self._color(moved):8.2f}{self._won(after):>14}{moved.seconds:9.2f}", flush=True)
        return share, float(moved.ssim.mean())

    def _color(self, moved: Moved) -> float:
        """Return the largest, over the directions, of how far (a*, b*) moved over how far the classes lie apart."""
        change = middle_lab(moved.rgb) - middle_lab(self.inputs)
        apart = float(np.hypot(*self.apart[1:]))
        return max(
            float(np.hypot(*change[self._inputs.label == label, 1:].mean(0))) / apart
            for label in np.unique(self._inputs.label)
        )

    def _won(self, after: np.ndarray) -> str:
        """Return how many photos without an attribute have it afterwards, and before, as its probe says."""
        if self._other is None or self._options.probe is None:
            return ""
        without = (self._inputs.attributes[self._options.probe] == 0) & (self._inputs.label == 0)
        seen = [int((decision_values(self._other, each) > 0)[without].sum()) for each in (after, self._before)]
        return f"{seen[0]} ({seen[1]}) of {without.sum()}"


def save_sheet(options: Options, table: Table, inputs: Photos, results: dict[str, list[Moved]]) -> None:
    """Write the first photos of each class with what became of them."""
    assert options.sheet is not None
    chosen = [index for label in (0, 1) for index in np.flatnonzero(inputs.label == label)[: options.sheet_rows]]
    titles = ["input", *(f"{name} {strength:g}" for name in results for strength in options.strengths)]
    rows = [[table.inputs[k], *(moved.rgb[k] for found in results.values() for moved in found)] for k in chosen]
    height, width = table.inputs[0].shape[:2]
    contact_sheet(rows, titles, cell=(max(128, width), max(128, height))).save(options.sheet)


def compare_sizes(
    options: Options, exemplars: Photos, weights: np.ndarray | None, inputs: Photos, network: FeatureNetwork
) -> None:
    """Print the mean CIEDE2000 between edits of the same photos at several sizes, brought to the smallest."""
    local = options.move.traversal == "local"
    strength = options.strengths[-1:]
    made = {
        size: transform((options.move, options.pixels), strength, size, exemplars, weights, inputs, network)[0].rgb
        for size in options.compare_sizes
    }
    plain = {size: at_size(inputs.rgb, size, keep_aspect=local) for size in made}
    smallest = min(made)
    for size in sorted(made)[1:]:
        pairs = []
        for pictures in (made, plain):
            same = zip(pictures[size], pictures[smallest], strict=True)
            pairs.append(np.mean([color_difference(_to_shape(a, b), b) for a, b in same]))
        print(
            f"colour at {size} and {smallest} px: CIEDE2000 {pairs[0]:.2f}, of the inputs themselves {pairs[1]:.2f}"
        )


def _to_shape(rgb: np.ndarray, like: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).resize((like.shape[1], like.shape[0]), Image.Resampling.BOX))


def main() -> int:
    """Print the table; return 0 when ours meets the aims, else 1."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        exemplars, inputs = load_classes(options)
        weights = exemplar_weights(exemplars, options.balance)
        network = default_network(device)
        table = Table(options, exemplars, weights, inputs)
    except DmtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    accuracy = "unknown" if table.probe.accuracy is None else f"{table.probe.accuracy:.0%}"
    print(
        f"{len(exemplars.rgb)} exemplars ({(exemplars.label == 1).sum()} {options.names[1]}), {len(inputs.rgb)} "
        f"inputs, {options.size} px, {device}; the judge is right on {accuracy} of held-out exemplars and "
        f"{table.right.mean():.0%} of the inputs; the classes' middles lie {table.apart.round(1)} (L*, a*, b*) apart."
    )
    table.title()
    results: dict[str, list[Moved]] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for name in options.methods:
        method = (options.move, options.pixels) if name == "ours" else METHODS[name]
        results[name] = transform(method, options.strengths, options.size, exemplars, weights, inputs, network)
        found[name] = [
            table.row(name, strength, moved) for strength, moved in zip(options.strengths, results[name], strict=True)
        ]
    if options.sheet:
        save_sheet(options, table, inputs, results)
    if options.compare_sizes:
        compare_sizes(options, exemplars, weights, inputs, network)
    if len(found) < 2 or "ours" not in found:
        return 0
    worse = [
        f"{name} at strength {strength:g}"
        for name in found.keys() - {"ours"}
        for strength, each in zip(options.strengths, found[name], strict=True)
        if not _beaten(each, found["ours"])
    ]
    print(f"{'MISSED' if worse else 'met   '} better than the others at every strength {sorted(worse) or ''}")
    return 1 if worse else 0


def _beaten(other: tuple[float, float], ours: Sequence[tuple[float, float]]) -> bool:
    """Tell whether ours, between its strengths, flips as many at a higher SSIM."""
    shares, similarities = zip(*sorted([(0.0, 1.0), *ours]), strict=True)
    return other[0] <= shares[-1] and bool(np.interp(other[0], shares, similarities) >= other[1])


if __name__ == "__main__":
    sys.exit(main())
