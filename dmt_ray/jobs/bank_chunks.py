"""The chunks of a bank of references: what makes one, in whichever process, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.exemplars import ExemplarLoader
from dmt_ray.jobs.job import Array, ExemplarList
from dmt_ray.method.colors.building import describe_references
from dmt_ray.method.colors.describing import PatchDescriber, grid_of, row_width
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, MATCH_SIZE
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.models.array_files import ArrayFile
from dmt_ray.storage.models.chunks import ChunkWriter

#: The array that lies in chunks.
PATCHES = "patches"


@dataclass(frozen=True)
class BankPlan:
    """What every process that makes chunks is told; it means the same in each of them."""

    place: str
    """Where the bank lies; a local folder is an absolute path."""
    token: str
    """Tells this build's files from those of others."""
    config: ColorizeConfig
    references: ExemplarList
    """Without its items: a chunk brings its own."""
    weights: Mapping[str, Array]
    """Of the network, by torchvision name."""
    describing: Mapping[str, Array]
    """How patches are described, see ``PatchDescriber.learn``."""


@dataclass(frozen=True)
class Chunk:
    """A chunk to make."""

    number: int
    items: Sequence[InputItem]


@dataclass(frozen=True)
class ReadChunk:
    """The references of a chunk, decoded."""

    pictures: list[Array]
    """(side, side, 3) uint8, those that can be used."""
    skipped: list[str]
    """One sentence for each of the others."""
    unread: list[InputItem]
    """Those whose bytes could not be had."""


@dataclass(frozen=True)
class MadeChunk:
    """A chunk that was written."""

    number: int
    entry: ArrayFile
    skipped: list[str]
    """One sentence for each reference that was left out."""


class ChunkMaker:
    """Reads the references of a chunk, describes them, and writes the rows to the bank's place.

    Parameters:
        plan: of the bank.
        network: has ``COLOR_LAYERS``.

    Raises:
        StorageError: the place cannot be listed.
    """

    def __init__(self, plan: BankPlan, network: FeatureNetwork) -> None:
        self._plan, self._network = plan, network
        self._describer = PatchDescriber(network, plan.describing, MATCH_SIZE)
        self._writer = ChunkWriter(plan.place, PATCHES, plan.token)

    def make(self, chunk: Chunk) -> MadeChunk:
        """Make a chunk of the references that can be used, perhaps of none."""
        return self.write(chunk, self.read(chunk))

    def read(self, chunk: Chunk) -> ReadChunk:
        """Read and decode the references of a chunk."""
        return read_references(self._plan.config, replace(self._plan.references, items=chunk.items))

    def write(self, chunk: Chunk, read: ReadChunk) -> MadeChunk:
        """Describe what was read, and write it.

        Raises:
            StorageError: it cannot be written.
        """
        rows, columns = grid_of(self._describer.size)
        found = np.empty((len(read.pictures), rows * columns, row_width()), np.float16)
        for begin in range(0, len(read.pictures), BATCH):
            part = slice(begin, begin + BATCH)
            found[part] = describe_references(self._network, self._describer, np.stack(read.pictures[part]))
        return MadeChunk(chunk.number, self._writer.write(chunk.number, found), read.skipped)


#: Makes chunks, in any order; the maker is one in this process.
MakeChunks = Callable[[BankPlan, Sequence[Chunk], ChunkMaker], Generator[MadeChunk, None, None]]


def make_here(plan: BankPlan, chunks: Sequence[Chunk], maker: ChunkMaker) -> Generator[MadeChunk, None, None]:
    """Make chunks in this process, one after the other."""
    for chunk in chunks:
        yield maker.make(chunk)


def read_references(config: ColorizeConfig, references: ExemplarList) -> ReadChunk:
    """Read and decode references, of which perhaps none can be used."""
    loader = ExemplarLoader({"reference": references}, config)
    try:
        pictures = [picture for picture, _ in loader.pictures("reference")]
    except SettingsError:
        if len(loader.skipped) < len(references.items):
            raise
        pictures = []
    return ReadChunk(pictures, loader.skipped, loader.unread)
