"""``dmt-ray reconstruct``: the options of a run that makes pictures of displacements which an earlier run saved."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from dmt_ray.config import ComputeConfig, OutputConfig, RunConfig, require
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.registry import JOBS
from dmt_ray.output.run_record import read_run
from dmt_ray.storage import files


@dataclass(frozen=True)
class ReconstructConfig:
    """Make the pictures of displacements that a run with --traversal-only saved."""

    displacements: str
    """The --output of that run; its manifold lies beside its shards."""
    output: OutputConfig
    iterations: int | None = None
    """L-BFGS iterations per step at most. Default: what that run was given."""
    tv_weight: float | None = None
    """Weight of total variation. Default: what that run was given."""
    judge: str | None = None
    """transform: who judges results: alexnet, none, or an .onnx file. Default: what that run was given."""
    judge_margin: float | None = None
    """transform: what a decision value must exceed to count as flipped. Default: what that run was given."""
    run: RunConfig = field(default_factory=RunConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        """Check what is asked for."""
        require(not self.output.traversal_only, "traversal_only", True, "left out: the traversal is done")
        path = self.output.save_path
        require(path == 0, "save_path", path, "0: the steps on the way were not saved")


def reconstruct_config(config: ReconstructConfig) -> JobConfig:
    """Return the job that makes pictures of displacements: the earlier run's, but for what is asked for now.

    Raises:
        SettingsError: there is no run with ``--traversal-only``, or its ``run.json`` is damaged.
    """
    place = files.absolute(config.displacements)
    record = read_run(place)
    job = JOBS.get(record.job)
    if job is None or not record.option("output", "traversal_only"):
        raise SettingsError(f"{place} is the output of a run that made pictures; it takes one with --traversal-only.")
    try:
        earlier: JobConfig = _restored(job.config, record.config)
    except (DmtError, TypeError, ValueError, KeyError) as error:
        raise SettingsError(
            f"The options in {record.uri} cannot be used ({error}); make the displacements again."
        ) from error
    asked = {name: getattr(config, name) for name in ("iterations", "tv_weight", "judge", "judge_margin")}
    values = {name: value for name, value in asked.items() if value is not None}
    for name, value in values.items():
        require(earlier.has_option(name), name, value, f"left out: {record.job} has no such option")
    return replace(
        earlier.with_options(values | {"displacements": place}),
        output=replace(config.output, shard_size=earlier.output.shard_size),
        run=config.run,
        compute=config.compute,
    )


def _restored(kind: type[Any], record: Mapping[str, Any]) -> Any:
    """Return options from the sections and values in ``run.json``."""
    hints = typing.get_type_hints(kind)
    values = {}
    for option in fields(kind):
        if option.name not in record:
            continue
        value = record[option.name]
        if is_dataclass(hints[option.name]):
            values[option.name] = _restored(typing.cast(type, hints[option.name]), value)
        else:
            values[option.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
