"""What every editor does alike: invert step after step, keep the pictures on the way, and measure each result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmt_ray.errors import ImageError
from dmt_ray.method.displacement import Displacement, Edit, Figures
from dmt_ray.method.inversion.objective import NEAR_HISTORY, Inversion
from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.method.metrics.similarity import Similarity, SimilarityMeter
from dmt_ray.method.metrics.verdicts import Judge, Verdict
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.networks.normalisation import tap_scales
from dmt_ray.method.pictures import to_pixels
from dmt_ray.words import counted


@dataclass(frozen=True)
class Step:
    """One step of a batch of images.

    Attributes:
        targets: the moved features, one (B, C, h, w) per tap.
        anchor: (B, C, size, size) planes that the edit is measured from.
        initial: planes where the inversion begins; None begins at the result of the step before, moved by what the
            anchor has moved since then, or at the anchor in the first step.
        far: the inversion begins far from any picture, as from noise.
    """

    targets: list[Tensor]
    anchor: Tensor
    initial: Tensor | None = None
    far: bool = False


class StepBatch(ABC):
    """A batch of images as ``StepEditor`` goes through its steps: what differs from editor to editor."""

    inputs: Tensor
    """(B, 3, size, size) in 0..255, what results are compared with."""

    @abstractmethod
    def steps(self, displacements: Sequence[Displacement]) -> Iterator[Step]:
        """Yield every step, in order."""

    @abstractmethod
    def invert(self, step: Step, initial: Tensor) -> Inversion:
        """Find the planes that have a step's features, beginning at ``initial`` (B, C, size, size)."""

    @abstractmethod
    def render(self, planes: Tensor) -> Tensor:
        """Return the pictures (B, 3, size, size) in 0..255 of planes that an inversion found."""

    @abstractmethod
    def kept(self, planes: Tensor, pictures: Tensor) -> Tensor:
        """Return the planes that an ``Edit`` keeps, of the planes that were found and their pictures."""

    def bounded(self, planes: Tensor) -> Tensor:
        """Return planes to begin at, within the bounds of the inversion; by default as they are."""
        return planes


class StepEditor:
    """Edits batches of images in steps, each inverted from the result of the one before.

    Parameters:
        network: with the run's taps.
        exemplars: what was learned of the exemplars.
        strengths: every step, rising.
        rows: which of the steps were asked for; the others are on the way to them.
        keeps_path: keep a picture of each step.
        lpips: what ``SimilarityMeter`` takes.
        judge: gives verdicts on inputs and results; None gives none.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        exemplars: Mapping[str, np.ndarray],
        strengths: Sequence[float],
        rows: frozenset[int],
        *,
        keeps_path: bool,
        lpips: Mapping[str, np.ndarray] | None,
        judge: Judge | None = None,
    ) -> None:
        self.network = network
        self.similarity = SimilarityMeter(lpips, network.device)
        self.judge = judge
        self.scales = tap_scales(exemplars, network.taps)
        self.strengths, self.rows = tuple(strengths), rows
        self._keeps_path = keeps_path

    def bytes_per_image(self, height: int, width: int, history: int = NEAR_HISTORY) -> float:
        """Return how many bytes of device memory the inversion of a picture (height, width) takes at most.

        Parameters:
            height, width: at working size.
            history: pairs in the memory of L-BFGS.
        """
        values = values_per_pixel(self.network.backbone, self.network.taps)
        half = self.network.dtype == torch.bfloat16
        return inversion_bytes(height * width, values, half=half, history=history)

    def run_steps(self, batch: StepBatch, displacements: Sequence[Displacement]) -> list[list[Edit]]:
        """Return the edits of each image, one per step that was asked for.

        Parameters:
            batch: the images.
            displacements: one per image, whose figures the edits get.

        Raises:
            ImageError: kind ``not-finite`` when a result has a number that is not finite, ``bad-displacement`` when a
                displacement has another number of steps.
        """
        count = max(self.rows) + 1  # the last step was asked for
        for displacement in displacements:
            if len(displacement.steps) != count:
                has = counted(len(displacement.steps), "step")
                raise ImageError("bad-displacement", f"The displacement has {has}, and the run {count}.")
        edits: list[list[Edit]] = [[] for _ in displacements]
        frames = [[to_pixels(image)] for image in batch.inputs] if self._keeps_path else []
        values = None if self.judge is None else self.judge(batch.inputs)
        before: tuple[Tensor, Tensor] | None = None
        for number, step in enumerate(batch.steps(displacements)):
            initial = step.initial
            if initial is None:
                initial = step.anchor if before is None else batch.bounded(before[0] + step.anchor - before[1])
            figures = [displacement.steps[number] for displacement in displacements]
            planes, made = self.edit_step(batch, step, initial, figures, values)
            before = planes, step.anchor
            for b, edit in enumerate(made):
                if self._keeps_path:
                    frames[b].append(edit.picture)
                if number in self.rows:
                    edits[b].append(edit.with_frames(tuple(frames[b]) if self._keeps_path else ()))
        return edits

    def edit_step(
        self, batch: StepBatch, step: Step, initial: Tensor, figures: Sequence[Figures], values: Tensor | None
    ) -> tuple[Tensor, list[Edit]]:
        """Return the planes that a step's inversion found, beginning at ``initial``, and the edits made of them.

        Parameters:
            batch: the images.
            step: what to find.
            initial: (B, C, h, w) planes to begin at.
            figures: of the step, for each image.
            values: (B,) the judge's decision values of the inputs; None without a judge.

        Raises:
            ImageError: kind ``not-finite`` when a result has a number that is not finite.
        """
        found = batch.invert(step, initial)
        return found.planes, list(self._edits(batch, found, figures, values))

    def _edits(
        self, batch: StepBatch, found: Inversion, figures: Sequence[Figures], values: Tensor | None
    ) -> Iterator[Edit]:
        """Yield the edits of a step; ``values`` (B,) are the judge's decision values of the inputs."""
        pictures = batch.render(found.planes)
        if not bool(torch.isfinite(pictures).all()):
            raise ImageError("not-finite", "The pixels of the result are not all finite numbers.")
        similarity = self.similarity(pictures, batch.inputs)
        verdicts: list[Verdict] | None = None
        if self.judge is not None and values is not None:
            pairs = zip(values.tolist(), self.judge(pictures).tolist(), strict=True)
            verdicts = [Verdict.of(before, after, self.judge.margin) for before, after in pairs]
        planes = batch.kept(found.planes, pictures).cpu().numpy()
        for b in range(len(planes)):
            edit = Edit(
                figures=figures[b],
                planes=planes[b],
                picture=to_pixels(pictures[b]),
                feature_loss_before=float(found.feature_loss_before[b]),
                feature_loss_after=float(found.feature_loss_after[b]),
                iterations=int(found.iterations[b]),
                similarity=similarity[b],
                verdict=None if verdicts is None else verdicts[b],
            )
            _check_finite(edit)
            yield edit


def _check_finite(edit: Edit) -> None:
    """Raise ImageError when a figure of an edit is not finite."""
    measured = dict(zip(Similarity._fields, edit.similarity, strict=True))
    losses = {"feature loss before": edit.feature_loss_before, "feature loss after": edit.feature_loss_after}
    if edit.verdict is not None:
        losses |= {"verdict before": edit.verdict.before, "verdict after": edit.verdict.after}
    for name, value in (losses | measured).items():
        if value is not None and not np.isfinite(value):
            raise ImageError("not-finite", f"The {name} of the result is {value}, not a finite number.")
