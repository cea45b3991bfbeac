"""The transform job's front to the method: a manifold of two classes, traversal along it, and inversion to colours.

Source and target are any two classes of photos; a basis only adds directions. See ``recolor`` for the job whose
classes are pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dmt_ray.method.displacement import Displacement, Edit, Figures, steps_of_path
from dmt_ray.method.editor import Step, StepBatch, StepEditor
from dmt_ray.method.flipping import RUNGS, smallest_flips
from dmt_ray.method.inversion.objective import FAR_HISTORY, NEAR_HISTORY, Inversion, PictureObjective, invert
from dmt_ray.method.inversion.starting import ChromaHold
from dmt_ray.method.metrics.verdicts import Judge
from dmt_ray.method.moves import GlobalMoves, LocalMoves, Moved, Moves
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import (
    BATCH,
    match_color,
    match_copies,
    match_shape,
    resize,
    to_tensor,
    upsample_edit,
    working_shape,
)
from dmt_ray.method.settings import TransformerSettings
from dmt_ray.method.traversal.class_patches import ClassPatches, PatchSearch
from dmt_ray.method.traversal.device_blocks import as_tensor
from dmt_ray.method.traversal.interpolation import beta_to_alpha, interpolate
from dmt_ray.method.traversal.manifold import Manifold
from dmt_ray.method.traversal.patches import Grid, match_stride, standardised_norms
from dmt_ray.method.traversal.selection import ImageIdentity, Selector, spread, sub_gram
from dmt_ray.method.traversal.shrinkage import shrinkage
from dmt_ray.method.traversal.solving import Traversal, traverse, traverse_to_strengths
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
        judge: gives verdicts on inputs and results; None gives none.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        exemplars: Mapping[str, np.ndarray],
        settings: TransformerSettings,
        lpips: Mapping[str, np.ndarray] | None = None,
        judge: Judge | None = None,
    ) -> None:
        strengths, rows = steps_of_path(
            settings.traversal.strengths, RUNGS if settings.until_flipped else settings.path
        )
        if settings.until_flipped:
            rows = frozenset({len(strengths) - 1})
        stepless = settings.traversal.budget_weight or settings.traversal.beta
        if stepless:
            rows = frozenset(range(len(stepless)))
        super().__init__(
            network, exemplars, strengths, rows, keeps_path=bool(settings.path), lpips=lpips, judge=judge
        )
        self.settings = settings
        self.patches: ClassPatches | None = None
        self.shrinkage: Tensor | None = None
        if settings.traversal.traversal == "local":
            self.patches = ClassPatches(exemplars, network.taps, network.device)
        else:
            self.manifold = Manifold(exemplars, len(network.taps), network.device)
            self.pixel_difference = as_tensor(exemplars["pixel_difference"], network.device)
            if settings.traversal.shrink:
                self.shrinkage = shrinkage(as_tensor(exemplars["f_ratio"], network.device), settings.traversal.shrink)
        self.selector = Selector(
            exemplars,
            int(exemplars["sources"]),
            int(exemplars["targets"]),
            neighbors=settings.traversal.neighbors,
            by_attributes=settings.traversal.neighbors_by == "attributes",
        )

    def bytes_per_image(self, height: int, width: int, history: int | None = None) -> float:
        """Return how many bytes of device memory the inversion of a picture (height, width) takes at most."""
        usual = FAR_HISTORY if self.settings.inversion.start == "noise" else NEAR_HISTORY
        return super().bytes_per_image(height, width, usual if history is None else history)

    def working(self, rgb: np.ndarray) -> np.ndarray:
        """Return what the other calls take of a picture (H, W, 3) uint8: (3, h, w) float32 in 0..255.

        Local traversal keeps the aspect ratio (``working_shape``); global traversal takes size x size.
        """
        size = self.settings.size
        shape = (size, size) if self.patches is None else working_shape(*rgb.shape[:2], size)
        picture: np.ndarray = resize(to_tensor(rgb), *shape).clamp(0, 255).numpy()
        return picture

    def assemble(self, rgb: np.ndarray, edit: Edit, mask: np.ndarray | None) -> np.ndarray:
        """Return the result of a picture (H, W, 3) uint8 or uint16 and an edit of it.

        Parameters:
            rgb: the input photo.
            edit: what ``reconstruct`` found for it.
            mask: (H, W) uint8, how much of the edit each pixel takes; where it is 0 the input's pixel stays as it is.

        Returns:
            (H, W, 3) of the picture's dtype with the photo's own detail, or uint8 at working size.
        """
        if self.settings.resolution == "working":
            return edit.picture
        return upsample_edit(rgb, edit.planes, mask)

    def traverse(self, pictures: np.ndarray, identities: Sequence[ImageIdentity]) -> list[Displacement]:
        """Return one displacement per picture.

        Parameters:
            pictures: (B, 3, h, w) float32 in 0..255, from ``working``.
            identities: what is known of each.
        """
        results: list[Displacement] = []
        for begin in range(0, len(pictures), BATCH):
            part = slice(begin, begin + BATCH)
            results += self._traverse(pictures[part], identities[part])
        return results

    def reconstruct(
        self, pictures: np.ndarray, displacements: Sequence[Displacement], masks: Sequence[np.ndarray | None]
    ) -> list[list[Edit]]:
        """Return each picture's edits, one per step asked for, each inverted from the result of the one before.

        Parameters:
            pictures: (B, 3, h, w) float32 in 0..255, from ``working``.
            displacements: what ``traverse`` returned for them.
            masks: (h, w) float32 in 0..1 or None for each.

        Raises:
            ImageError: kind ``bad-displacement`` when a displacement is not one of these exemplars, ``not-finite``
                when a result has a number that is not finite.
        """
        if self.settings.until_flipped:
            return [[edit] for edit in self._until_flipped(pictures, displacements, masks)]
        return self.run_steps(_PictureBatch(self, pictures, masks), displacements)

    def _until_flipped(
        self, pictures: np.ndarray, displacements: Sequence[Displacement], masks: Sequence[np.ndarray | None]
    ) -> list[Edit]:
        """Return the weakest edit of each picture that the judge calls the target class."""
        judge = self.judge
        if judge is None:
            raise ValueError("Without a judge nothing tells when a picture is flipped.")
        values = judge(torch.tensor(pictures, device=self.network.device))

        def attempt(places: Sequence[int], strengths: Sequence[float]) -> list[Edit]:
            chosen = list(places)
            batch = _PictureBatch(self, pictures[chosen], [masks[place] for place in chosen])
            wanted = batch.inputs.new_tensor(strengths)
            step, figures = batch.step_to([displacements[place] for place in chosen], wanted)
            initial = step.anchor if step.initial is None else step.initial
            return self.edit_step(batch, step, initial, figures, values[chosen])[1]

        already = (values > judge.margin).tolist()
        return smallest_flips(attempt, already, self.strengths[-1], judge.margin)

    def match_grid(self, images: Tensor) -> Grid:
        """Return the grid that pictures (B, 3, h, w) are matched on by local traversal."""
        stride = match_stride(self.network.taps)
        rows, columns = match_shape(*images.shape[2:])
        return rows // stride, columns // stride

    def check(self, displacement: Displacement, images: Tensor) -> None:
        """Raise ImageError (``bad-displacement``) when a displacement is not one of these exemplars and pictures."""
        if self.patches is None:
            displacement.check("r", (len(displacement.steps), len(self.manifold.features) + 1))
            return
        patches = math.prod(self.match_grid(images))
        displacement.check("index", (patches, None), below=len(self.patches.descriptors))
        displacement.check("weight", (patches, displacement.arrays["index"].shape[1]))

    def _maps(self, pictures: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        images = torch.tensor(pictures, device=self.network.device)
        with torch.no_grad():
            return images, self.network(images / 255)

    def _traverse(self, pictures: np.ndarray, identities: Sequence[ImageIdentity]) -> list[Displacement]:
        images, maps = self._maps(pictures)
        if self.patches is not None:
            return self._traverse_patches(self.patches, images, maps, identities)
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
        self, patches: ClassPatches, images: Tensor, maps: list[Tensor], identities: Sequence[ImageIdentity]
    ) -> list[Displacement]:
        settings = self.settings.traversal
        search = PatchSearch(
            settings.patch_neighbors, settings.patch_width, settings.scene_weight, settings.position_weight
        )
        known = patches.sources + patches.targets
        copies = match_copies(images)
        match_maps = maps
        if copies is not images:
            with torch.no_grad():
                match_maps = self.network(copies / 255)
        match_grid = self.match_grid(images)
        results = []
        for b, identity in enumerate(identities):
            allowed = torch.from_numpy(self.selector.allowed(identity)[:known])
            index, weight = patches.search([tap[b : b + 1] for tap in match_maps], allowed, search)
            change = patches.displacement(index, weight, match_grid, [tap[b : b + 1] for tap in maps])
            norm = float(standardised_norms(change, patches.deviations))
            arrays = {"index": index.to(torch.int32).cpu().numpy(), "weight": weight.half().cpu().numpy()}
            results.append(Displacement(arrays, [Figures(s, s * norm) for s in self.strengths]))
        return results

    def moves(self, maps: Sequence[Tensor], images: Tensor, displacements: Sequence[Displacement]) -> Moves:
        """Return how a batch moves."""
        share = self.settings.inversion.share_of(self.settings.traversal.traversal)
        if self.patches is not None:
            return LocalMoves(self.patches, maps, images, self.match_grid(images), displacements, share)
        difference = share * self.pixel_difference
        return GlobalMoves(self.manifold, maps, images, displacements, self.shrinkage, difference)

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
        moves = self._moves(displacements)
        for number in range(len(displacements[0].steps)):
            yield self._step(moves.step(number), first=number == 0)

    def step_to(self, displacements: Sequence[Displacement], strengths: Tensor) -> tuple[Step, list[Figures]]:
        """Return the step to a strength (B,) of each picture, up to that of its last step, and its figures."""
        moved = self._moves(displacements).strengths(strengths)
        pairs = zip(strengths.tolist(), moved.norms.tolist(), strict=True)
        return self._step(moved, first=True), [Figures(strength, norm) for strength, norm in pairs]

    def _moves(self, displacements: Sequence[Displacement]) -> Moves:
        for displacement in displacements:
            self._editor.check(displacement, self.inputs)
        return self._editor.moves(self._maps, self.inputs, displacements)

    def _step(self, moved: Moved, *, first: bool) -> Step:
        images, start = self.inputs, moved.start
        if self._mask is not None:
            start = images + self._mask * (start - images)
        noise = first and self._editor.settings.inversion.start == "noise"
        return Step(moved.targets, start, self._editor._noise(images) if noise else None, far=noise)

    def invert(self, step: Step, initial: Tensor) -> Inversion:
        settings = self._editor.settings.inversion
        sigma = settings.hold_sigma * self._editor.settings.size / 128
        hold = ChromaHold(step.anchor, sigma) if sigma else None
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
            hold=hold,
        )
        found = invert(
            objective,
            initial,
            before=self.inputs,
            bounds=(0.0, 255.0),
            iterations=settings.iterations,
            far=step.far,
        )
        if hold is None:
            return found
        held = hold(found.planes, objective.everything())
        return replace(found, planes=self.bounded(held))

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
