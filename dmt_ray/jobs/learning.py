"""Models: what a job has learned, with the weights that it was learned with; learned anew, saved, or opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dmt_ray.jobs.exemplar_sets import balance_record
from dmt_ray.jobs.exemplars import ExemplarSets, LearnReport, check_exemplars, content_checksum, learn_exemplars
from dmt_ray.jobs.job import Arrays, JobConfig
from dmt_ray.jobs.judging import JudgeModel, load_judge
from dmt_ray.jobs.manifolds import (
    LearnedSet,
    apply_manifold_settings,
    check_judge,
    check_weights,
    open_manifold,
    save_manifold,
)
from dmt_ray.storage.models.hashed_weights import Weights
from dmt_ray.storage.models.manifolds import open_arrays
from dmt_ray.storage.models.weights import resolve_weights


@dataclass(frozen=True)
class LearnedModel:
    """All that edits are made with."""

    config: JobConfig
    """The options that it was learned or opened with."""
    weights: Weights
    exemplars: Arrays
    """What ``learn_exemplars`` returned."""
    judge: JudgeModel | None
    report: LearnReport
    sets: Mapping[str, LearnedSet]
    """The sets of exemplars by their content."""
    balance: Mapping[str, Any] | None = None
    """See ``balance_record``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of later edits that are saved with it."""

    def save(self, place: str) -> None:
        """Save it as a manifold at a folder or URI; see ``save_manifold``.

        Raises:
            StorageError: it cannot be written.
        """
        save_manifold(
            place,
            self.config,
            self.weights.sha256,
            self.sets,
            self.exemplars,
            self.balance,
            self.report.judge,
            self.options,
        )


def usable_device() -> str:
    """Return the torch device to work on in this process: a GPU where there is one."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def learn_model(config: JobConfig, sets: ExemplarSets, device: str) -> LearnedModel:
    """Learn from exemplars in this process.

    Parameters:
        config: the options.
        sets: the exemplars.
        device: torch device.

    Raises:
        SettingsError: a set of exemplars or the weights cannot be used.
        StorageError: a place cannot be reached.
    """
    check_exemplars(config, sets)
    weights = resolve_weights(config.model.backbone, config.model.weights)
    judge = load_judge(config)
    exemplars, report = learn_exemplars(weights.arrays, sets, config, device, judge)
    learned = {
        option: LearnedSet(len(found.items), content_checksum(config, option, found))
        for option, found in sets.items()
    }
    return LearnedModel(config, weights, exemplars, judge, report, learned, balance_record(sets))


def open_model(place: str, config: JobConfig) -> LearnedModel:
    """Open what was saved as a manifold, for edits in this process.

    Parameters:
        place: a folder or URI.
        config: the options; what the manifold decides is taken from there.

    Raises:
        SettingsError: it is another job's, or an option or the weights do not go with it.
        StorageError: it is missing or damaged.
    """
    manifold = open_manifold(place, config.job)
    config = apply_manifold_settings(config, manifold)
    weights = resolve_weights(config.model.backbone, config.model.weights)
    check_weights(manifold, weights.sha256)
    judge = load_judge(config)
    report = LearnReport([], check_judge(manifold, judge))
    exemplars = open_arrays(place)[1]
    return LearnedModel(config, weights, exemplars, judge, report, manifold.sets, manifold.balance, manifold.options)
