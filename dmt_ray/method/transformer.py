"""The transform job's front to the method: a manifold of two classes, traversal along it, and inversion to colours.

Source and target are any two classes of photos; a basis only adds directions. See ``recolor`` for the job whose
classes are pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.displacement import Displacement, Edit, Figures, steps_of_path
from dmt_ray.method.editor import Step, StepBatch, StepEditor
from dmt_ray.method.inversion.objective import Inversion, PictureObjective, invert
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, match_color, resize, to_tensor, upsample_edit
from dmt_ray.method.settings import TransformerSettings
from dmt_ray.method.traversal.class_patches import ClassPatches
from dmt_ray.method.traversal.interpolation import beta_to_alpha, interpolate
from dmt_ray.method.traversal.manifold import Manifold, as_tensor
from dmt_ray.method.traversal.selection import ImageIdentity, Selector, spread, sub_gram
from dmt_ray.method.traversal.shrinkage import shrinkage
from dmt_ray.method.traversal.solving import ROUGH, Traversal, traverse, traverse_to_strengths
from dmt_ray.method.traversal.witness import BorderedGram, bandwidth

#: The layers of the papers' layer regulariser.
HELD_TAPS = ("conv1_1", "conv2_1")
#: Half the range of the noise to start from, around middle grey; more of it has to be taken away again.
_NOISE = 8.0


class Transformer(StepEditor):
    """Moves batches of pictures with one manifold.

    Parameters:
        network: the VGG with the run's taps, and ``HELD_TAPS`` too where they are held.
        exemplars: what ``class_manifold.build_manifold`` returned, perhaps read-only.
        settings: what decides the result.
        lpips: what ``SimilarityMeter`` takes.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        exemplars: Mapping[str, np.ndarray],
        settings: TransformerSettings,
        lpips: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        strengths, rows = steps_of_path(settings.traversal.strengths, settings.path)
        stepless = settings.traversal.budget_weight or settings.traversal.beta
        if stepless:
            rows = frozenset(range(len(stepless)))
        super().__init__(network, exemplars, strengths, rows, keeps_path=bool(settings.path), lpips=lpips)
        self.settings = settings
        self.manifold = Manifold(exemplars, len(network.taps), network.device)
        self.pixel_difference = as_tensor(exemplars["pixel_difference"], network.device)
        self.shrinkage: Tensor | None = None
        self.patches: ClassPatches | None = None
        if settings.traversal.traversal == "local":
            self.patches = ClassPatches(exemplars, network.taps, settings.size, network.device)
        elif settings.traversal.shrink:
            self.shrinkage = shrinkage(as_tensor(exemplars["f_ratio"], network.device), settings.traversal.shrink)
        self.selector = Selector(
            exemplars,
            self.manifold.sources,
            self.manifold.targets,
            neighbors=settings.traversal.neighbors,
            by_attributes=settings.traversal.neighbors_by == "attributes",
        )

    def working(self, rgb: np.ndarray) -> np.ndarray:
        """Return what the other calls take of a picture (H, W, 3) uint8: (3, size, size) float32 in 0..255."""
        size = self.settings.size
        picture: np.ndarray = resize(to_tensor(rgb), size, size).clamp(0, 255).numpy()
        return picture

    def assemble(self, rgb: np.ndarray, edit: Edit, mask: np.ndarray | None) -> np.ndarray:
        """Return the result of a picture (H, W, 3) uint8 and an edit of it.

        Parameters:
            rgb: the input photo.
            edit: what ``reconstruct`` found for it.
            mask: (H, W) uint8, how much of the edit each pixel takes; where it is 0 the input's pixel stays as it is.

        Returns:
            (H, W, 3) uint8 with the photo's own detail, or at working size.
        """
        if self.settings.resolution == "working":
            return edit.picture
        return upsample_edit(rgb, edit.planes, mask)

    def traverse(self, pictures: np.ndarray, identities: Sequence[ImageIdentity]) -> list[Displacement]:
        """Return one displacement per picture.

        Parameters:
            pictures: (B, 3, size, size) float32 in 0..255.
            identities: what is known of each.
        """
        results: list[Displacement] = []
        for begin in range(0, len(pictures), BATCH):
            part = slice(begin, begin + BATCH)
            results += self._traverse(self._maps(pictures[part])[1], identities[part])
        return results

    def reconstruct(
        self, pictures: np.ndarray, displacements: Sequence[Displacement], masks: Sequence[np.ndarray | None]
    ) -> list[list[Edit]]:
        """Return each picture's edits, one per step asked for, each inverted from the result of the one before.

        Parameters:
            pictures: (B, 3, size, size) float32 in 0..255.
            displacements: what ``traverse`` returned for them.
            masks: (size, size) float32 in 0..1 or None for each.

        Raises:
            ImageError: kind ``bad-displacement`` when a displacement is not one of these exemplars, ``not-finite``
                when a result has a number that is not finite.
        """
        return self.run_steps(_PictureBatch(self, pictures, masks), displacements)

    def check(self, displacement: Displacement) -> None:
        """Raise ImageError (``bad-displacement``) when a displacement is not one of these exemplars."""
        steps = len(displacement.steps)
        if self.patches is None:
            displacement.check("r", (steps, len(self.manifold.features) + 1))
            return
        patches = self.patches.grid**2
        displacement.check("index", (patches, None), below=len(self.patches.descriptors))
        displacement.check("r", (steps, patches, displacement.arrays["index"].shape[1] + 1))

    def _maps(self, pictures: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        images = torch.tensor(pictures, device=self.network.device)
        with torch.no_grad():
            return images, self.network(images / 255)

    def _traverse(self, maps: list[Tensor], identities: Sequence[ImageIdentity]) -> list[Displacement]:
        if self.patches is not None:
            return self._traverse_patches(self.patches, maps, identities)
        x = self.manifold.standardise(maps)
        gram = self.manifold.border(x)
        choices = self.selector.choose(gram, identities)
        count = len(self.manifold.features)
        if all(choice is None for choice in choices):
            return _displacements(self._steps(gram, x, maps, None))
        results = []
        for b, choice in enumerate(choices):
            own = torch.arange(count) if choice is None else choice
            steps = self._steps(sub_gram(gram, b, own), x[b : b + 1], [tap[b : b + 1] for tap in maps], own)
            results += _displacements([(spread(r, own, count), figures) for r, figures in steps])
        return results

    def _steps(
        self, gram: BorderedGram, x: Tensor, maps: list[Tensor], chosen: Tensor | None
    ) -> list[tuple[Tensor, list[Figures]]]:
        """Return coefficients (B, K + 1) and figures (B) of each step."""
        settings = self.settings.traversal
        batch = len(gram.own)
        if settings.method == "dfi":
            if settings.beta:
                square = self._mean_square(gram, x, maps, chosen)
                return interpolate(gram, [beta_to_alpha(beta, square) for beta in settings.beta])
            return interpolate(gram, [gram.own.new_full((batch,), strength) for strength in self.strengths])
        variance = bandwidth(gram, settings.mean_kernel)
        if settings.rbf_variance is not None:
            variance = gram.own.new_full((batch,), settings.rbf_variance)
        if settings.budget_weight:
            weights = gram.own.new_tensor(settings.budget_weight)
            found = traverse(gram, variance, weights)
            reach = gram.mean_difference().clamp_min(1e-30)
            return [
                (traversal.r, [traversal.figures(b, float(traversal.norm[b] / reach[b])) for b in range(batch)])
                for traversal in found
            ]
        return self._to_strengths(gram, variance)

    def _to_strengths(self, gram: BorderedGram, variance: Tensor) -> list[tuple[Tensor, list[Figures]]]:
        found: list[Traversal] = traverse_to_strengths(gram, self.strengths, variance)
        return [
            (traversal.r, [traversal.figures(b, strength) for b in range(len(traversal.r))])
            for traversal, strength in zip(found, self.strengths, strict=True)
        ]

    def _mean_square(self, gram: BorderedGram, x: Tensor, maps: list[Tensor], chosen: Tensor | None) -> Tensor:
        """Return the mean square (B,) over the network's own features of mean target - mean source."""
        r = torch.cat([gram.direction(), gram.own.new_zeros(len(gram.own), 1)], 1)
        if chosen is not None:
            r = spread(r, chosen, len(self.manifold.features))
        moved = self.manifold.unstandardise(self.manifold.move(x, r), maps)
        differences = torch.cat([(a - b).flatten(1) for a, b in zip(moved, maps, strict=True)], 1)
        return differences.square().mean(1)

    def _traverse_patches(
        self, patches: ClassPatches, maps: list[Tensor], identities: Sequence[ImageIdentity]
    ) -> list[Displacement]:
        settings = self.settings.traversal
        standardised = self._standardised(maps)
        allowed = torch.from_numpy(np.stack([self.selector.allowed(identity) for identity in identities]))
        known = patches.sources + patches.targets
        results = []
        for b in range(len(maps[0])):
            taps = [tap[b : b + 1] for tap in standardised]
            index, sources = patches.search(
                taps, allowed[b : b + 1, :known], settings.patch_neighbors, settings.scene_weight
            )
            gram = patches.gram(taps, index[0], sources)
            steps = (
                interpolate(gram, [torch.full_like(gram.own, strength) for strength in self.strengths])
                if settings.method == "dfi"
                else [
                    (traversal.r, [traversal.figures(c, strength) for c in range(len(traversal.r))])
                    for traversal, strength in zip(
                        traverse_to_strengths(gram, self.strengths, effort=ROUGH), self.strengths, strict=True
                    )
                ]
            )
            arrays = {
                "index": index[0].to(torch.int32).cpu().numpy(),
                "r": torch.stack([r for r, _ in steps]).float().cpu().numpy(),
            }
            results.append(Displacement(arrays, [Figures.of_patches(figures) for _, figures in steps]))
        return results

    def _standardised(self, maps: list[Tensor]) -> list[Tensor]:
        return [
            (tap - mean) / deviation
            for tap, mean, deviation in zip(maps, self.manifold.means, self.manifold.deviations, strict=True)
        ]

    def _targets(self, maps: list[Tensor], displacements: Sequence[Displacement]) -> Iterator[list[Tensor]]:
        """Yield the moved features, one (B, C, h, w) per tap, of each step."""
        device = self.network.device
        r = [torch.tensor(each.arrays["r"], device=device) for each in displacements]
        if self.patches is None:
            x = self.manifold.standardise(maps)
            for step in range(len(r[0])):
                moved = self.manifold.move(x, torch.stack([each[step] for each in r]))
                if self.shrinkage is not None:
                    moved = torch.lerp(x, moved, self.shrinkage)
                yield self.manifold.unstandardise(moved, maps)
            return
        standardised = self._standardised(maps)
        index = [torch.tensor(each.arrays["index"], device=device).long() for each in displacements]
        for step in range(len(r[0])):
            each = [
                self.patches.move([tap[b : b + 1] for tap in standardised], index[b], r[b][step])
                for b in range(len(r))
            ]
            yield [
                torch.cat(taps) * deviation + mean
                for taps, mean, deviation in zip(
                    zip(*each, strict=True), self.manifold.means, self.manifold.deviations, strict=True
                )
            ]

    def _shifted(self, images: Tensor, mask: Tensor | None, strengths: Sequence[float]) -> Tensor:
        """Return the pictures (B, 3, size, size) moved by the exemplars' own pixels: where the inversion begins.

        Patches move for themselves, whatever lies at their place in the exemplars, so a local traversal has no shift.
        """
        share = self.settings.inversion.pixel_share
        if share == 0 or self.patches is not None:
            return images
        shift = share * images.new_tensor(strengths)[:, None, None, None] * self.pixel_difference
        return (images + (shift if mask is None else mask * shift)).clamp(0, 255)

    def _masks(self, masks: Sequence[np.ndarray | None], images: Tensor) -> Tensor | None:
        """Return masks (B, 1, size, size) in 0..1; None where no picture has one."""
        if all(mask is None for mask in masks):
            return None
        whole = np.ones(images.shape[2:], np.float32)
        stacked = np.stack([whole if mask is None else mask for mask in masks])
        return torch.tensor(stacked, device=images.device)[:, None]

    def _noise(self, images: Tensor) -> Tensor:
        """Return the same noise for every picture, so that no result depends on the batch."""
        generator = torch.Generator().manual_seed(self.settings.noise_seed)
        noise = torch.rand(images.shape[1:], generator=generator) * 2 - 1
        return (127.5 + _NOISE * noise).to(images).expand_as(images).clone()


class _PictureBatch(StepBatch):
    """Pictures whose planes are their colours."""

    def __init__(self, editor: Transformer, pictures: np.ndarray, masks: Sequence[np.ndarray | None]) -> None:
        self._editor = editor
        self.inputs, self._maps = editor._maps(pictures)
        self._mask = editor._masks(masks, self.inputs)

    def steps(self, displacements: Sequence[Displacement]) -> Iterator[Step]:
        editor, images = self._editor, self.inputs
        for displacement in displacements:
            editor.check(displacement)
        noise = editor.settings.inversion.start == "noise"
        for number, targets in enumerate(editor._targets(self._maps, displacements)):
            strengths = [displacement.steps[number].strength for displacement in displacements]
            shifted = editor._shifted(images, self._mask, strengths)
            initial = None
            if number == 0:
                initial = editor._noise(images) if noise else self.bounded(images + shifted - images)
            yield Step(targets, shifted, initial, far=number == 0 and noise)

    def invert(self, step: Step, initial: Tensor) -> Inversion:
        settings = self._editor.settings.inversion
        objective = PictureObjective(
            self._editor.network,
            step.targets,
            step.anchor,
            tv_weight=settings.tv_weight,
            tv_on=settings.tv_on,
            mask=self._mask,
            held=HELD_TAPS,
            held_weight=settings.held_weight,
            scales=self._editor.scales,
        )
        return invert(
            objective,
            initial,
            before=self.inputs,
            bounds=(0.0, 255.0),
            iterations=settings.iterations,
            far=step.far,
        )

    def render(self, planes: Tensor) -> Tensor:
        results = planes
        if self._editor.settings.inversion.match_color:
            results = match_color(results, self.inputs, self._mask).clamp(0, 255)
        if self._mask is not None:
            results = self.inputs + self._mask * (results - self.inputs)
        return results

    def kept(self, planes: Tensor, pictures: Tensor) -> Tensor:
        return pictures - self.inputs

    def bounded(self, planes: Tensor) -> Tensor:
        return planes.clamp(0, 255)


def _displacements(steps: Sequence[tuple[Tensor, list[Figures]]]) -> list[Displacement]:
    """Turn steps of a batch into one displacement per image."""
    return [
        Displacement({"r": torch.stack([r[b] for r, _ in steps]).cpu().numpy()}, [figures[b] for _, figures in steps])
        for b in range(len(steps[0][0]))
    ]
