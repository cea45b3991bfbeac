"""The two kinds of actor: each holds a model, does a shard at a time, and turns a bad image into an error row."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
import torch

from dmt_ray.jobs.exemplars import ExemplarSets, LearnReport, learn_exemplars
from dmt_ray.jobs.job import Arrays, JobConfig
from dmt_ray.jobs.judging import JudgeModel
from dmt_ray.logs import set_up_logging
from dmt_ray.output.commit import commit_shard
from dmt_ray.output.displacements import SavedDisplacement, saved_displacements
from dmt_ray.output.expected import Expected
from dmt_ray.output.input_columns import InputColumns
from dmt_ray.output.plan import Plan, load_plan, plan_from_bytes
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.retry_failed import failed_items, with_kept_rows
from dmt_ray.output.rows import consistent
from dmt_ray.output.shard_file import DamagedShardError
from dmt_ray.pipeline.attempts import EXEMPLARS, Place
from dmt_ray.pipeline.bisecting import DeviceLostError
from dmt_ray.pipeline.crash_report import CrashTrace, kill_after, start_crash_trace
from dmt_ray.pipeline.devices import claim_device
from dmt_ray.pipeline.metrics import Metrics
from dmt_ray.pipeline.shard_processor import ShardProcessor
from dmt_ray.pipeline.summary import ShardSummary, summarize
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)

#: Seconds between two notes of how many exemplars were read.
NOTE_S = 1.0


@dataclass(frozen=True)
class Shared:
    """What every actor is made from. The arrays lie once in the object store of each node."""

    arrays: ray.ObjectRef[Arrays]
    exemplars: ray.ObjectRef[Arrays]
    lpips: ray.ObjectRef[Arrays | None]
    judge: ray.ObjectRef[JudgeModel | None]
    plan: ray.ObjectRef[bytes | None]
    """The plan's file, where the one in the output lacks secrets (``--mask-plan``)."""
    config: JobConfig
    weights_label: str
    fingerprint: str
    """Of the run's settings; every shard's file is stamped with it."""
    retry: frozenset[int]
    """Shards of which only the images with error rows are done."""
    attempts_actor: Any
    """Handle of the run's ``Attempts``."""
    metrics: Metrics | None = None
    """What the run's metrics are told by; None without ``--metrics``."""


class ShardActor:
    """What both kinds of actor share: a ``ShardProcessor`` on the device that Ray gave this process."""

    def __init__(self, shared: Shared, threads: int) -> None:
        self.place = note_place(shared.attempts_actor)
        configure_worker(threads)
        self.gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        self.shared = shared
        node = ray.util.get_node_ip_address()
        self.worker = f"{node}:{os.getpid()}" + "".join(f" gpu {gpu}" for gpu in self.gpus)
        arrays, exemplars, lpips, judge = ray.get([shared.arrays, shared.exemplars, shared.lpips, shared.judge])
        self.processor = ShardProcessor(
            arrays,
            exemplars,
            shared.config,
            device=claim_device(self.gpus, node, allow_cpu=shared.config.compute.allow_cpu_fallback),
            weights_label=shared.weights_label,
            fingerprint=shared.fingerprint,
            worker=self.worker,
            lpips=lpips,
            judge=judge,
            containers=self.plan.containers,
            gpu_share=float(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)),
        )
        shared.attempts_actor.note_actor.remote(type(self).__name__)

    def loaded(self) -> Place:
        """Return where this process runs, once the model is loaded."""
        return self.place

    @functools.cached_property
    def plan(self) -> Plan:
        """The run's frozen plan, of which an actor reads the shards that it does."""
        data = ray.get(self.shared.plan)
        return load_plan(self.shared.config.output.output) if data is None else plan_from_bytes(data)

    @functools.cached_property
    def carrier(self) -> InputColumns:
        """Adds the input's own columns."""
        return InputColumns(self.plan.input_columns, self.plan.containers)

    @functools.cached_property
    def expected(self) -> Expected:
        """What the run's shard files must be."""
        return expected_of(self.shared, self.plan)

    def saved(self, shard: Shard) -> dict[str, SavedDisplacement] | None:
        """Return what an earlier run of traversals made of a shard's images; None when this run moves them."""
        place = self.shared.config.inputs.displacements
        return None if place is None else saved_displacements(place, shard)

    def traverse(self, shard: Shard, items: Sequence[InputItem]) -> pa.Table:
        """Read and move some images of a shard. Who retries has mended photos, in shards not yet begun too."""
        retrying = self.shared.config.run.retry_failed
        return self.processor.traverse(items, self.saved(shard), accept_changed=retrying)

    def begin(self, stage: str, shard: int) -> int:
        """Ask to begin a stage of a shard; return the number of this try, or 0: no. Without an answer it is 1."""
        try:
            return int(ray.get(self.shared.attempts_actor.begin.remote(stage, shard), timeout=60))
        except ray.exceptions.RayError as error:
            logger.warning("No count of attempts for shard %d: %s", shard, error)
            return 1


class TraversalActor(ShardActor):
    """Numbers of shards in, tables of sources and displacements out."""

    def traverse_shard(self, number: int) -> tuple[pa.Table | None, int]:
        """Traverse one shard.

        Returns a table of ``TRAVERSED_SCHEMA`` and how often this was begun; None and 0 when it must not begin.
        """
        attempts = self.begin("traverse", number)
        if not attempts:
            return None, 0
        shard = self.plan.file.shard(number)
        timeout = self.shared.config.run.shard_timeout
        with kill_after(timeout), leaving_a_lost_device():
            return self.traverse(shard, items_todo(self.shared, shard, self.expected)), attempts


class ReconstructionActor(ShardActor):
    """Tables of displacements in, committed Parquet files out, and a small summary for the driver."""

    def finish(self, number: int, traversed: pa.Table, attempts: int) -> ShardSummary | None:
        """Reconstruct and commit one shard; None when it must not begin."""
        begun = self.begin("reconstruct", number)
        if not begun:
            return None
        shard = self.plan.file.shard(number)

        def edit(items: Sequence[InputItem]) -> pa.Table:
            return self.processor.reconstruct(self.traverse(shard, items), begun)

        timeout = self.shared.config.run.shard_timeout
        with kill_after(timeout), leaving_a_lost_device():
            table = self.processor.reconstruct(traversed, max(attempts, begun))
            summary = finish_shard(self.shared, self.carrier, self.expected, shard, table, edit)
        return replace(
            summary,
            worker=self.worker,
            device=str(self.processor.device),
            gpus=",".join(self.gpus),
            visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )


class IsolationActor(ShardActor):
    """Both stages for one image at a time, in a process that may well die over it."""

    def ready(self) -> CrashTrace:
        """Tell that the model is loaded: a death from here on has to do with an image, and leaves a trace."""
        return start_crash_trace()

    def edit(self, shard: int, item: InputItem, attempts: int) -> bytes:
        """Return the rows of an image of a shard as an Arrow IPC stream."""
        timeout = self.shared.config.run.shard_timeout
        with kill_after(timeout), leaving_a_lost_device():
            traversed = self.traverse(self.plan.file.shard(shard), [item])
            return to_ipc(self.processor.reconstruct(traversed, attempts))


def make_exemplars(
    arrays: Arrays, sets: ExemplarSets, config: JobConfig, threads: int, judge: JudgeModel | None, attempts_actor: Any
) -> tuple[Arrays, LearnReport]:
    """Make the exemplars once, on a GPU when Ray gave one; they stay in the object store. See learn_exemplars."""
    note_place(attempts_actor)
    configure_worker(threads)
    node, allow_cpu = ray.util.get_node_ip_address(), config.compute.allow_cpu_fallback
    device = claim_device(ray.get_gpu_ids(), node, allow_cpu=allow_cpu)
    total, noted = sum(len(found.items) for found in sets.values()), 0.0

    def note(read: int) -> None:
        nonlocal noted
        if read == total or time.monotonic() - noted >= NOTE_S:
            noted = time.monotonic()
            attempts_actor.note_exemplars.remote(read)

    return learn_exemplars(arrays, sets, config, device, judge, note)


def note_place(attempts_actor: Any) -> Place:
    """Tell the run's ``Attempts`` where this process runs; return it."""
    context = ray.get_runtime_context()
    place = Place(context.get_node_id(), ray.util.get_node_ip_address(), os.getpid())
    attempts_actor.note_place.remote(context.get_actor_id() or EXEMPLARS, place)
    return place


def expected_of(shared: Shared, plan: Plan) -> Expected:
    """Return what the run's shard files must be."""
    config = shared.config
    return Expected.of(
        config.output.output,
        plan,
        len(config.strengths),
        shared.fingerprint,
        traversal_only=config.output.traversal_only,
    )


def items_todo(shared: Shared, shard: Shard, expected: Expected) -> Sequence[InputItem]:
    """Return the images of a shard that this run does."""
    return failed_items(shard, expected) if shard.number in shared.retry else shard.items


def finish_shard(
    shared: Shared,
    carrier: InputColumns,
    expected: Expected,
    shard: Shard,
    table: pa.Table,
    edit: Callable[[Sequence[InputItem]], pa.Table],
) -> ShardSummary:
    """Commit a shard; return the figures of the rows that this run made.

    Parameters:
        shared: what the run's actors share.
        carrier: adds the input's own columns.
        expected: what the run's shard files must be.
        shard: with all its images.
        table: the rows of those that ``items_todo`` gave.
        edit: makes the rows of the other images, where those in the shard's file were damaged in the meantime.
    """
    if table.num_rows:
        retried = shard.number in shared.retry
        done = set(table["id"].to_pylist())

        def finished(rows: pa.Table, items: Sequence[InputItem]) -> pa.Table:
            return consistent(carrier.add(rows, items), items, expected)

        rows = finished(table, [item for item in shard.items if item.id in done or not retried])
        table = rows
        if retried:
            try:
                rows = with_kept_rows(shard, rows, expected)
            except DamagedShardError as error:
                logger.warning("Shard %d is damaged, and is done again as a whole: %s.", shard.number, error)
                others = [item for item in shard.items if item.id not in done]
                rows = with_kept_rows(shard, pa.concat_tables([rows, finished(edit(others), others)]), expected)
        commit_shard(shard, rows, expected)
    return summarize(shard.number, table)


@contextmanager
def leaving_a_lost_device() -> Iterator[None]:
    """End this process for good on ``DeviceLostError``: Ray starts a new one and tries the shard again."""
    try:
        yield
    except DeviceLostError as error:
        logger.error("The device is lost, and this process ends for a new one: %s", error)
        logging.shutdown()
        os._exit(1)


def configure_worker(threads: int) -> None:
    """Set up logging and the number of torch threads of a worker process."""
    set_up_logging(logging.WARNING, "%(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(threads)


def to_ipc(table: pa.Table) -> bytes:
    """Serialise a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes | pa.Buffer) -> pa.Table:
    """Read a table back from an Arrow IPC stream."""
    return pa.ipc.open_stream(data).read_all()
