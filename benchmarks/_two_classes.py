"""What the benchmarks of two classes share: photos of both, held-out inputs, and judges."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from dmt_ray.errors import SettingsError
from dmt_ray.method.metrics.probe_fit import Probe
from dmt_ray.method.metrics.verdicts import ProbeFeatures, ProbeJudge
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import to_tensor, working_rgb
from dmt_ray.method.settings import ModelConfig
from dmt_ray.method.traversal.balancing import balance_classes
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.files import list_files, read_bytes
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.weights import load_alexnet, resolve_weights

_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Photos:
    """Photos with their classes: 0 for the first, 1 for the second.

    Attributes:
        rgb: decoded pictures (H, W, 3) uint8.
        label: (N,) the class of each.
        attributes: by column, (N,) the value for each; empty where there is no table.
        groups: such as the person shown.
    """

    rgb: list[np.ndarray]
    label: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)

    def of(self, label: int) -> list[np.ndarray]:
        """Return the photos of a class."""
        return [self.rgb[index] for index in np.flatnonzero(self.label == label)]


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """Which two classes: a folder of faces to split by person, or folders of any two classes and of inputs."""

    data: str | None = None
    """Folder with a subfolder of photos for each of --classes, named person_number.jpg; the inputs are of persons of
    their own."""
    classes: tuple[str, str] = ("young", "old")
    """The subfolders of --data."""
    source: str | None = None
    """Folder of photos of one class, instead of --data."""
    target: str | None = None
    """Folder of photos of the other."""
    inputs: str | None = None
    """Folder of photos of the source class that are no exemplars."""
    back_inputs: str | None = None
    """Folder of photos of the target class, to move back; none moves one way only."""
    balance: tuple[str, ...] = ()
    """Columns of --data's attributes.csv whose means shall be the same in both classes."""
    count: int = 16
    """Inputs of each class."""
    seed: int = 0
    """Seed for the choice of inputs."""

    @property
    def names(self) -> tuple[str, str]:
        """What the classes are called."""
        if self.source is None or self.target is None:
            return self.classes
        return Path(self.source).name, Path(self.target).name


def load_classes(options: ClassOptions) -> tuple[Photos, Photos]:
    """Return exemplars and inputs; nobody is in both.

    Raises:
        SettingsError: a folder is not given, or has too few photos.
    """
    if options.data is not None:
        return _faces(options, options.data)
    if options.source is None or options.target is None or options.inputs is None:
        raise SettingsError("Say --data, or --source, --target and --inputs.")
    exemplars = [
        (path, label) for label, place in enumerate((options.source, options.target)) for path in _list(place)
    ]
    rng = np.random.default_rng(options.seed)
    inputs = []
    for label, place in enumerate((options.inputs, options.back_inputs)):
        if place is not None:
            found = _list(place)
            chosen = sorted(rng.permutation(len(found))[: options.count])
            inputs += [(found[index], label) for index in chosen]
    return _photos(exemplars, {}), _photos(inputs, {})


def exemplar_weights(exemplars: Photos, columns: Sequence[str]) -> np.ndarray | None:
    """Return weights (N,), with sum 1 in each class, that balance some columns; None without any."""
    if not columns:
        return None
    values = np.stack([exemplars.attributes[name] for name in columns], 1)
    balance = balance_classes(values[exemplars.label == 0], values[exemplars.label == 1], columns)
    weights = np.empty(len(values))
    weights[exemplars.label == 0], weights[exemplars.label == 1] = balance.sources.weights, balance.targets.weights
    return weights


def labelled_exemplars(
    exemplars: Photos, label: int, weights: np.ndarray | None, size: int, *, keep_aspect: bool
) -> list[tuple[np.ndarray, ImageIdentity]]:
    """Return the exemplars of a class at working size, as ``build_manifold`` takes them."""
    chosen = np.flatnonzero(exemplars.label == label)
    pictures = at_size([exemplars.rgb[index] for index in chosen], size, keep_aspect=keep_aspect)
    own = [None] * len(chosen) if weights is None else weights[chosen].tolist()
    return [(rgb, ImageIdentity(weight=weight)) for rgb, weight in zip(pictures, own, strict=True)]


def default_network(device: torch.device) -> FeatureNetwork:
    """Return the job's own network, with its own weights and taps."""
    model = ModelConfig()
    arrays = resolve_weights(model.backbone, model.weights).arrays
    return FeatureNetwork(arrays, model.backbone, model.taps, precision=model.precision, device=device)


def decision_values(probe: Probe, features: np.ndarray) -> np.ndarray:
    """Return the decision values (N,) of features (N, D) of any kind: above 0 for the target."""
    judge = ProbeJudge({}, probe.arrays, torch.device("cpu"))
    values: np.ndarray = judge.score(torch.from_numpy(features)).numpy()
    return values


class PictureFeatures:
    """The features of AlexNet that the judge of a run sees; they have no part in the move."""

    def __init__(self, device: torch.device) -> None:
        self._features, self._device = ProbeFeatures(load_alexnet().arrays, device), device

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features (N, D) of pictures (H, W, 3) uint8."""
        return torch.cat([self._features(to_tensor(rgb)[None].to(self._device)) for rgb in pictures]).cpu().numpy()


def middle_lab(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean CIE L*, a*, b* (N, 3) of the middle quarter of pictures (H, W, 3) uint8."""
    return np.stack([rgb2lab(_middle(rgb)).mean((0, 1)) for rgb in pictures])


def color_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean CIEDE2000 of two pictures (H, W, 3) uint8."""
    return float(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).mean())


def at_size(pictures: Sequence[np.ndarray], size: int, *, keep_aspect: bool = False) -> list[np.ndarray]:
    """Return pictures at working size."""
    return [working_rgb(rgb, size, keep_aspect=keep_aspect) for rgb in pictures]


def person(path: str) -> str:
    """Return the person of ``person_0001.jpg``; a name without a number is its own person."""
    return re.sub(r"_\d+$", "", Path(path).stem)


def _middle(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    return rgb[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _faces(options: ClassOptions, data: str) -> tuple[Photos, Photos]:
    rng = np.random.default_rng(options.seed)
    listed = [_list(str(Path(data) / name)) for name in options.classes]
    held_out: set[str] = set()
    inputs: list[tuple[str, int]] = []
    for label, paths in enumerate(listed):
        people = [name for name in rng.permutation(sorted(set(map(person, paths)))) if name not in held_out]
        if len(people) <= 2 * options.count:
            raise SettingsError(f"{data}/{options.classes[label]} has photos of only {len(people)} persons.")
        for name in people[: options.count]:
            inputs.append((str(rng.choice([path for path in paths if person(path) == name])), label))
        held_out |= set(people[: options.count])
    rest = [(path, label) for label, paths in enumerate(listed) for path in paths if person(path) not in held_out]
    folder = Path(data).absolute()  # as the listed paths are
    table = folder / "attributes.csv"
    attributes: dict[str, dict[str, str]] = {}
    if table.exists():
        with table.open(encoding="utf-8", newline="") as lines:
            attributes = {str(folder / row["path"]): row for row in csv.DictReader(lines)}
    return _photos(rest, attributes), _photos(inputs, attributes)


def _list(place: str) -> list[str]:
    found = sorted(list_files(place, _SUFFIXES))
    if not found:
        raise SettingsError(f"{place} has no photos.")
    return found


def _photos(listed: Sequence[tuple[str, int]], attributes: dict[str, dict[str, str]]) -> Photos:
    rows = [attributes.get(path, {}) for path, _ in listed]
    columns = set.intersection(*(set(row) for row in rows)) - {"path", "person"} if rows else set()
    return Photos(
        [decode_image(read_bytes(path), max_pixels=10**9) for path, _ in listed],
        np.array([label for _, label in listed]),
        {name: np.array([float(row[name]) for row in rows]) for name in columns},
        [person(path) for path, _ in listed],
    )
