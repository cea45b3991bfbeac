"""The bank: patches of the references with their chroma, of which a picture looks at those of the likest scenes.

The scenes of all references are small and always at hand. Patches come from a ``PatchStore``, and only those of the
references whose scenes are likest, so that a picture costs the same whatever the number of references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.colors.describing import EXTRAS, Described
from dmt_ray.method.settings import TraversalConfig
from dmt_ray.method.traversal.patches import nearest_patches

#: A mean of chroma shorter than this, in 8-bit units, tells nothing of how far the neighbours agree.
_LEAST_CHROMA = 0.5
#: Neighbours by default: one in so many patches, and at least so many.
_ONE_IN, _LEAST_NEIGHBORS = 64, 64
#: Patches up to so many bytes lie on the device once and for all.
_RESIDENT_BYTES = 2**30


class PatchStore(Protocol):
    """Gives the patches of references."""

    def rows(self, references: Sequence[int]) -> np.ndarray:
        """Return (n, patches, P + EXTRAS) float16 of some references, see ``pack``; good until the next call."""
        ...


class ArrayStore:
    """Patches that lie in one array, in memory or mapped from a file."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def rows(self, references: Sequence[int]) -> np.ndarray:
        """Return (n, patches, P + EXTRAS) float16 of some references."""
        found: np.ndarray = self.array[np.asarray(references)]
        return found


@dataclass(frozen=True)
class Neighbours:
    """What the nearest patches say.

    Attributes:
        chroma: (B, patches, 2) their weighted mean in 8-bit units.
        agreement: (B, patches) in 0..1, the length of that mean over the mean length: 1 where all have one hue.
    """

    chroma: Tensor
    agreement: Tensor


class ColorBank:
    """Finds the nearest patches of the references.

    Parameters:
        scenes: (references, P) float16 of unit length.
        store: gives patches.
        device: where to compute.
    """

    def __init__(self, scenes: np.ndarray, store: PatchStore, device: torch.device) -> None:
        self.scenes = torch.tensor(np.asarray(scenes), device=device).float()
        self._store, self._device = store, device
        self._resident: Tensor | None = None
        if isinstance(store, ArrayStore) and store.array.nbytes <= _RESIDENT_BYTES:
            self._resident = torch.tensor(store.array, device=device)

    def __len__(self) -> int:
        return len(self.scenes)

    def search(self, pictures: Described, settings: TraversalConfig, without: Sequence[int] = ()) -> Neighbours:
        """Find the nearest patches of every patch, and mix their chroma.

        Similarity is the cosine of the two patches plus ``scene_weight`` times the cosine of the two pictures' mean
        patches: what a patch looks like says less about its colour than what it looks like in such a scene.

        Parameters:
            pictures: to find patches for.
            settings: ``scenes``, ``neighbors``, ``softmax_width`` and ``scene_weight`` count. Without ``neighbors``,
                one in ``_ONE_IN`` of the patches that are looked at is taken.
            without: a reference that each picture may not look at, such as itself; empty allows all.
        """
        likeness = pictures.scenes @ self.scenes.T
        if len(without):
            likeness[torch.arange(len(likeness)), torch.as_tensor(without)] = -torch.inf
        found = likeness.topk(min(settings.scenes, len(self) - bool(len(without))), dim=1)
        chroma, agreement = [], []
        for patches, likest, near in zip(pictures.descriptors, found.indices, found.values, strict=True):
            rows = self._rows(likest)
            bank = rows.flatten(0, 1)
            bias = (settings.scene_weight * near).repeat_interleave(rows.shape[1])
            count = settings.neighbors or max(_LEAST_NEIGHBORS, len(bank) // _ONE_IN)
            best, index = nearest_patches(patches, bank[:, :-EXTRAS], bias, count)
            weights = ((best - best[:, :1]) / settings.softmax_width).softmax(1)[..., None]
            colours = bank[:, -EXTRAS:-2].float()[index]
            mean = (colours * weights).sum(1)
            chroma.append(mean)
            lengths = (colours.norm(dim=2) * weights[..., 0]).sum(1)
            agreement.append(mean.norm(dim=1) / lengths.clamp_min(_LEAST_CHROMA))
        return Neighbours(torch.stack(chroma), torch.stack(agreement))

    def _rows(self, references: Tensor) -> Tensor:
        """Return (n, patches, P + EXTRAS) of references, on the device."""
        if self._resident is not None:
            return self._resident[references]
        return torch.from_numpy(self._store.rows(references.tolist())).to(self._device)
