"""``dmt-ray fit``: learn a manifold of two classes once, without Ray, and save it for any number of runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from dmt_ray.config import InputConfig, JudgeConfig, OutputConfig, require
from dmt_ray.jobs.transform import ExemplarConfig, TransformConfig
from dmt_ray.method.settings import ModelConfig, Standardise, TransformTraversalConfig, TraversalKind
from dmt_ray.storage import files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitConfig:
    """Learn a manifold of two classes of photos and save it for any number of runs."""

    output: str
    """Folder or URI for manifold.json and the arrays."""
    exemplars: ExemplarConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    traversal: TraversalKind = "global"
    """What the manifold is for: global moves whole images, local each spatial cell."""
    standardise: Standardise = "channel"
    """One mean and deviation per channel, or per unit (with a floor) as in the paper, or none."""
    judge: str = JudgeConfig.judge
    """alexnet, a probe on AlexNet's features that is saved with the manifold, or none."""
    seed: int = 0
    """Seed for the draw of --exemplar-limit."""
    max_pixels: int = 200_000_000
    """An exemplar with more pixels (width x height) than this is left out."""
    allow_uri: tuple[str, ...] = ()
    """What lists and tables may name beyond what docs/security.md lets them. Repeatable."""

    def __post_init__(self) -> None:
        """Check what is asked for."""
        require(bool(self.output.strip()), "output", self.output, "a folder or URI")
        known = self.judge in ("alexnet", "none")
        require(known, "judge", self.judge, "alexnet or none; a classifier of your own is named where it judges")
        require(self.exemplars.manifold is None, "manifold", self.exemplars.manifold, "left out: this makes one")

    def as_transform(self) -> TransformConfig:
        """Return the options that a job would learn the same manifold with."""
        return TransformConfig(
            inputs=InputConfig(self.output, seed=self.seed, max_pixels=self.max_pixels, allow_uri=self.allow_uri),
            output=OutputConfig(self.output),
            exemplars=self.exemplars,
            model=self.model,
            traversal=TransformTraversalConfig(traversal=self.traversal, standardise=self.standardise),
            judging=JudgeConfig(self.judge),
        )


def fit(config: FitConfig, emit: Callable[[str], None] = logger.info) -> None:
    """Learn a manifold of two classes in this process, on a GPU when there is one, and save it.

    Parameters:
        config: all options.
        emit: gets what was done, a line at a time.

    Raises:
        SettingsError: a set of exemplars or the weights cannot be used.
        StorageError: a place cannot be reached.
    """
    from dmt_ray.jobs.exemplar_sets import describe_balance
    from dmt_ray.jobs.exemplars import list_exemplars
    from dmt_ray.jobs.learning import learn_model, usable_device

    job = config.as_transform()
    files.check_writable(config.output)
    model = learn_model(job, list_exemplars(job), usable_device())
    arrays, report = model.exemplars, model.report
    for line in report.skipped:
        logger.warning("An exemplar was left out: %s", line)
    if report.judge is not None:
        report.judge.log()
    model.save(config.output)
    sizes = ", ".join(f"{int(arrays[name])} {name}" for name in ("sources", "targets"))
    total = sum(array.nbytes for array in arrays.values())
    emit(f"Manifold: {files.masked(config.output)}")
    emit(f"{sizes}, {len(report.skipped)} left out; {total / 1e6:.0f} MB; layers {' '.join(job.model.taps)}.")
    if model.balance is not None:
        emit(describe_balance(model.balance))
    if report.judge is not None:
        emit(f"With the {report.judge}.")
