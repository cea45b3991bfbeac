"""Actors that make the chunks of a bank, each on its GPU or its threads, and write them to the bank's place."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.bank_chunks import BankPlan, Chunk, ChunkMaker, MadeChunk
from dmt_ray.jobs.networks import make_network
from dmt_ray.method.colors.describing import COLOR_LAYERS
from dmt_ray.pipeline.actors import configure_worker
from dmt_ray.pipeline.cluster_nodes import names_lost_node
from dmt_ray.pipeline.devices import NoDeviceError, claim_device
from dmt_ray.pipeline.resources import plan_alone
from dmt_ray.storage import files
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader

logger = logging.getLogger(__name__)

#: A chunk is begun so often when its process dies; nodes that are lost do not count.
TRIES = 3
#: Processes that may die one after the other while they load, before the build gives up.
START_TRIES = 3
#: Seconds between two looks at the cluster.
LOOK_S = 0.5
#: Seconds until the log says that no actor has room.
ROOM_S = 60.0
#: Seconds for which a chunk that an actor wrote may stay hidden, as on a network file system that remembers names.
HIDDEN_S = 15.0
_WITHOUT = "do without the cluster, with --ray-address none"
_SHARED = (
    "All nodes of a cluster must reach the references and the --output: use a folder that they share, or a store "
    f"such as s3://; or {_WITHOUT}."
)


@dataclass(frozen=True)
class Unread:
    """References of a chunk that an actor could not read; the chunk was not written."""

    items: list[InputItem]
    reasons: list[str]
    """Sentences on what was left out, with the ids."""


class ChunkActor:
    """Makes chunks, one at a time, on the device that Ray gave its process."""

    def __init__(self, plan: BankPlan, threads: int) -> None:
        self._plan, self._threads = plan, threads

    def load(self) -> str:
        """Load the network; return the address of this node."""
        configure_worker(self._threads)
        node: str = ray.util.get_node_ip_address()
        device = claim_device(ray.get_gpu_ids(), node, allow_cpu=False, remedy=_WITHOUT)
        network = make_network(self._plan.weights, self._plan.config, device, COLOR_LAYERS)
        self._maker = ChunkMaker(self._plan, network)
        return node

    def make(self, chunk: Chunk, *, as_it_is: bool) -> MadeChunk | Unread:
        """Make a chunk; without ``as_it_is`` only of references that can all be read here."""
        read = self._maker.read(chunk)
        if read.unread and not as_it_is:
            return Unread(read.unread, read.skipped)
        return self._maker.write(chunk, read)


@dataclass(eq=False)
class _Worker:
    actor: Any
    node: str | None = None
    """None until it has loaded."""
    chunk: Chunk | None = None


class ChunkActors:
    """The actors of a build; use it as a context manager, which ends them.

    Each holds a chunk at a time, so that what is in flight is bounded by their number.

    Parameters:
        plan: of the bank.
        chunks: to make.
        look: called several times a second; what it raises ends the build.

    Raises:
        SettingsError: the cluster has neither CPUs nor GPUs.
    """

    def __init__(self, plan: BankPlan, chunks: Sequence[Chunk], look: Callable[[], None]) -> None:
        self._plan, self._look = plan, look
        self._shared = ray.put(plan)
        self._waiting = deque(chunks)
        self._size = plan_alone([node["Resources"] for node in ray.nodes() if node["Alive"]], len(chunks))
        options: Any = {"num_cpus": self._size.num_cpus, "num_gpus": self._size.num_gpus}
        # A dead actor is replaced by another one: Ray's own restarts would keep its chunk on a count of theirs.
        self._kind: Any = ray.remote(**options, max_restarts=0, max_task_retries=0)(ChunkActor)
        self._turns: dict[Any, _Worker] = {}
        """What each actor does, by the reference to its result."""
        self._tries: Counter[int] = Counter()
        self._failed_starts = 0
        self._unreadable: set[int] = set()
        """Chunks with references that this process cannot read either."""
        self._tell_at = time.monotonic() + ROOM_S

    def __enter__(self) -> ChunkActors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._turns.values():
            _end(worker)

    def made(self) -> Iterator[MadeChunk]:
        """Yield each chunk once it is written, in any order.

        Raises:
            SettingsError: a node reaches neither the references nor the place, or a chunk's process died each time.
            ClusterLostError: whatever ``look`` raises.
        """
        left = len(self._waiting)
        references = sum(len(chunk.items) for chunk in self._waiting)
        logger.info("Actors: %s; references to describe: %d; chunks: %d.", self._size, references, left)
        for _ in range(self._size.actors):
            self._start()
        while left:
            self._look()
            self._tell_of_room()
            done, _ = ray.wait(list(self._turns), num_returns=1, timeout=LOOK_S)
            for reference in done:
                chunk = self._taken(self._turns.pop(reference), reference)
                if chunk is not None:
                    left -= 1
                    yield chunk

    def _tell_of_room(self) -> None:
        """Log, once, that no actor has had room for a while."""
        if time.monotonic() > self._tell_at and all(worker.node is None for worker in self._turns.values()):
            self._tell_at = math.inf
            logger.warning(
                "No actor has begun yet. Each asks for %s; others may hold that, or nodes are still to come.",
                self._size.share,
            )

    def _start(self) -> None:
        actor = self._kind.remote(self._shared, self._size.threads)
        self._turns[actor.load.remote()] = _Worker(actor)

    def _taken(self, worker: _Worker, reference: Any) -> MadeChunk | None:
        """Take what an actor has done, and give it the next chunk; return a chunk that is written."""
        chunk, worker.chunk = worker.chunk, None
        try:
            result: str | MadeChunk | Unread = ray.get(reference)
            if isinstance(result, str):
                worker.node, self._failed_starts, self._tell_at = result, 0, math.inf
            elif isinstance(result, Unread):
                assert chunk is not None
                check_unread(self._plan, _named(worker), result)
                self._unreadable.add(chunk.number)
                self._waiting.appendleft(chunk)
            else:
                check_visible(self._plan, _named(worker), result, self._look)
        except RayTaskError as error:
            _end(worker)
            if isinstance(error.cause, NoDeviceError):
                raise SettingsError(str(error.cause)) from error
            if isinstance(error.cause, DmtError):
                raise SettingsError(f"On {_named(worker)}: {str(error.cause).rstrip('.')}. {_SHARED}") from error
            self._replace(chunk, worker, error)
            return None
        except RayError as error:
            self._replace(chunk, worker, error)
            return None
        except BaseException:
            _end(worker)
            raise
        if self._waiting:
            worker.chunk = self._waiting.popleft()
            as_it_is = worker.chunk.number in self._unreadable
            self._turns[worker.actor.make.remote(worker.chunk, as_it_is=as_it_is)] = worker
        else:
            _end(worker)
        return result if isinstance(result, MadeChunk) else None

    def _replace(self, chunk: Chunk | None, worker: _Worker, error: RayError) -> None:
        """Let another actor take the place of one that died, and its chunk, unless that happened too often.

        Raises:
            SettingsError: it did.
        """
        _end(worker)
        reason = " ".join(str(error.cause if isinstance(error, RayTaskError) else error).split()).rstrip(".")
        what = "loading the network" if chunk is None else f"making chunk {chunk.number}"
        trace = error if isinstance(error, RayTaskError) else None
        logger.warning("A process on %s ended while %s: %s.", _named(worker), what, reason, exc_info=trace)
        counts = not names_lost_node(error)
        if chunk is None:
            self._failed_starts += counts
            if self._failed_starts >= START_TRIES:
                raise SettingsError(f"{START_TRIES} processes in a row ended while {what}: {reason}.") from error
        else:
            self._tries[chunk.number] += counts
            if self._tries[chunk.number] >= TRIES:
                first, last = chunk.items[0].id, chunk.items[-1].id
                raise SettingsError(
                    f"The references from {first} to {last} cannot be described: {TRIES} processes ended over them; "
                    f"the last one, on {_named(worker)}: {reason}. What is written stays: leave out what is damaged, "
                    "or give the processes more memory, and run the same command again."
                ) from error
            self._waiting.appendleft(chunk)
        if self._waiting:
            self._start()


def check_unread(plan: BankPlan, node: str, unread: Unread) -> None:
    """Raise SettingsError when this process can read what an actor could not: its node lacks the references."""
    inputs = plan.config.inputs
    with InputReader(inputs.max_bytes, plan.references.containers, inputs.allow_uri) as reader:
        for item in unread.items:
            try:
                reader.read_item(item)
            except DmtError:
                continue
            reason = next(line for line in unread.reasons if line.startswith(f"{item.id}: ")).rstrip(".")
            raise SettingsError(f"A process on {node} cannot read the reference {reason}; this one can. {_SHARED}")


def check_visible(plan: BankPlan, node: str, made: MadeChunk, look: Callable[[], None]) -> None:
    """Raise SettingsError when this process does not find a chunk that an actor has written."""
    file = files.join(plan.place, made.entry.file)
    deadline = time.monotonic() + HIDDEN_S
    while not files.exists(file):
        if time.monotonic() > deadline:
            raise SettingsError(
                f"A process on {node} has written {files.masked(file)}, and this process does not find it: the "
                f"--output there is another folder. {_SHARED}"
            )
        look()
        time.sleep(LOOK_S)


def _named(worker: _Worker) -> str:
    return "a node of the cluster" if worker.node is None else f"node {worker.node}"


def _end(worker: _Worker) -> None:
    try:
        ray.kill(worker.actor)
    except RayError as error:  # it, or its cluster, is dead already
        logger.debug("An actor cannot be ended: %s", error)
