"""The jobs there are, by name."""

from __future__ import annotations

from typing import Any

from dmt_ray.jobs.colorize import Colorize
from dmt_ray.jobs.job import Job, JobConfig
from dmt_ray.jobs.transform import Transform

#: A new job is one module and one entry here.
JOBS: dict[str, Job[Any]] = {job.name: job for job in (Colorize(), Transform())}


def job_of(config: JobConfig) -> Job[Any]:
    """Return the job that options belong to."""
    return JOBS[config.job]
