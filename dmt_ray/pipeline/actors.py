"""The two kinds of actor: each holds a model, does a shard at a time, and turns a bad image into an error row."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch

from dmt_ray.jobs.editors import JobConfig
from dmt_ray.jobs.exemplars import ExemplarSets, learn_exemplars
from dmt_ray.output.commit import commit_shard
from dmt_ray.output.displacements import Saved, saved_displacements
from dmt_ray.output.input_columns import InputColumns
from dmt_ray.output.plan import Plan, Shard, load_plan
from dmt_ray.output.retry_failed import failed_items, with_kept_rows
from dmt_ray.pipeline.crash_report import CrashTrace, kill_after, start_crash_trace
from dmt_ray.pipeline.resources import pick_device
from dmt_ray.pipeline.shard_processor import DeviceLostError, ShardProcessor
from dmt_ray.storage.inputs.registry import InputItem

logger = logging.getLogger(__name__)

#: One row per shard between the two kinds of actor.
PAYLOAD_SCHEMA = pa.schema([("shard", pa.int64()), ("payload", pa.large_binary()), ("attempts", pa.int64())])

#: One row per committed shard, for the driver: no pictures.
SUMMARY_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("rows", pa.int64()),
        ("errors", pa.int64()),
        ("seconds_read", pa.float64()),
        ("seconds_traverse", pa.float64()),
        ("seconds_reconstruct", pa.float64()),
        ("worker", pa.string()),
        ("device", pa.string()),  # where the reconstruction's network is
        ("gpus", pa.string()),  # the GPU ids Ray gave the reconstruction actor, joined by commas
        ("visible_gpus", pa.string()),  # its CUDA_VISIBLE_DEVICES
    ]
)


@dataclass(frozen=True)
class Shared:
    """What every actor is made from. The arrays lie once in the object store of each node."""

    arrays: ray.ObjectRef[dict[str, Any]]
    exemplars: ray.ObjectRef[dict[str, Any]]
    lpips: ray.ObjectRef[dict[str, Any] | None]
    config: JobConfig
    weights_label: str
    fingerprint: str
    """Of the run's settings; every shard's file is stamped with it."""
    retry: frozenset[int]
    """Shards of which only the images with error rows are done."""
    attempts_actor: Any
    """Handle of the run's ``Attempts``."""


class ShardActor:
    """What both kinds of actor share: a workbench on the device that Ray gave this process."""

    def __init__(self, shared: Shared, threads: int) -> None:
        configure_worker(threads)
        self.gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        self.shared = shared
        self.worker = f"{ray.util.get_node_ip_address()}:{os.getpid()}" + "".join(f" gpu {gpu}" for gpu in self.gpus)
        arrays, exemplars, lpips = ray.get([shared.arrays, shared.exemplars, shared.lpips])
        self.processor = ShardProcessor(
            arrays,
            exemplars,
            shared.config,
            device=pick_device(self.gpus, torch.cuda.is_available()),
            weights_label=shared.weights_label,
            worker=self.worker,
            lpips=lpips,
        )

    @functools.cached_property
    def plan(self) -> Plan:
        """The run's frozen plan, of which an actor reads the shards that it does."""
        return load_plan(self.shared.config.output.output)

    @functools.cached_property
    def carrier(self) -> InputColumns:
        """Adds the input's own columns."""
        return InputColumns(self.plan.input_columns)

    def saved(self, shard: int) -> dict[str, Saved] | None:
        """Return what an earlier run of traversals made of a shard's images; None when this run moves them."""
        place = self.shared.config.inputs.displacements
        return None if place is None else saved_displacements(place, shard)

    def begin(self, stage: str, shard: int) -> int:
        """Ask to begin a stage of a shard; return the number of this try, or 0: no. Without an answer it is 1."""
        try:
            return int(ray.get(self.shared.attempts_actor.begin.remote(stage, shard), timeout=60))
        except ray.exceptions.RayError as error:
            logger.warning("No count of attempts for shard %d: %s", shard, error)
            return 1


class TraversalActor(ShardActor):
    """Shards of items in, shards of sources and displacements out."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take a table of shard numbers; return a table of ``PAYLOAD_SCHEMA``."""
        done = (self.one(number) for number in batch["shard"].to_pylist())
        return _table(PAYLOAD_SCHEMA, [row for row in done if row is not None])

    def one(self, number: int) -> dict[str, Any] | None:
        """Traverse one shard; None when it must not begin."""
        attempts = self.begin("traverse", number)
        if not attempts:
            return None
        with kill_after(self.shared.config.run.shard_timeout), leaving_a_lost_device():
            table = self.processor.traverse(items_todo(self.shared, self.plan.file.shard(number)), self.saved(number))
        return {"shard": number, "payload": to_ipc(table), "attempts": attempts}


class ReconstructionActor(ShardActor):
    """Shards of displacements in, committed Parquet files out, and a small summary for the driver."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take a table of ``PAYLOAD_SCHEMA``; return a table of ``SUMMARY_SCHEMA``."""
        columns = zip(batch["shard"], batch["payload"], batch["attempts"], strict=True)
        done = (self.one(shard.as_py(), payload.as_buffer(), tries.as_py()) for shard, payload, tries in columns)
        return _table(SUMMARY_SCHEMA, [row for row in done if row is not None])

    def one(self, number: int, payload: pa.Buffer, attempts: int) -> dict[str, Any] | None:
        """Reconstruct and commit one shard; None when it must not begin."""
        begun = self.begin("reconstruct", number)
        if not begun:
            return None
        with kill_after(self.shared.config.run.shard_timeout), leaving_a_lost_device():
            table = self.processor.reconstruct(from_ipc(payload), max(attempts, begun))
            summary = finish_shard(self.shared, self.carrier, self.plan.file.shard(number), table)
        return summary | {
            "worker": self.worker,
            "device": str(self.processor.device),
            "gpus": ",".join(self.gpus),
            "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }


class IsolationActor(ShardActor):
    """Both stages for one image at a time, in a process that may well die over it."""

    def ready(self) -> CrashTrace:
        """Tell that the model is loaded: a death from here on has to do with an image, and leaves a trace."""
        return start_crash_trace()

    def edit(self, shard: int, item: InputItem, attempts: int) -> bytes:
        """Return the rows of an image of a shard as an Arrow IPC stream."""
        with kill_after(self.shared.config.run.shard_timeout), leaving_a_lost_device():
            return to_ipc(self.processor.reconstruct(self.processor.traverse([item], self.saved(shard)), attempts))


def make_exemplars(
    arrays: dict[str, Any], sets: ExemplarSets, config: JobConfig, threads: int
) -> tuple[dict[str, Any], list[str]]:
    """Make the exemplars once, on a GPU when Ray gave one; they stay in the object store. See learn_exemplars."""
    configure_worker(threads)
    device = pick_device(ray.get_gpu_ids(), torch.cuda.is_available())
    return learn_exemplars(arrays, sets, config, device)


def items_todo(shared: Shared, shard: Shard) -> Sequence[InputItem]:
    """Return the images of a shard that this run does."""
    if shard.number in shared.retry:
        return failed_items(shared.config.output.output, shard)
    return shard.items


def finish_shard(shared: Shared, carrier: InputColumns, shard: Shard, table: pa.Table) -> dict[str, Any]:
    """Commit a shard; return its figures by name of ``SUMMARY_SCHEMA``, see ``summarise``.

    Parameters:
        shared: what the run's actors share.
        carrier: adds the input's own columns.
        shard: with all its images.
        table: the rows of those that ``items_todo`` gave.
    """
    output = shared.config.output.output
    if table.num_rows:
        done = set(table["id"].to_pylist())
        table = carrier.add(table, [item for item in shard.items if item.id in done])
        whole = with_kept_rows(output, shard, table) if shard.number in shared.retry else table
        commit_shard(output, shard.number, [whole], shared.fingerprint)
    return summarise(shard.number, table)


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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(threads)


def summarise(shard: int, table: pa.Table) -> dict[str, Any]:
    """Return the figures of a shard's rows that the driver adds up, by name of ``SUMMARY_SCHEMA``."""
    seconds = ("seconds_read", "seconds_traverse", "seconds_reconstruct")
    return {
        "shard": shard,
        "rows": table.num_rows,
        "errors": table["status"].to_pylist().count("error"),
        **{name: sum(value or 0.0 for value in table[name].to_pylist()) for name in seconds},
    }


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


def _table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema)
