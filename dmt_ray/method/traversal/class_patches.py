"""Local traversal between unpaired classes: every spatial patch has a witness function of its own.

A patch of an image is described by all taps together (see ``local``). Its nearest patches among the sources and among
the targets are its own small source and target set; it moves along what they span until their witness function, with
a budget of its own, has gone the asked strength. Nothing has to be aligned, which global traversal needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.traversal.manifold import Allocate, as_tensor
from dmt_ray.method.traversal.paired_patches import (
    covering_patches,
    describe,
    describe_scene,
    match_stride,
    mix_patches,
    nearest_patches,
    principal_directions,
    to_patches,
)
from dmt_ray.method.traversal.witness import BorderedGram

#: Patches whose neighbours are gathered at a time to make Gram matrices.
_PATCHES_AT_ONCE = 64


class ClassPatches:
    """A bank of exemplar patches of both classes.

    Parameters:
        arrays: what ``build`` returned; may be read-only views of shared memory or of a file.
        taps: names of the taps, in the order of every list of maps.
        size: working size in pixels.
        device: where to compute; the bank is copied there once.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], taps: Sequence[str], size: int, device: torch.device
    ) -> None:
        self.grid = size // match_stride(taps)
        self.sources, self.targets = int(arrays["sources"]), int(arrays["targets"])
        self.projection = as_tensor(arrays["projection"], device)
        self.descriptors = as_tensor(arrays["descriptors"], device)
        self.scenes = as_tensor(arrays["scenes"], device)
        self.banks = [as_tensor(arrays[f"patches_{k}"], device) for k in range(len(taps))]
        self.device = device

    @staticmethod
    def build(
        arrays: Mapping[str, np.ndarray],
        shapes: Sequence[tuple[int, ...]],
        taps: Sequence[str],
        size: int,
        allocate: Allocate = np.empty,
    ) -> dict[str, np.ndarray]:
        """Return the bank as plain arrays, made of a manifold's standardised features.

        Parameters:
            arrays: what ``ManifoldBuilder.finish`` returned.
            shapes: (C, h, w) of each tap.
            taps: names of the taps.
            size: working size in pixels.
            allocate: makes the large arrays.

        Returns:
            ``projection`` (sum of C, P) float32; ``descriptors`` (K * patches, P) and ``scenes`` (K, P) float16;
            ``patches_k`` (K * patches of the tap's own or the match grid, whichever is coarser, values) float16; and
            the manifold's means, deviations, ``sources`` and ``targets``.
        """
        grid = size // match_stride(taps)
        features = arrays["features"]
        count = int(arrays["sources"]) + int(
            arrays["targets"]
        )  # a basis has no class, so no patch is looked up in it
        width = sum(shape[0] for shape in shapes)
        raw = allocate((count, grid * grid, width), np.float16)
        banks = []
        for _, height, _ in shapes:
            coarse = min(grid, height)
            banks.append((coarse, coarse**2))
        patches = [
            allocate((count * number, int(np.prod(shape)) // number), np.float16)
            for (_, number), shape in zip(banks, shapes, strict=True)
        ]
        zero, one = torch.zeros(1), torch.ones(1)
        for n in range(count):
            maps = []
            begin = 0
            for shape in shapes:
                part = features[n, begin : begin + int(np.prod(shape))]
                maps.append(torch.tensor(part).float().view(1, *shape))
                begin += int(np.prod(shape))
            raw[n] = describe(maps, [zero] * len(maps), [one] * len(maps), grid)[0].half().numpy()
            for bank, tap, (_, number) in zip(patches, maps, banks, strict=True):
                bank[n * number : (n + 1) * number] = to_patches(tap, grid)[0].half().numpy()
        projection = principal_directions(torch.from_numpy(raw.reshape(-1, width)))
        projected = np.empty((count, grid * grid, projection.shape[1]), np.float16)
        scenes = np.empty((count, projection.shape[1]), np.float16)
        for n in range(count):
            directions = torch.from_numpy(raw[n]).float() @ projection
            projected[n] = directions.half().numpy()
            scenes[n] = describe_scene(directions[None])[0].half().numpy()
        kept = {name: array for name, array in arrays.items() if name not in ("features", "gram", "f_ratio")}
        return kept | {
            "projection": projection.numpy(),
            "descriptors": projected.reshape(-1, projection.shape[1]),
            "scenes": scenes,
            **{f"patches_{k}": bank for k, bank in enumerate(patches)},
        }

    def search(
        self, standardised: Sequence[Tensor], allowed: Tensor, neighbors: int, scene_weight: float
    ) -> tuple[Tensor, int]:
        """Find the nearest source patches and the nearest target patches of every patch.

        Parameters:
            standardised: per tap, (B, C, h, w) standardised maps of the images.
            allowed: (B, N + M) bool, the exemplars whose patches an image may take.
            neighbors: patches to take of each class; fewer when a class has fewer.
            scene_weight: weight of the whole pictures' scene_similarity beside that of their patches.

        Returns:
            Indices (B, patches, sources' + targets') int64 into the bank, and how many of them are sources'.
        """
        zero, one = torch.zeros(1, device=self.device), torch.ones(1, device=self.device)
        count = len(standardised)
        queries = describe(standardised, [zero] * count, [one] * count, self.grid) @ self.projection
        scene_similarity = scene_weight * (describe_scene(queries) @ self.scenes.float().T)
        scene_similarity = scene_similarity.masked_fill(~allowed.to(self.device), -1e4)
        patches = self.grid**2
        split = self.sources
        found = []
        for begin, end in ((0, split), (split, split + self.targets)):
            fewest = int(allowed[:, begin:end].sum(1).min())
            if fewest == 0:
                raise ImageError(
                    "no-exemplars", "No exemplar is left once the image itself and its group are left out."
                )
            bank = self.descriptors[begin * patches : end * patches]
            _, index = nearest_patches(
                queries, bank, scene_similarity[:, begin:end], min(neighbors, fewest * patches)
            )
            found.append(index + begin * patches)
        return torch.cat(found, 2), found[0].shape[2]

    def gram(self, standardised: Sequence[Tensor], index: Tensor, sources: int) -> BorderedGram:
        """Return the Gram matrices of every patch of one image with its neighbours.

        Parameters:
            standardised: per tap, (1, C, h, w) standardised maps.
            index: (patches, k) neighbours; the first ``sources`` of each patch are sources'.
        """
        parts = []
        own = [self._own_patches(tap) for tap in standardised]
        for rows in torch.arange(len(index), device=self.device).split(_PATCHES_AT_ONCE):
            shared = cross = square = None
            for k, tap in enumerate(standardised):
                places = covering_patches(index[rows], self.grid, tap.shape[2])
                near = self.banks[k][places].float()  # (rows, k, values)
                mine = own[k][rows]
                terms = (near @ near.mT).double(), (near @ mine[..., None])[..., 0].double(), mine.square().sum(1)
                if shared is None or cross is None or square is None:
                    shared, cross, square = terms[0], terms[1], terms[2].double()
                else:
                    shared, cross, square = shared + terms[0], cross + terms[1], square + terms[2].double()
            assert shared is not None
            assert cross is not None
            assert square is not None
            parts.append((shared, cross, square))
        shared, cross, square = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        return BorderedGram(shared, cross, square, sources, index.shape[1] - sources)

    def move(self, standardised: Sequence[Tensor], index: Tensor, r: Tensor) -> list[Tensor]:
        """Return the moved standardised maps, one (1, C, h, w) per tap, of one image.

        Parameters:
            standardised: per tap, (1, C, h, w) standardised maps.
            index: (patches, k) neighbours.
            r: (patches, k + 1) displacements; the last is the patch's own.
        """
        moved = []
        for k, tap in enumerate(standardised):
            mixed = mix_patches(self.banks[k], index, r[:, :-1].float(), self.grid, tap.shape[1:])
            own = r[:, -1].float().view(1, 1, self.grid, self.grid)
            if tap.shape[2] < self.grid:
                own = F.avg_pool2d(own, self.grid // tap.shape[2])
            elif tap.shape[2] > self.grid:
                own = F.interpolate(own, size=tap.shape[2:], mode="nearest")
            moved.append(tap * (1 + own) + mixed[None])
        return moved

    def _own_patches(self, tap: Tensor) -> Tensor:
        """Return one image's patches (patches of the match grid, values) of a tap (1, C, h, w)."""
        patches = to_patches(tap, self.grid)[0]
        if tap.shape[2] >= self.grid:
            return patches
        every = torch.arange(self.grid**2, device=tap.device)
        return patches[covering_patches(every, self.grid, tap.shape[2])]
