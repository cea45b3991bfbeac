"""Which exemplars an image is moved by: all of them, or its nearest, but never itself nor another of its own group.

Deep feature interpolation (Upchurch et al. 2017, section 3.1) takes the K nearest source and target exemplars of each
image; the same choice serves the witness function.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.traversal.balancing import counting
from dmt_ray.method.traversal.witness import BorderedGram


@dataclass(frozen=True)
class ImageIdentity:
    """What is known of an image beside its pixels.

    Attributes:
        content: SHA-256 digest (32 bytes) of its encoded bytes; None when it shall not be told from exemplars.
        group: such as the person shown; None belongs to no group.
        attributes: (A,) numbers, one per attribute column; None where there are none.
        weight: how much an exemplar counts within its class, at least 0; None counts as all others do.
    """

    content: bytes | None = None
    group: str | None = None
    attributes: np.ndarray | None = None
    weight: float | None = None


def digest(data: bytes) -> bytes:
    """Return the SHA-256 digest of some bytes."""
    return hashlib.sha256(data).digest()


def describe_identities(identities: Sequence[ImageIdentity]) -> dict[str, np.ndarray]:
    """Return what ``Selector`` must know of the exemplars, as plain arrays.

    Returns:
        ``content`` and ``group`` (K, 32) uint8 digests, zeros where there is none; ``attributes`` (K, A) float32,
        NaN where there are none.
    """
    nothing = bytes(32)
    content = b"".join(identity.content or nothing for identity in identities)
    group = b"".join(
        nothing if identity.group is None else digest(identity.group.encode()) for identity in identities
    )
    width = max(0 if identity.attributes is None else len(identity.attributes) for identity in identities)
    rows = [
        np.full(width, np.nan) if identity.attributes is None else np.asarray(identity.attributes)
        for identity in identities
    ]
    return {
        "content": np.frombuffer(content, np.uint8).reshape(-1, 32).copy(),
        "group": np.frombuffer(group, np.uint8).reshape(-1, 32).copy(),
        "attributes": np.asarray(rows, np.float32).reshape(len(identities), -1),
    }


class Selector:
    """Chooses exemplars per image.

    Parameters:
        arrays: what ``build_manifold`` returned of the K exemplars, with what ``describe_identities`` did.
        sources, targets: how many of them, from the first, are sources and targets; the rest is basis.
        neighbors: nearest sources, nearest targets and nearest of the basis to take; None takes all.
        by_attributes: nearness by attributes instead of by features.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        sources: int,
        targets: int,
        *,
        neighbors: int | None,
        by_attributes: bool,
    ) -> None:
        self.sources, self.targets, self.neighbors = sources, targets, neighbors
        self._content, self._group = arrays["content"], arrays["group"]
        self._counting = np.ones(len(self._content), bool)
        if "exemplar_weights" in arrays:
            self._counting[: sources + targets] = counting(arrays)
        self._attributes = arrays["attributes"] if by_attributes else None
        if self._attributes is not None:
            # Columns in different units count alike.
            spread = np.nanstd(self._attributes, axis=0)
            self._scale = 1 / np.where(spread > 0, spread, 1)

    def allowed(self, identity: ImageIdentity) -> np.ndarray:
        """Tell which exemplars (K,) an image may be moved by: those with weight, but not itself nor its own group."""
        allowed = self._counting.copy()
        if identity.content is not None:
            itself = (self._content == np.frombuffer(identity.content, np.uint8)).all(1)
            allowed &= ~itself
            for group in np.unique(self._group[itself], axis=0):  # known even where its own is not
                if group.any():
                    allowed &= (self._group != group).any(1)
        if identity.group is not None:
            allowed &= (self._group != np.frombuffer(digest(identity.group.encode()), np.uint8)).any(1)
        return allowed

    def choose(self, gram: BorderedGram, identities: Sequence[ImageIdentity]) -> list[Tensor | None]:
        """Return the exemplars of each image: indices (k,) in order, sources first; None stands for all.

        Raises:
            ImageError: kind ``no-exemplars`` when an image is left without a source or without a target.
        """
        return [self._one(gram, b, identity) for b, identity in enumerate(identities)]

    def _one(self, gram: BorderedGram, b: int, identity: ImageIdentity) -> Tensor | None:
        allowed = self.allowed(identity)
        if self.neighbors is None and bool((allowed | ~self._counting).all()):
            return None  # those without weight move nothing; with them, a batch shares its Gram matrix
        distance = self._distances(gram, b, identity)
        distance[~allowed] = np.inf
        ends = (0, self.sources, self.sources + self.targets, len(distance))
        chosen = []
        for name, begin, end in zip(("source", "target", "basis"), ends, ends[1:], strict=False):
            part = distance[begin:end]
            order = np.argsort(part, kind="stable")[: self.neighbors]
            order = order[np.isfinite(part[order])]
            if not len(order) and name != "basis":
                raise ImageError(
                    "no-exemplars", f"No {name} exemplar is left once the image itself and its group are left out."
                )
            chosen.append(np.sort(order) + begin)
        return torch.from_numpy(np.concatenate(chosen))

    def _distances(self, gram: BorderedGram, b: int, identity: ImageIdentity) -> np.ndarray:
        """Return the squared distance (K,) of image ``b`` to each exemplar."""
        if self._attributes is None:
            own = gram.shared.diagonal()
            squares: np.ndarray = (gram.own[b] - 2 * gram.cross[b] + own).cpu().numpy().astype(np.float64)
            return squares
        if identity.attributes is None or len(identity.attributes) != self._attributes.shape[1]:
            raise ImageError("no-attributes", "The image has no attributes to find its nearest exemplars by.")
        gap = (self._attributes - identity.attributes) * self._scale
        distances: np.ndarray = np.nan_to_num(np.square(gap).sum(1).astype(np.float64), nan=np.finfo(np.float64).max)
        return distances


def sub_gram(gram: BorderedGram, b: int, chosen: Tensor) -> BorderedGram:
    """Return the Gram matrices of image ``b`` with the chosen exemplars alone, a batch of one.

    Their weights, where there are any, have sum 1 in each class again.
    """
    chosen = chosen.to(gram.cross.device)
    sources = int((chosen < gram.sources).sum())
    targets = int((chosen < gram.sources + gram.targets).sum()) - sources
    shared = gram.shared[chosen[:, None], chosen]
    weights = gram.weights
    if weights is not None:
        weights = (weights if weights.dim() == 1 else weights[b])[chosen[: sources + targets]]
        weights = torch.cat([part / part.sum() for part in (weights[:sources], weights[sources:])])
    return BorderedGram(shared, gram.cross[b : b + 1, chosen], gram.own[b : b + 1], sources, targets, weights)


def spread(r: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return coefficients (B, count + 1) over all exemplars of coefficients r (B, k + 1) over the chosen."""
    wide = r.new_zeros(len(r), count + 1)
    wide[:, chosen.to(r.device)] = r[:, :-1]
    wide[:, -1] = r[:, -1]
    return wide
