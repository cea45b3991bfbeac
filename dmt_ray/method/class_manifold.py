"""Build the manifold of two classes, and of a basis, out of their exemplars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.inversion.pixel_difference import ClassPictures
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import fits_batch, match_copies, to_tensor
from dmt_ray.method.settings import TransformerSettings
from dmt_ray.method.traversal.balancing import normalised_weights
from dmt_ray.method.traversal.class_patches_builder import ClassPatchesBuilder
from dmt_ray.method.traversal.manifold import Allocate, ManifoldBuilder
from dmt_ray.method.traversal.selection import ImageIdentity, describe_identities
from dmt_ray.words import counted


def build_manifold(
    network: FeatureNetwork,
    sets: Sequence[Iterable[tuple[np.ndarray, ImageIdentity]]],
    count: int,
    settings: TransformerSettings,
    allocate: Allocate = np.empty,
) -> dict[str, np.ndarray]:
    """Return what the traversal and the reconstruction need of the exemplars, as plain arrays to share.

    Parameters:
        network: the VGG with the run's taps.
        sets: sources, targets and the basis (which may be empty), as (h, w, 3) uint8 pictures with what is known of
            them, and all or none of the first two with weights; read once, a batch at a time. Pictures for global
            traversal are size x size.
        count: pictures of all sets at most.
        settings: what decides the result; the kind of traversal and its standardisation matter here.
        allocate: makes the large arrays, in memory or in files.

    Raises:
        ValueError: there is no source, or no target, or only some of them have weights.

    Where they have weights, the arrays include ``exemplar_weights`` (sources + targets,) float64, with sum 1 in each
    class; see ``balancing.exemplar_weights``.
    """
    learner: _Learner = (
        _LocalLearner(network, count, settings, allocate)
        if settings.traversal.traversal == "local"
        else _GlobalLearner(network, count, settings, allocate)
    )
    identities: list[ImageIdentity] = []
    counts: list[int] = []
    for number, pictures in enumerate(sets):
        before = len(identities)
        for batch in _batches(pictures):
            images = torch.stack([to_tensor(rgb) for rgb, _ in batch]).to(network.device)
            with torch.inference_mode():
                learner.add(number, network(images / 255), images, _weights(batch))
            identities += [identity for _, identity in batch]
        counts.append(len(identities) - before)
    if not all(counts[:2]):
        found = f"{counted(counts[0], 'source')} and {counted(counts[1], 'target')}"
        raise ValueError(f"{found}; there must be at least one of each")
    given = [identity.weight for identity in identities]
    weights = normalised_weights(given[: counts[0]], given[counts[0] : sum(counts[:2])])
    return learner.finish(counts[0], counts[1], weights) | describe_identities(identities)


class _Learner(Protocol):
    """Takes the exemplars' maps and pictures, set by set, and makes arrays of them."""

    def add(self, number: int, maps: Sequence[Tensor], images: Tensor, weights: Tensor | None) -> None:
        """Take some more exemplars of set ``number``, all of one shape, and their weights where they have any."""
        ...

    def finish(self, sources: int, targets: int, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the arrays of so many sources and targets, with weights (sources + targets,) or none."""
        ...


class _GlobalLearner:
    """The manifold of whole pictures, and what the classes' pixels differ in."""

    def __init__(
        self, network: FeatureNetwork, count: int, settings: TransformerSettings, allocate: Allocate
    ) -> None:
        self._builder = ManifoldBuilder(count, settings.traversal.standardise, allocate)
        self._classes = [ClassPictures(settings.size) for _ in range(3)]
        self._device = network.device

    def add(self, number: int, maps: Sequence[Tensor], images: Tensor, weights: Tensor | None) -> None:
        self._builder.add(maps)
        self._classes[number].add(images, weights)

    def finish(self, sources: int, targets: int, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        arrays = self._builder.finish(sources, targets, self._device, weights)
        arrays["pixel_difference"] = self._classes[0].difference_to(self._classes[1]).float().numpy()
        return arrays


class _LocalLearner:
    """The bank of the classes' patches. A basis has no class, so no patch is looked up in it."""

    def __init__(
        self, network: FeatureNetwork, count: int, settings: TransformerSettings, allocate: Allocate
    ) -> None:
        self._network = network
        self._builder = ClassPatchesBuilder(count, network.taps, settings.size, allocate)

    def add(self, number: int, maps: Sequence[Tensor], images: Tensor, weights: Tensor | None) -> None:
        if number < 2:
            copies = match_copies(images)
            self._builder.add(maps, maps if copies is images else self._network(copies / 255), copies)

    def finish(self, sources: int, targets: int, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        arrays = self._builder.finish(sources, targets)
        return arrays if weights is None else arrays | {"exemplar_weights": weights}


def _weights(batch: Sequence[tuple[np.ndarray, ImageIdentity]]) -> torch.Tensor | None:
    """Return the weights (B,) float64 of a batch of exemplars; None where they have none."""
    given = [identity.weight for _, identity in batch]
    return None if None in given else torch.tensor(given, dtype=torch.float64)


def _batches(
    pictures: Iterable[tuple[np.ndarray, ImageIdentity]],
) -> Iterator[list[tuple[np.ndarray, ImageIdentity]]]:
    """Yield pictures in order, side by side as long as their shapes are the same."""
    batch: list[tuple[np.ndarray, ImageIdentity]] = []
    for picture in pictures:
        if not fits_batch([rgb for rgb, _ in batch], picture[0]):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch
