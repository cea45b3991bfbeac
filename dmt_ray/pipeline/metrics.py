"""Metrics of a run for Prometheus: rows, errors, seconds, shards and busy actors, on the ports of Ray's nodes.

Only processes of the cluster have such a port behind them. The driver may be a client from outside, so an actor
counts for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmt_ray.errors import ERROR_TYPES, SettingsError
from dmt_ray.jobs.job import JobConfig
from dmt_ray.pipeline.summary import STAGES, ShardSummary

logger = logging.getLogger(__name__)

#: The metrics by name, with what they say. Ray puts ``ray_`` before a name and ``_total`` behind a counter's.
OK_ROWS = "dmt_ok_rows", "Rows with a result, of committed shards."
ERROR_ROWS = "dmt_error_rows", "Error rows by error_type, of committed shards."
STAGE_SECONDS = "dmt_stage_seconds", "Seconds that the rows of committed shards took, by stage."
SHARDS = "dmt_shards", "Shards of this run by state: queued, in_flight, done."
ACTORS_BUSY = "dmt_actors_busy", "Actors that have a shard or an image to do, by stage."

#: What Ray's agent on each node needs to serve metrics; ``ray[default]`` brings it.
_NEEDED = ("prometheus_client", "opentelemetry", "aiohttp_cors")

#: Seconds that the last figures may take to reach Ray's agent.
_LAST_S = 10.0


@dataclass(frozen=True)
class Metrics:
    """How the driver and the actors of a run reach its metrics."""

    counts: Any
    """Handle of the run's ``RunMetrics``."""
    tags: Mapping[str, str]
    """Of all metrics of this run; Ray adds the node's address and the worker's id."""

    def add(self, summary: ShardSummary) -> None:
        """Count the rows of a committed shard."""
        self.counts.add.remote(summary)

    def end(self) -> None:
        """Have the last figures served now: a process that is killed loses those of the last interval."""
        with contextlib.suppress(RayError):  # the actor is gone, as it should be; or the cluster is
            ray.get(self.counts.end.remote(), timeout=_LAST_S)

    def note(self, busy: Mapping[str, int], begun: Collection[int]) -> None:
        """Tell how many actors of each stage are busy, and which shards have begun; others may have been told of."""
        self.counts.note.remote(dict(busy), frozenset(begun))


def start_metrics(config: JobConfig, fingerprint: str, shards: int) -> Metrics | None:
    """Start a run's metrics and log where they can be read; return None without ``--metrics``.

    Parameters:
        config: the run's options.
        fingerprint: of its settings; its first digits tell the metrics of runs apart.
        shards: how many there are to do.

    Raises:
        SettingsError: Ray's agent cannot serve metrics.
    """
    if not config.compute.metrics:
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: Any = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    kind: Any = ray.remote(**options)(RunMetrics)
    tags = {"command": config.job, "run": fingerprint[:12]}
    counts = kind.remote(tags, shards)
    first = metrics_urls(ray.nodes(), ray.get(counts.missing.remote()))[0]
    logger.info("Metrics of run %s: on every node, the first at %s.", tags["run"], first)
    return Metrics(counts, tags)


def metrics_urls(nodes: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> list[str]:
    """Return where the living nodes serve metrics.

    Parameters:
        nodes: as ``ray.nodes`` lists them.
        missing: modules that Ray's agent lacks.

    Raises:
        SettingsError: nowhere.
    """
    urls = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"] and node["MetricsExportPort"]
    ]
    if missing or not urls:
        why = f"Python there lacks {', '.join(missing)}" if missing else "no node has a metrics port"
        raise SettingsError(
            f"--metrics: Ray's agent serves no metrics, because {why}. Install ray[default] on every node and start "
            "its Ray again, or leave --metrics out."
        )
    return urls


class RunMetrics:
    """Counts what the driver knows of a run: rows, seconds, shards and busy actors.

    Parameters:
        tags: of all metrics of this run.
        shards: how many there are to do.
    """

    def __init__(self, tags: Mapping[str, str], shards: int) -> None:
        self._ok = _make(Counter, OK_ROWS, tags)
        self._errors = _make(Counter, ERROR_ROWS, tags, "error_type")
        self._seconds = _make(Counter, STAGE_SECONDS, tags, "stage")
        self._shards = _make(Gauge, SHARDS, tags, "state")
        self._busy = _make(Gauge, ACTORS_BUSY, tags, "stage")
        self._total = shards
        self._begun: set[int] = set()
        self._done: set[int] = set()
        _start_at_zero(self._ok, {})
        for kind in ERROR_TYPES:
            _start_at_zero(self._errors, {"error_type": kind})
        for stage in STAGES:
            _start_at_zero(self._seconds, {"stage": stage})
        self._set_shards()

    @staticmethod
    def missing() -> list[str]:
        """Return what Ray's agent lacks in this Python to serve metrics."""
        return [name for name in _NEEDED if importlib.util.find_spec(name) is None]

    def note(self, busy: Mapping[str, int], begun: Collection[int]) -> None:
        """Note how many actors of each stage are busy, and which shards have begun, in addition to earlier ones."""
        for stage, actors in busy.items():
            self._busy.set(actors, {"stage": stage})
        self._begun |= set(begun)
        self._set_shards()

    def add(self, summary: ShardSummary) -> None:
        """Count the rows of a committed shard."""
        if summary.rows > summary.errors:
            self._ok.inc(summary.rows - summary.errors)
        for kind, rows in summary.error_types.items():
            self._errors.inc(rows, {"error_type": kind})
        for stage in STAGES:
            if (seconds := getattr(summary, f"seconds_{stage}")) > 0:
                self._seconds.inc(seconds, {"stage": stage})
        self._done.add(summary.shard)
        self._set_shards()

    @staticmethod
    def end() -> None:
        """End this process in the way that has it report first."""
        ray.actor.exit_actor()

    def _set_shards(self) -> None:
        begun, done = len(self._begun | self._done), len(self._done)
        for state, shards in (("queued", self._total - begun), ("in_flight", begun - done), ("done", done)):
            self._shards.set(shards, {"state": state})


def _make(kind: Any, name: tuple[str, str], tags: Mapping[str, str], *more: str) -> Any:
    """Return a metric that has the run's tags and others besides."""
    return kind(*name, tag_keys=(*tags, *more)).set_default_tags(dict(tags))


def _start_at_zero(counter: Any, tags: Mapping[str, str]) -> None:
    """Serve a counter before it counts: Prometheus sees no rise in the first value that it meets.

    ``inc`` refuses 0.
    """
    counter._record(0.0, dict(tags))
