"""The judge of a run: what it is made from, how it learns from exemplars as they are read, and how good it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.job import Array, Arrays, ExemplarPictures, JobConfig
from dmt_ray.jobs.registry import job_of
from dmt_ray.method.metrics.probe_fit import balanced_accuracy, fit_probe
from dmt_ray.method.metrics.verdicts import Judge, ProbeFeatures, ProbeJudge
from dmt_ray.method.pictures import fits_batch, to_tensor
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.models.onnx_judge import OnnxClassifier, OnnxJudge, load_classifier
from dmt_ray.storage.models.weights import load_alexnet
from dmt_ray.words import counted

logger = logging.getLogger(__name__)

#: The sets of exemplars that a judge tells apart; the second is the target.
CLASSES = ("source", "target")
#: A judge that is right less often than this says little.
ENOUGH = 0.8


@dataclass(frozen=True)
class JudgeModel:
    """What a run's judge is made from beside the exemplars, as the driver found it and ships it to the actors."""

    name: str
    """``alexnet``, or the URI of the user's own classifier without credentials."""
    sha256: str
    """Of AlexNet's weights, or of the file."""
    alexnet: Arrays | None = None
    """The weights, for a probe that is fitted to the exemplars."""
    onnx: OnnxClassifier | None = None
    """The classifier, which needs no exemplars."""


@dataclass(frozen=True)
class JudgeReport:
    """What is told of a judge in ``run.json`` and in a manifold's record."""

    name: str
    sha256: str
    """See ``JudgeModel``."""
    accuracy: float | None = None
    """Share of the exemplars that it calls right, balanced over the classes, 0 to 1; None where it is not known."""
    folds: int = 0
    """Of the cross-validation; 0 for a classifier of the user's own, which is tried on the exemplars as it is."""
    strength: float | None = None
    """The probe's inverse strength of the penalty, scikit-learn's ``C``."""

    @classmethod
    def from_json(cls, content: object) -> JudgeReport | None:
        """Return the report that a record holds; None where it holds none."""
        if not isinstance(content, Mapping):
            return None
        try:
            return cls(**content)
        except TypeError:
            return None

    def as_json(self) -> dict[str, Any]:
        """Return it as a record holds it."""
        return asdict(self)

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"judge {self.name}, of unknown accuracy"
        held_out = f"held-out exemplars, {counted(self.folds, 'fold')}" if self.folds else "exemplars"
        return f"judge {self.name}, right on {self.accuracy:.1%} of {held_out}"

    def log(self) -> None:
        """Log it; warn of a judge that is seldom right, or whose accuracy could not be found."""
        logger.info("The %s.", self)
        if self.accuracy is None:
            logger.warning(
                "How often the judge is right is not known: for a cross-validation each class needs exemplars of at "
                "least 2 groups (2 exemplars without --group-column), and a saved manifold tries no classifier."
            )
        elif self.accuracy < ENOUGH:
            logger.warning(
                "The judge is right on only %.1f%% of the exemplars: its verdicts say little. More exemplars, or "
                "classes that differ more, make a better one.",
                100 * self.accuracy,
            )


def load_judge(config: JobConfig) -> JudgeModel | None:
    """Return what the run's judge is made from; None for a run without one.

    Raises:
        SettingsError: AlexNet's weights or the classifier cannot be had; says what to do.
    """
    judge = job_of(config).judging(config).judge
    if judge == "none":
        return None
    if judge == "alexnet":
        weights = load_alexnet()
        return JudgeModel(judge, weights.sha256, alexnet=weights.arrays)
    classifier = load_classifier(judge)
    return JudgeModel(classifier.uri, classifier.sha256, onnx=classifier)


def make_judge(
    model: JudgeModel | None, exemplars: Mapping[str, Array], config: JobConfig, device: str
) -> Judge | None:
    """Build a run's judge on a device.

    Parameters:
        model: what ``load_judge`` returned.
        exemplars: what was learned of the exemplars, with the arrays of ``fit_probe`` where the judge is a probe.
        config: the run's options.
        device: torch device.
    """
    margin = job_of(config).judging(config).judge_margin
    if model is None:
        return None
    if model.onnx is not None:
        return OnnxJudge(model.onnx, margin)
    assert model.alexnet is not None
    return ProbeJudge(model.alexnet, exemplars, torch.device(device), margin)


class JudgedPictures(ExemplarPictures):
    """Exemplars on their way to a job that learns from them; keeps what the judge sees of each, and no picture.

    Parameters:
        pictures: reads the exemplars.
        model: what the judge is made from.
        device: torch device.
    """

    def __init__(self, pictures: ExemplarPictures, model: JudgeModel, device: str) -> None:
        self._pictures, self._model = pictures, model
        self._look: Callable[[Tensor], Tensor]
        if model.onnx is not None:
            self._look = OnnxJudge(model.onnx)
        else:
            assert model.alexnet is not None
            self._look = ProbeFeatures(model.alexnet, torch.device(device))
        self._seen: list[Array] = []
        self._target: list[bool] = []
        self._groups: list[str | None] = []

    @property
    def count(self) -> int:
        """Exemplars of all sets, usable or not."""
        return self._pictures.count

    def pictures(self, option: str) -> Iterator[tuple[Array, ImageIdentity]]:
        """Yield a set's pictures, as the reader does."""
        batch: list[Array] = []
        for picture, identity in self._pictures.pictures(option):
            if option in CLASSES:
                if not fits_batch(batch, picture):
                    self._see(batch)
                    batch = []
                batch.append(picture)
                self._target.append(option == CLASSES[1])
                self._groups.append(identity.group)
            yield picture, identity
        if batch:
            self._see(batch)

    def judge(self, weights: Array | None = None) -> tuple[Arrays, JudgeReport]:
        """Return the judge's arrays, none for a classifier of the user's own, and how good it is.

        Parameters:
            weights: (K,) how much each exemplar counts within its class, in the order in which they were read; None
                counts all alike. More of them, such as a basis's, do not count.

        Raises:
            SettingsError: all exemplars of a class have the weight 0.
        """
        seen, target = np.concatenate(self._seen), np.array(self._target)
        weights = None if weights is None else np.asarray(weights, np.float64)[: len(target)]
        try:
            if self._model.onnx is not None:
                accuracy = balanced_accuracy(seen, target, weights)
                return {}, JudgeReport(self._model.name, self._model.sha256, accuracy)
            probe = fit_probe(seen, target, self._groups, weights)
        except ValueError as error:
            raise SettingsError(f"No judge can be fitted to these exemplars: {error}. Say --judge none.") from error
        report = JudgeReport(self._model.name, self._model.sha256, probe.accuracy, probe.folds, probe.strength)
        return probe.arrays, report

    def _see(self, batch: list[Array]) -> None:
        images = torch.stack([to_tensor(rgb) for rgb in batch])
        self._seen.append(self._look(images).cpu().numpy())
