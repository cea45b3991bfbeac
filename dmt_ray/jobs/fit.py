"""``dmt-ray fit``: learn from exemplars once, and save it for any number of runs.

Of two classes it makes a manifold for transform; of colour photos (--reference), a bank for colorize.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from dmt_ray.config import LOCAL_RAY, InputConfig, JudgeConfig, OutputConfig, ray_host_and_port, require
from dmt_ray.jobs.colorize import ColorizeConfig, ReferenceConfig
from dmt_ray.jobs.transform import ExemplarConfig, TransformConfig
from dmt_ray.method.settings import (
    ModelConfig,
    PriorUse,
    Standardise,
    TransformTraversalConfig,
    TraversalConfig,
    TraversalKind,
)
from dmt_ray.storage import files
from dmt_ray.words import agreed, counted

if TYPE_CHECKING:
    from dmt_ray.jobs.bank_chunks import MakeChunks

logger = logging.getLogger(__name__)

#: The address of no Ray at all.
NO_RAY = "none"
#: A log line for so many chunks of references.
_TOLD_CHUNKS = 10


@dataclass(frozen=True)
class FitExemplars(ExemplarConfig):
    """What to learn from: two classes of photos for transform, or colour photos for colorize."""

    reference: str | None = None
    """Colour photos for `dmt-ray colorize --manifold`, instead of two classes."""

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.reference is None:
            super().__post_init__()
            return
        require(bool(self.reference.strip()), "reference", self.reference, "a path or URI")
        for option in fields(ExemplarConfig):
            value = getattr(self, option.name)
            known = option.name == "exemplar_limit" or value == option.default
            require(known, option.name, value, "left out with --reference")
        limit = self.exemplar_limit
        require(limit is None or limit >= 1, "exemplar_limit", limit, "at least 1")


@dataclass(frozen=True)
class FitConfig:
    """Learn from two classes of photos, or from colour photos, and save it for any number of runs."""

    output: str
    """Folder or URI for manifold.json and the arrays."""
    exemplars: FitExemplars
    model: ModelConfig = field(default_factory=ModelConfig)
    traversal: TraversalKind = "global"
    """What the manifold is for: global moves whole images, local each spatial cell."""
    standardise: Standardise = "channel"
    """One mean and deviation per channel, or per unit (with a floor) as in the paper, or none."""
    prior: PriorUse = TraversalConfig.prior
    """--reference: learn a colour prior: auto from 24 references on, on, or off."""
    judge: str = JudgeConfig.judge
    """alexnet, a probe on AlexNet's features that is saved with the manifold, or none."""
    seed: int = 0
    """Seed for the draw of --exemplar-limit."""
    ray_address: str = "auto"
    """--reference: the Ray whose actors describe the references: HOST:PORT of a cluster's head, ray://HOST:PORT, or
    local for one of its own; none for this process alone. auto takes a cluster that answers when 2,000 references or
    more are left to describe, and starts none."""
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
        if self.exemplars.reference is not None:
            require(not self.model.normalise, "normalise", True, "left out with --reference")
        TraversalConfig(prior=self.prior)
        address = self.ray_address
        named = address in ("auto", LOCAL_RAY, NO_RAY) or ray_host_and_port(address) is not None
        require(named, "ray_address", address, "auto, local, none, HOST:PORT or ray://HOST:PORT")
        alone = self.exemplars.reference is not None or address == "auto"
        require(alone, "ray_address", address, "left out without --reference: two classes are learned in one process")

    def as_colorize(self) -> ColorizeConfig:
        """Return the options that colorize would learn the same bank with."""
        return ColorizeConfig(
            inputs=InputConfig(self.output, seed=self.seed, max_pixels=self.max_pixels, allow_uri=self.allow_uri),
            output=OutputConfig(self.output),
            references=ReferenceConfig(self.exemplars.reference, self.exemplars.exemplar_limit),
            model=self.model,
            traversal=TraversalConfig(prior=self.prior),
        )

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


def fit(config: FitConfig, emit: Callable[[str], None] = logger.info, make_chunks: MakeChunks | None = None) -> None:
    """Learn from the exemplars in this process, on a GPU when there is one, and save it.

    Parameters:
        config: all options; ``pipeline/fitting.py`` acts on --ray-address.
        emit: gets what was done, a line at a time.
        make_chunks: describes references; None: this process does.

    Raises:
        SettingsError: a set of exemplars or the weights cannot be used.
        StorageError: a place cannot be reached.
    """
    if config.exemplars.reference is not None:
        _fit_bank(config, emit, make_chunks)
        return

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
    sizes = ", ".join(counted(int(arrays[f"{option}s"]), option) for option in ("source", "target"))
    total = sum(array.nbytes for array in arrays.values())
    emit(f"Manifold: {files.masked(config.output)}")
    emit(f"{sizes}, {len(report.skipped)} left out; {total / 1e6:.0f} MB; layers {' '.join(job.model.taps)}.")
    if model.balance is not None:
        emit(describe_balance(model.balance))
    if report.judge is not None:
        emit(f"With the {report.judge}.")


def _fit_bank(config: FitConfig, emit: Callable[[str], None], make_chunks: MakeChunks | None) -> None:
    """Build a bank of references for colorize and save it."""
    import torch

    from dmt_ray.jobs.bank_chunks import make_here
    from dmt_ray.jobs.color_bank import build_color_bank
    from dmt_ray.jobs.exemplars import check_exemplars, content_checksum, list_exemplars
    from dmt_ray.storage.models.weights import resolve_weights

    job = config.as_colorize()
    files.check_writable(config.output)
    sets = list_exemplars(job)
    check_exemplars(job, sets)
    weights = resolve_weights(job.model.backbone, job.model.weights)
    found = sets["reference"]
    content = content_checksum(job, "reference", found)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"

    def tell(done: int, total: int) -> None:
        if done % _TOLD_CHUNKS == 0:
            logger.info("Chunks of references: %d of %d.", done, total)

    made_by = (device, tell, make_chunks or make_here)
    built = build_color_bank(config.output, job, found, weights.arrays, weights.sha256, content, *made_by)
    for line in built.skipped:
        logger.warning("A reference was left out: %s", line)
    emit(f"Manifold: {files.masked(config.output)}")
    left_out = len(found.items) - built.references
    prior = "with a colour prior" if built.prior else "without a colour prior"
    emit(f"{counted(built.references, 'reference')}, {left_out} left out; {built.nbytes / 1e6:.0f} MB; {prior}.")
    if built.resumed:
        were = agreed(built.resumed, "was", "were")
        emit(f"{counted(built.resumed, 'chunk')} {were} there already from a build that had ended.")
