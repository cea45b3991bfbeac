"""Build the manifold of two classes, and of a basis, out of their exemplars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from dmt_ray.method.inversion.pixel_difference import ClassPictures
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, to_tensor
from dmt_ray.method.settings import TransformerSettings
from dmt_ray.method.traversal.balancing import normalised_weights
from dmt_ray.method.traversal.class_patches import ClassPatches
from dmt_ray.method.traversal.manifold import Allocate, ManifoldBuilder
from dmt_ray.method.traversal.selection import ImageIdentity, describe_identities


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
        sets: sources, targets and the basis (which may be empty), as (size, size, 3) uint8 pictures with what is
            known of them, and all or none of the first two with weights; read once, a batch at a time.
        count: pictures of all sets at most.
        settings: what decides the result; the kind of traversal and its standardisation matter here.
        allocate: makes the large arrays, in memory or in files.

    Raises:
        ValueError: there is no source, or no target, or only some of them have weights.

    Where they have weights, the arrays include ``exemplar_weights`` (sources + targets,) float64, with sum 1 in each
    class; see ``balancing.exemplar_weights``.
    """
    builder = ManifoldBuilder(count, settings.traversal.standardise, allocate)
    identities: list[ImageIdentity] = []
    counts: list[int] = []
    classes: list[ClassPictures] = []
    shapes: list[tuple[int, ...]] = []
    for pictures in sets:
        before = len(identities)
        classes.append(ClassPictures(settings.size))
        for batch in _batches(pictures):
            images = torch.stack([to_tensor(rgb) for rgb, _ in batch]).to(network.device)
            with torch.inference_mode():
                maps = network(images / 255)
            shapes = [tuple(tap.shape[1:]) for tap in maps]
            builder.add(maps)
            classes[-1].add(images, _weights(batch))
            identities += [identity for _, identity in batch]
        counts.append(len(identities) - before)
    if not all(counts[:2]):
        raise ValueError(f"{counts[0]} sources and {counts[1]} targets; there must be at least one of each")
    given = [identity.weight for identity in identities]
    weights = normalised_weights(given[: counts[0]], given[counts[0] : sum(counts[:2])])
    arrays = builder.finish(counts[0], counts[1], network.device, weights)
    if settings.traversal.traversal == "local":
        arrays = ClassPatches.build(arrays, shapes, network.taps, settings.size, allocate)
    arrays["pixel_difference"] = classes[0].difference_to(classes[1]).float().numpy()
    return arrays | describe_identities(identities)


def _weights(batch: Sequence[tuple[np.ndarray, ImageIdentity]]) -> torch.Tensor | None:
    """Return the weights (B,) float64 of a batch of exemplars; None where they have none."""
    given = [identity.weight for _, identity in batch]
    return None if None in given else torch.tensor(given, dtype=torch.float64)


def _batches(
    pictures: Iterable[tuple[np.ndarray, ImageIdentity]],
) -> Iterator[list[tuple[np.ndarray, ImageIdentity]]]:
    batch: list[tuple[np.ndarray, ImageIdentity]] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
