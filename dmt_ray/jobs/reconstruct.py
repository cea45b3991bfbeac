"""The run that makes pictures of displacements which an earlier run saved."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from dmt_ray.config import ColorizeConfig, ReconstructConfig, TransformConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.editors import JobConfig
from dmt_ray.output.run_record import read_run
from dmt_ray.storage import files

_JOBS: dict[str, type[JobConfig]] = {"colorize": ColorizeConfig, "transform": TransformConfig}


def reconstruct_config(config: ReconstructConfig) -> JobConfig:
    """Return the job that makes pictures of displacements: the earlier run's, but for what is asked for now.

    Raises:
        SettingsError: there is no run with ``--traversal-only``.
    """
    place = files.absolute(config.displacements)
    record = read_run(place)
    kind = _JOBS.get(str(record["program"]).split()[-1])
    if kind is None or not record["config"]["output"].get("traversal_only"):
        raise SettingsError(f"{place} is the output of a run that made pictures; it takes one with --traversal-only.")
    job = _restored(kind, record["config"])
    inversion = job.inversion
    for name in ("iterations", "tv_weight"):
        if (value := getattr(config, name)) is not None:
            inversion = replace(inversion, **{name: value})
    restored: JobConfig = replace(
        job,
        inputs=replace(job.inputs, displacements=place),
        output=replace(config.output, shard_size=job.output.shard_size),
        inversion=inversion,
        run=config.run,
        compute=config.compute,
    )
    return restored


def _restored(kind: type[Any], record: Mapping[str, Any]) -> Any:
    """Return a config of the sections and values in ``run.json``."""
    hints = typing.get_type_hints(kind)
    values = {}
    for one in fields(kind):
        if one.name not in record:
            continue
        value = record[one.name]
        if is_dataclass(hints[one.name]):
            values[one.name] = _restored(typing.cast(type, hints[one.name]), value)
        else:
            values[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
