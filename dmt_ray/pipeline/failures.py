"""Log an error that stops a run: in a sentence, or with its traceback when it is a defect of this program."""

from __future__ import annotations

import logging

from ray.exceptions import RayError, RayTaskError

from dmt_ray.errors import DmtError
from dmt_ray.pipeline.cluster import ClusterLostError
from dmt_ray.pipeline.no_progress import NoProgressError
from dmt_ray.pipeline.stopping import GraceOverError
from dmt_ray.pipeline.waiting import WorkersMissingError

logger = logging.getLogger(__name__)

#: Errors that need no traceback: this program's own, and those of a cluster, a network or a disk that fails.
_EXPLAINED = (
    *(DmtError, GraceOverError, ClusterLostError, NoProgressError, WorkersMissingError),
    *(RayError, OSError),
)


def log_failure(error: Exception) -> None:
    """Log why a run stops before its end.

    Parameters:
        error: whatever the run raised. An error that a task raised is judged by its cause.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, _EXPLAINED) and not isinstance(cause, RayTaskError):
        logger.error("The run stopped early: %s", " ".join(str(cause).split()) or type(cause).__name__)
    else:
        logger.error("The run stopped early, by a defect; please report it.", exc_info=error)
