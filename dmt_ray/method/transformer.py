"""The transform job's front to the method: a manifold of two classes, traversal along it, and inversion to colours.

Source and target are any two classes of photos; a basis only adds directions. See ``recolor`` for the job whose
classes are pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmt_ray.config import TransformConfig
from dmt_ray.method.displacement import Displacement, Edit, Figures, steps_of_path
from dmt_ray.method.inversion.objective import Inversion, PictureObjective, invert
from dmt_ray.method.inversion.pixel_difference import ClassPictures
from dmt_ray.method.metrics.similarity import SimilarityMeter
from dmt_ray.method.networks.vgg import VGG, tap_scales
from dmt_ray.method.pictures import BATCH, match_color, resize, to_pixels, to_tensor, upsample_edit
from dmt_ray.method.traversal.class_patches import ClassPatches
from dmt_ray.method.traversal.interpolation import beta_to_alpha, interpolate
from dmt_ray.method.traversal.manifold import Allocate, Manifold, ManifoldBuilder, as_tensor
from dmt_ray.method.traversal.selection import ImageIdentity, Selector, describe_identities, spread, sub_gram
from dmt_ray.method.traversal.shrinkage import belief
from dmt_ray.method.traversal.solving import ROUGH, Traversal, traverse, traverse_to_strengths
from dmt_ray.method.traversal.witness import BorderedGram, bandwidth

#: The layers of the papers' layer regulariser.
HELD_TAPS = ("conv1_1", "conv2_1")
#: Half the range of the noise to start from, around middle grey; more of it has to be taken away again.
_NOISE = 8.0


def build_manifold(
    network: VGG,
    sets: Sequence[Iterable[tuple[np.ndarray, ImageIdentity]]],
    count: int,
    config: TransformConfig,
    allocate: Allocate = np.empty,
) -> dict[str, np.ndarray]:
    """Return what the traversal and the reconstruction need of the exemplars, as plain arrays to share.

    Parameters:
        network: the VGG with the taps of ``config``.
        sets: sources, targets and the basis (which may be empty), as (size, size, 3) uint8 pictures with what is
            known of them; read once, a batch at a time.
        count: pictures of all sets at most.
        config: the run's settings; the kind of traversal and its standardisation matter here.
        allocate: makes the large arrays, in memory or in files.

    Raises:
        ValueError: there is no source, or no target.
    """
    builder = ManifoldBuilder(count, config.traversal.standardise, allocate)
    identities: list[ImageIdentity] = []
    counts: list[int] = []
    classes: list[ClassPictures] = []
    shapes: list[tuple[int, ...]] = []
    for one in sets:
        before = len(identities)
        classes.append(ClassPictures(config.model.size))
        for batch in _batches(one):
            images = torch.stack([to_tensor(rgb) for rgb, _ in batch]).to(network.device)
            with torch.inference_mode():
                maps = network(images / 255)
            shapes = [tuple(tap.shape[1:]) for tap in maps]
            builder.add(maps)
            classes[-1].add(images)
            identities += [identity for _, identity in batch]
        counts.append(len(identities) - before)
    if not all(counts[:2]):
        raise ValueError(f"{counts[0]} sources and {counts[1]} targets; there must be at least one of each")
    arrays = builder.finish(counts[0], counts[1], network.device)
    if config.traversal.traversal == "local":
        arrays = ClassPatches.build(arrays, shapes, network.taps, config.model.size, allocate)
    arrays["pixel_difference"] = classes[0].difference_to(classes[1]).float().numpy()
    return arrays | describe_identities(identities)


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


class Transformer:
    """Moves batches of pictures with one manifold.

    Parameters:
        network: the VGG with the taps of ``config``, and ``HELD_TAPS`` too where they are held.
        exemplars: what ``build_manifold`` returned, possibly as read-only views of shared memory or of files.
        config: the run's settings.
        lpips: what ``SimilarityMeter`` takes.
    """

    def __init__(
        self,
        network: VGG,
        exemplars: Mapping[str, np.ndarray],
        config: TransformConfig,
        lpips: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.network = network
        self.likeness = SimilarityMeter(lpips, network.device)
        self.scales = tap_scales(exemplars, network.taps)
        self.config = config
        self.manifold = Manifold(exemplars, len(network.taps), network.device)
        self.pixel_difference = as_tensor(exemplars["pixel_difference"], network.device)
        self.belief: Tensor | None = None
        self.cells: ClassPatches | None = None
        if config.traversal.traversal == "local":
            self.cells = ClassPatches(exemplars, network.taps, config.model.size, network.device)
        elif config.traversal.shrink:
            self.belief = belief(as_tensor(exemplars["evidence"], network.device), config.traversal.shrink)
        self.selector = Selector(
            exemplars,
            self.manifold.sources,
            self.manifold.targets,
            neighbors=config.traversal.neighbors,
            by_attributes=config.traversal.neighbors_by == "attributes",
        )
        self.strengths, self.rows = steps_of_path(config.traversal.strengths, config.output.save_path)
        if config.traversal.budget_weight or config.traversal.beta:
            self.rows = frozenset(range(len(config.strengths)))

    def working(self, rgb: np.ndarray) -> np.ndarray:
        """Return what the other calls take of a picture (H, W, 3) uint8: (3, size, size) float32 in 0..255."""
        size = self.config.model.size
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
        if self.config.output.resolution == "working":
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
        """
        images, maps = self._maps(pictures)
        mask = self._masks(masks, images)
        noise = self.config.inversion.start == "noise"
        initial, anchor = (self._noise(images) if noise else images), images
        edits: list[list[Edit]] = [[] for _ in pictures]
        frames: list[list[np.ndarray]] = [[to_pixels(image)] for image in images]
        for step, targets in enumerate(self._targets(maps, displacements)):
            far = step == 0 and noise
            shifted = self._shifted(images, mask, [one.steps[step].strength for one in displacements])
            if not far:
                initial = (initial + shifted - anchor).clamp(0, 255)
            anchor = shifted
            found = self._invert(targets, images, anchor, mask, initial, far=far)
            initial = found.planes
            for b, edit in enumerate(self._edits(images, found, mask, [one.steps[step] for one in displacements])):
                if self.config.output.save_path:
                    frames[b].append(edit.picture)
                if step in self.rows:
                    kept = tuple(frames[b]) if self.config.output.save_path else ()
                    edits[b].append(edit.with_frames(kept))
        return edits

    def _maps(self, pictures: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        images = torch.tensor(pictures, device=self.network.device)
        with torch.no_grad():
            return images, self.network(images / 255)

    def _traverse(self, maps: list[Tensor], identities: Sequence[ImageIdentity]) -> list[Displacement]:
        if self.cells is not None:
            return self._traverse_cells(self.cells, maps, identities)
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
        settings = self.config.traversal
        batch = len(gram.own)
        if settings.method == "dfi":
            if settings.beta:
                square = self._mean_square(gram, x, maps, chosen)
                return interpolate(gram, [beta_to_alpha(beta, square) for beta in settings.beta])
            return interpolate(gram, [gram.own.new_full((batch,), one) for one in self.strengths])
        variance = bandwidth(gram, settings.mean_kernel)
        if settings.rbf_variance is not None:
            variance = gram.own.new_full((batch,), settings.rbf_variance)
        if settings.budget_weight:
            weights = gram.own.new_tensor(settings.budget_weight)
            found = traverse(gram, variance, weights)
            reach = gram.mean_difference().clamp_min(1e-30)
            return [(one.r, [one.figures(b, float(one.norm[b] / reach[b])) for b in range(batch)]) for one in found]
        return self._to_strengths(gram, variance)

    def _to_strengths(self, gram: BorderedGram, variance: Tensor) -> list[tuple[Tensor, list[Figures]]]:
        found: list[Traversal] = traverse_to_strengths(gram, self.strengths, variance)
        return [
            (one.r, [one.figures(b, strength) for b in range(len(one.r))])
            for one, strength in zip(found, self.strengths, strict=True)
        ]

    def _mean_square(self, gram: BorderedGram, x: Tensor, maps: list[Tensor], chosen: Tensor | None) -> Tensor:
        """Return the mean square (B,) over the network's own features of mean target - mean source."""
        r = torch.cat([gram.direction(), gram.own.new_zeros(len(gram.own), 1)], 1)
        if chosen is not None:
            r = spread(r, chosen, len(self.manifold.features))
        moved = self.manifold.unstandardise(self.manifold.move(x, r), maps)
        differences = torch.cat([(a - b).flatten(1) for a, b in zip(moved, maps, strict=True)], 1)
        return differences.square().mean(1)

    def _traverse_cells(
        self, cells: ClassPatches, maps: list[Tensor], identities: Sequence[ImageIdentity]
    ) -> list[Displacement]:
        settings = self.config.traversal
        standardised = self._standardised(maps)
        allowed = torch.from_numpy(np.stack([self.selector.allowed(identity) for identity in identities]))
        known = cells.sources + cells.targets
        results = []
        for b in range(len(maps[0])):
            taps = [tap[b : b + 1] for tap in standardised]
            index, sources = cells.search(
                taps, allowed[b : b + 1, :known], settings.cell_neighbors, settings.scene_weight
            )
            gram = cells.gram(taps, index[0], sources)
            steps = (
                interpolate(gram, [torch.full_like(gram.own, one) for one in self.strengths])
                if settings.method == "dfi"
                else [
                    (one.r, [one.figures(c, strength) for c in range(len(one.r))])
                    for one, strength in zip(
                        traverse_to_strengths(gram, self.strengths, effort=ROUGH), self.strengths, strict=True
                    )
                ]
            )
            arrays = {
                "index": index[0].to(torch.int32).cpu().numpy(),
                "r": torch.stack([r for r, _ in steps]).float().cpu().numpy(),
            }
            results.append(Displacement(arrays, [Figures.of_cells(figures) for _, figures in steps]))
        return results

    def _standardised(self, maps: list[Tensor]) -> list[Tensor]:
        return [
            (tap - mean) / deviation
            for tap, mean, deviation in zip(maps, self.manifold.means, self.manifold.deviations, strict=True)
        ]

    def _targets(self, maps: list[Tensor], displacements: Sequence[Displacement]) -> Iterator[list[Tensor]]:
        """Yield the moved features, one (B, C, h, w) per tap, of each step."""
        device = self.network.device
        r = [torch.tensor(one.arrays["r"], device=device) for one in displacements]
        if self.cells is None:
            x = self.manifold.standardise(maps)
            for step in range(len(r[0])):
                moved = self.manifold.move(x, torch.stack([one[step] for one in r]))
                if self.belief is not None:
                    moved = torch.lerp(x, moved, self.belief)
                yield self.manifold.unstandardise(moved, maps)
            return
        standardised = self._standardised(maps)
        index = [torch.tensor(one.arrays["index"], device=device).long() for one in displacements]
        for step in range(len(r[0])):
            each = [
                self.cells.move([tap[b : b + 1] for tap in standardised], index[b], r[b][step]) for b in range(len(r))
            ]
            yield [
                torch.cat(taps) * deviation + mean
                for taps, mean, deviation in zip(
                    zip(*each, strict=True), self.manifold.means, self.manifold.deviations, strict=True
                )
            ]

    def _shifted(self, images: Tensor, mask: Tensor | None, strengths: Sequence[float]) -> Tensor:
        """Return the pictures (B, 3, size, size) moved by the exemplars' own pixels: where the inversion begins.

        Cells move for themselves, whatever lies at their place in the exemplars, so a local traversal has no shift.
        """
        share = self.config.inversion.pixel_share
        if share == 0 or self.cells is not None:
            return images
        shift = share * images.new_tensor(strengths)[:, None, None, None] * self.pixel_difference
        return (images + (shift if mask is None else mask * shift)).clamp(0, 255)

    def _invert(
        self,
        targets: list[Tensor],
        images: Tensor,
        anchor: Tensor,
        mask: Tensor | None,
        initial: Tensor,
        *,
        far: bool,
    ) -> Inversion:
        settings = self.config.inversion
        objective = PictureObjective(
            self.network,
            targets,
            anchor,
            tv_weight=settings.tv_weight,
            tv_on=settings.tv_on,
            mask=mask,
            held=HELD_TAPS,
            held_weight=settings.held_weight,
            scales=self.scales,
        )
        return invert(objective, initial, before=images, bounds=(0.0, 255.0), iterations=settings.iterations, far=far)

    def _edits(
        self, images: Tensor, found: Inversion, mask: Tensor | None, figures: Sequence[Figures]
    ) -> Iterator[Edit]:
        results = found.planes
        if self.config.inversion.match_color:
            results = match_color(results, images, mask).clamp(0, 255)
        if mask is not None:
            results = images + mask * (results - images)
        likeness = self.likeness(results, images)
        differences = (results - images).cpu().numpy()
        for b in range(len(images)):
            yield Edit(
                figures=figures[b],
                planes=differences[b],
                picture=to_pixels(results[b]),
                feature_loss_before=float(found.feature_loss_before[b]),
                feature_loss_after=float(found.feature_loss_after[b]),
                iterations=int(found.iterations[b]),
                likeness=likeness[b],
            )

    def _masks(self, masks: Sequence[np.ndarray | None], images: Tensor) -> Tensor | None:
        """Return masks (B, 1, size, size) in 0..1; None where no picture has one."""
        if all(mask is None for mask in masks):
            return None
        whole = np.ones(images.shape[2:], np.float32)
        stacked = np.stack([whole if mask is None else mask for mask in masks])
        return torch.tensor(stacked, device=images.device)[:, None]

    def _noise(self, images: Tensor) -> Tensor:
        """Return the same noise for every picture, so that no result depends on the batch."""
        generator = torch.Generator().manual_seed(self.config.inputs.seed)
        noise = torch.rand(images.shape[1:], generator=generator) * 2 - 1
        return (127.5 + _NOISE * noise).to(images).expand_as(images).clone()


def _displacements(steps: Sequence[tuple[Tensor, list[Figures]]]) -> list[Displacement]:
    """Turn steps of a batch into one displacement per image."""
    return [
        Displacement({"r": torch.stack([r[b] for r, _ in steps]).cpu().numpy()}, [figures[b] for _, figures in steps])
        for b in range(len(steps[0][0]))
    ]
