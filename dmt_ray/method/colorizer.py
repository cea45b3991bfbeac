"""The colorize job's front to the method: exemplars from colour photos, traversal, and inversion to chroma planes.

Source = the grey copies of the reference photos, target = the photos themselves. The input's luma is never touched.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmt_ray.config import Resolution
from dmt_ray.errors import ImageError
from dmt_ray.method import color
from dmt_ray.method.colors.bank import PatchStore
from dmt_ray.method.colors.building import Allocate, build_bank
from dmt_ray.method.colors.describing import grid_of
from dmt_ray.method.colors.finding import ColorFinder, upsample
from dmt_ray.method.displacement import Displacement, Edit, Figures, steps_of_path
from dmt_ray.method.editor import Step, StepBatch, StepEditor
from dmt_ray.method.inversion.objective import Inversion, invert_chroma
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, MATCH_SIZE, features, resize, to_tensor
from dmt_ray.method.settings import ColorizerSettings
from dmt_ray.method.traversal.device_blocks import as_tensor
from dmt_ray.method.traversal.manifold import Manifold, ManifoldBuilder
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.method.traversal.solving import traverse_to_strengths

#: A picture whose mean chroma norm is below this, in 8-bit units, is grey: rounding and JPEG leave no more than that.
GREY_CHROMA = 2.0
#: No mean of chroma that 8-bit pictures have is larger, rounding included.
_LARGEST_CHROMA = 128.0
#: Rows of a photo that are joined with chroma at a time.
_STRIP = 256


def is_grey(rgb: np.ndarray) -> bool:
    """Tell whether a picture (H, W, 3) uint8 has no colour to learn from."""
    return float(color.chroma(to_tensor(rgb)).norm(dim=0).mean()) < GREY_CHROMA


def working_luma(rgb: np.ndarray, size: int) -> np.ndarray:
    """Return the luma (size, size) float32 in 0..255 of a picture (H, W, 3) uint8."""
    plane = resize(color.luma(to_tensor(rgb)), size, size)[0].clamp(0, 255)
    resized: np.ndarray = plane.numpy()
    return resized


def assemble(rgb: np.ndarray, chroma: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Join a photo's own luma with chroma found at working size; see ``color.join_luma`` for what stays of both.

    Parameters:
        rgb: the input photo (H, W, 3) uint8 or uint16; only its luma is used.
        chroma: (2, size, size) float32 in 8-bit units.
        resolution: ``native`` brings the chroma up to H x W and leaves the luma as it is; ``working`` brings the
            luma down to size x size.

    Returns:
        (H, W, 3) or (size, size, 3) of the photo's dtype.
    """
    size, full = chroma.shape[-1], float(np.iinfo(rgb.dtype).max)
    planes = torch.from_numpy(np.ascontiguousarray(chroma)) * (full / 255)
    if resolution == "working":
        luma = resize(color.luma(to_tensor(rgb)), size, size).clamp(0, full)
        return _whole(color.join_luma(luma, planes, full), rgb.dtype)
    planes = resize(planes, *rgb.shape[:2])
    result = np.empty_like(rgb)
    for top in range(0, len(rgb), _STRIP):  # a large photo in float32 takes twelve bytes a pixel, several times
        rows = slice(top, top + _STRIP)
        luma = color.luma(to_tensor(rgb[rows]))
        result[rows] = _whole(color.join_luma(luma, planes[:, rows], full), rgb.dtype)
    return result


def _whole(rgb: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Return (H, W, 3) of a dtype of whole (3, H, W)."""
    pixels: np.ndarray = rgb.permute(1, 2, 0).numpy().astype(dtype)
    return pixels


def build_exemplars(
    network: FeatureNetwork, rgb: Sequence[np.ndarray], settings: ColorizerSettings, allocate: Allocate = np.empty
) -> dict[str, np.ndarray]:
    """Return what the actors need of the reference photos, as plain arrays to share.

    Parameters:
        network: the VGG with the run's taps; with ``COLOR_LAYERS`` too where traversal is local.
        rgb: N reference photos (side, side, 3) uint8, see ``exemplar_side``.
        settings: the traversal matters here, and the seed.
        allocate: makes the largest array.
    """
    if settings.traversal.traversal == "local":
        return build_bank(network, rgb, settings, allocate)
    images = torch.tensor(np.stack(rgb)).permute(0, 3, 1, 2).float()
    source = features(network, color.luma(images).expand(-1, 3, -1, -1))
    target = features(network, images)
    chroma = color.chroma(images)
    builder = ManifoldBuilder(2 * len(rgb), settings.traversal.standardise)
    for maps in (source, target):
        builder.add([torch.from_numpy(tap) for tap in maps])
    arrays = builder.finish(len(rgb), len(rgb), network.device)
    arrays["chroma"] = chroma.half().numpy()
    return arrays


def exemplar_side(settings: ColorizerSettings) -> int:
    """Return the side in pixels at which references are learned from."""
    return MATCH_SIZE if settings.traversal.traversal == "local" else settings.size


class Colorizer(StepEditor):
    """Colorizes batches of grey images with one set of exemplars.

    Parameters:
        network: the VGG with the run's taps; with ``COLOR_LAYERS`` too where traversal is local.
        exemplars: what ``build_exemplars`` returned, possibly as read-only views of shared memory.
        settings: what decides the result.
        lpips: what ``SimilarityMeter`` takes.
        store: gives the references' patches where they are not among the exemplars.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        exemplars: Mapping[str, np.ndarray],
        settings: ColorizerSettings,
        lpips: Mapping[str, np.ndarray] | None = None,
        store: PatchStore | None = None,
    ) -> None:
        strengths, rows = steps_of_path(settings.traversal.strengths, settings.path)
        super().__init__(network, exemplars, strengths, rows, keeps_path=bool(settings.path), lpips=lpips)
        self.settings = settings
        self._exemplars, self._store = exemplars, store
        self.manifold: Manifold | None = None
        if settings.traversal.traversal == "local":
            self._grid = grid_of(MATCH_SIZE)
        else:
            self.manifold = Manifold(exemplars, len(network.taps), network.device)
            self.chroma = as_tensor(exemplars["chroma"], network.device)

    def _maps(self, luma: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        plane = torch.tensor(luma, device=self.network.device)[:, None]
        with torch.no_grad():
            return plane, self.network(plane.expand(-1, 3, -1, -1) / 255)

    def working(self, rgb: np.ndarray) -> np.ndarray:
        """Return what ``traverse`` and ``reconstruct`` take of a picture (H, W, 3) uint8: its working luma."""
        return working_luma(rgb, self.settings.size)

    def assemble(self, rgb: np.ndarray, edit: Edit, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the result (H, W, 3), or at working size, of a picture uint8 or uint16 and what was found for it.

        Raises:
            ValueError: there is a mask; colours are for whole pictures.
        """
        if mask is not None:
            raise ValueError("Colorizing takes no mask.")
        return assemble(rgb, edit.planes, self.settings.resolution)

    def traverse(self, luma: np.ndarray, identities: Sequence[ImageIdentity] = ()) -> list[Displacement]:
        """Return one displacement per image of luma (B, size, size) float32 in 0..255; who is shown has no say."""
        results: list[Displacement] = []
        for begin in range(0, len(luma), BATCH):
            part = luma[begin : begin + BATCH]
            results += self._find(part) if self.manifold is None else self._traverse_global(self._maps(part)[1])
        return results

    def _traverse_global(self, maps: list[Tensor]) -> list[Displacement]:
        assert self.manifold is not None
        strengths = self.strengths
        found = traverse_to_strengths(self.manifold.border(self.manifold.standardise(maps)), strengths)
        return [
            Displacement(
                {"r": torch.stack([traversal.r[b] for traversal in found]).cpu().numpy()},
                [traversal.figures(b, strength) for traversal, strength in zip(found, strengths, strict=True)],
            )
            for b in range(len(maps[0]))
        ]

    @functools.cached_property
    def finder(self) -> ColorFinder:
        """Finds colours, with local traversal; made when it is first needed, since reconstruction does without."""
        return ColorFinder(self.network, self._exemplars, self.settings.traversal, self._store)

    def _find(self, luma: np.ndarray) -> list[Displacement]:
        found = self.finder(torch.tensor(luma, device=self.network.device))
        chroma = found.chroma.half().cpu().numpy()
        figures = zip(found.change.tolist(), found.confidence.tolist(), strict=True)
        return [
            Displacement({"chroma": planes}, [Figures(s, s * norm, confidence=sure) for s in self.strengths])
            for planes, (norm, sure) in zip(chroma, figures, strict=True)
        ]

    def reconstruct(
        self,
        luma: np.ndarray,
        displacements: Sequence[Displacement],
        masks: Sequence[np.ndarray | None] = (),
    ) -> list[list[Edit]]:
        """Return the edits of each image of luma (B, size, size) float32 in 0..255, one per step.

        Each step's inversion starts from the result of the one before, moved by what its start differs.

        Raises:
            ImageError: kind ``bad-displacement`` when a displacement is not one of these exemplars, ``not-finite``
                when a result has a number that is not finite.
        """
        return self.run_steps(_LumaBatch(self, luma), displacements)

    def _targets(
        self, luma: Tensor, maps: list[Tensor], displacements: Sequence[Displacement]
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield, step by step, the moved features and the chroma to start from (B, 2, size, size).

        With local traversal the start is the chroma that was found, times the strength, and the features move as they
        do when the picture gets that chroma, times the strength. A global start is never moved beyond strength 1: a
        stronger move asks for more than the exemplars show, and the inversion then decides where it is plausible.
        """
        device = self.network.device
        strengths = [figures.strength for figures in displacements[0].steps]

        def stacked(name: str) -> Tensor:
            return torch.stack([torch.tensor(each.arrays[name], device=device) for each in displacements])

        if self.manifold is None:
            start = upsample(stacked("chroma").float(), luma)
            with torch.no_grad():
                colored = self.network(color.to_rgb(luma, start).clamp(0, 255) / 255)
            for strength in strengths:
                yield (
                    [grey + (tap - grey) * strength for grey, tap in zip(maps, colored, strict=True)],
                    (start * strength).clamp(-color.CHROMA_BOUND, color.CHROMA_BOUND),
                )
            return
        assert self.manifold is not None
        r = stacked("r")
        standardised = self.manifold.standardise(maps)
        for step, strength in enumerate(strengths):
            moved = self.manifold.move(standardised, r[:, step])
            yield self.manifold.unstandardise(moved, maps), self._global_start(r[:, step]) / max(strength, 1.0)

    def _global_start(self, r: Tensor) -> Tensor:
        """Return the chroma the same displacement gives: sum_j r_j chroma_j over the targets (sources have none)."""
        assert self.manifold is not None
        count = self.manifold.sources
        weights = r[:, count : count + self.manifold.targets].float()
        planes = torch.einsum("bm,mchw->bchw", weights, self.chroma.float())
        return planes.clamp(-color.CHROMA_BOUND, color.CHROMA_BOUND)

    def check(self, displacement: Displacement) -> None:
        """Raise ImageError (``bad-displacement``) when a displacement is not one of these exemplars."""
        if self.manifold is None:
            displacement.check("chroma", (self._grid[0] * self._grid[1], 2))
            largest = float(np.abs(displacement.arrays["chroma"]).max())
            if largest > _LARGEST_CHROMA:
                raise ImageError(
                    "bad-displacement", f"The displacement has chroma of {largest:.0f}; 128 is the most."
                )
        else:
            assert self.manifold is not None
            displacement.check("r", (len(displacement.steps), len(self.manifold.features) + 1))


class _LumaBatch(StepBatch):
    """Grey images whose luma is locked: the planes are their chroma."""

    def __init__(self, editor: Colorizer, luma: np.ndarray) -> None:
        self._editor = editor
        self._luma, self._maps = editor._maps(luma)
        self.inputs = self._luma.expand(-1, 3, -1, -1)

    def steps(self, displacements: Sequence[Displacement]) -> Iterator[Step]:
        for displacement in displacements:
            self._editor.check(displacement)
        for targets, start in self._editor._targets(self._luma, self._maps, displacements):
            yield Step(targets, start)

    def invert(self, step: Step, initial: Tensor) -> Inversion:
        settings = self._editor.settings
        return invert_chroma(
            self._editor.network,
            self._luma,
            step.targets,
            step.anchor,
            initial=initial,
            tv_weight=settings.inversion.tv_weight,
            iterations=settings.inversion.iterations_for(settings.traversal.traversal),
            scales=self._editor.scales,
        )

    def render(self, planes: Tensor) -> Tensor:
        return color.to_rgb(self._luma, planes).clamp(0, 255)

    def kept(self, planes: Tensor, pictures: Tensor) -> Tensor:
        return planes
