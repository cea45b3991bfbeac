"""A bank of references built at its place, a chunk at a time: memory stays the same, and an ended build goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import numpy as np

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.bank_chunks import PATCHES, BankPlan, Chunk, ChunkMaker, MakeChunks, make_here, read_references
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.exemplar_sets import none_usable
from dmt_ray.jobs.job import Array, ExemplarList
from dmt_ray.jobs.manifolds import LearnedSet, save_manifold
from dmt_ray.jobs.networks import make_network
from dmt_ray.method.colors.building import (
    describing_sample,
    learn_describing,
    learn_prior,
    learns_prior,
    scenes_of,
)
from dmt_ray.method.colors.describing import COLOR_LAYERS, EXTRAS, row_width
from dmt_ray.method.colors.prior import PriorSample, PriorSettings
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import MATCH_SIZE
from dmt_ray.storage import files
from dmt_ray.storage.models.array_files import ArrayFile, file_name, local_array, read_entry, save_array
from dmt_ray.storage.models.chunks import ChunkedRows, ChunkWriter

logger = logging.getLogger(__name__)

#: References of a chunk; a chunk of 128 px has 4 MB.
CHUNK = 32
#: The arrays of ``PatchDescriber.learn``.
DESCRIBING = ("projection", *(f"{kind}_{layer}" for layer in COLOR_LAYERS for kind in ("mean", "deviation")))


@dataclass(frozen=True)
class BuiltBank:
    """What a build made, or found."""

    references: int
    """Those that could be used."""
    nbytes: int
    skipped: list[str]
    """One sentence for each reference that this build left out; an earlier one's are not told again."""
    prior: bool
    """A prior was learned."""
    resumed: int
    """Chunks that an earlier build had made."""


def build_color_bank(
    place: str,
    config: ColorizeConfig,
    references: ExemplarList,
    weights: Mapping[str, Array],
    weights_sha256: str,
    content_sha256: str,
    device: str,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
    make_chunks: MakeChunks = make_here,
) -> BuiltBank:
    """Build a bank and save it; a build that was ended goes on where it was.

    Memory holds a chunk, the scenes (512 bytes a reference), and a sample of patches for the prior.

    Parameters:
        place: a folder or URI.
        config: the options of the runs that the bank is for.
        references: to learn from.
        weights: by torchvision name.
        weights_sha256: of them.
        content_sha256: of the references, see ``content_checksum``.
        device: torch device.
        on_chunk: gets the chunks that are done and all of them, after each one.
        make_chunks: makes those that are missing.

    Raises:
        SettingsError: no reference can be used.
        StorageError: the place cannot be written or read.
    """
    network = make_network(weights, config, device, COLOR_LAYERS)
    size, seed = MATCH_SIZE, config.inputs.seed
    token = _token(config, weights_sha256, content_sha256)
    place = files.absolute(place)
    files.sweep_temporary(place)  # of killed writers
    writer = ChunkWriter(place, PATCHES, token)
    items = references.items
    arrays = _kept_describing(place, token)
    if arrays is None:
        arrays = _learn_describing(network, config, references)
        for name, array in arrays.items():
            save_array(place, file_name(name, token), array)
    allowed = {"allow_uri": tuple(map(files.absolute, config.inputs.allow_uri))}
    plan = BankPlan(place, token, config.with_options(allowed), replace(references, items=()), weights, dict(arrays))
    total = -(-len(items) // CHUNK)
    entries: dict[int, ArrayFile] = {}
    missing = []
    for number in range(total):
        if writer.has(number):
            entries[number] = writer.entry(number)
            on_chunk(len(entries), total)
        else:
            missing.append(Chunk(number, items[number * CHUNK : (number + 1) * CHUNK]))
    resumed = len(entries)
    left_out: dict[int, list[str]] = {}
    with closing(make_chunks(plan, missing, ChunkMaker(plan, network))) as made:
        for chunk in made:
            entries[chunk.number], left_out[chunk.number] = chunk.entry, chunk.skipped
            on_chunk(len(entries), total)
    skipped = [line for number in sorted(left_out) for line in left_out[number]]
    chunks = {writer.chunk(number): entries[number] for number in range(total)}
    chunked = ChunkedRows(place, list(chunks.values()))
    if not len(chunked):
        raise SettingsError(f"{none_usable(len(items), 'reference')}.")
    count, prior = len(chunked), learns_prior(config.traversal.prior, len(chunked))
    # Allocated once: small arrays that stay among large ones that go would take many times their room.
    scenes = np.empty((count, row_width() - EXTRAS), np.float16)
    sample = PriorSample(count, size, seed, PriorSettings()) if prior else None
    for begin in range(0, count, CHUNK):
        part = range(begin, min(begin + CHUNK, count))
        rows = chunked.rows(part)
        scenes[begin : part.stop] = scenes_of(rows)
        if sample is not None:
            sample.add(rows, part)
    arrays["scenes"] = scenes
    if sample is not None:
        arrays |= learn_prior(network, sample, scenes, chunked)
    learned = {"reference": LearnedSet(len(items), content_sha256)}
    save_manifold(place, config, weights_sha256, learned, arrays, chunks=chunks, token=token)
    writer.delete_others(DESCRIBING)
    nbytes = chunked.nbytes + sum(array.nbytes for array in arrays.values())
    return BuiltBank(len(chunked), nbytes, skipped, prior, resumed)


def _learn_describing(network: FeatureNetwork, config: ColorizeConfig, references: ExemplarList) -> dict[str, Array]:
    """Learn how patches are described, from a sample of the references, or from all where that has none of use."""
    items = references.items
    drawn = [items[index] for index in describing_sample(len(items), config.inputs.seed)]
    read = read_references(config, replace(references, items=drawn))
    if not read.pictures:
        read = read_references(config, references)
        if not read.pictures:
            raise SettingsError(none_usable(len(items), "reference", read.skipped[0]))
    return learn_describing(network, read.pictures, MATCH_SIZE)


def _kept_describing(place: str, token: str) -> dict[str, Array] | None:
    """Return how an earlier build described patches: what it learned, another device or number of threads does not.

    Raises:
        StorageError: a file of it is damaged.
    """
    there = files.list_names(place)
    named = {name: file_name(name, token) for name in DESCRIBING}
    if any(file not in there for file in named.values()):
        return None
    return {name: np.array(local_array(place, read_entry(place, file))) for name, file in named.items()}


def _token(config: ColorizeConfig, weights_sha256: str, content_sha256: str) -> str:
    """Return what tells this build's files from those of others."""
    made_of = {
        "references": content_sha256,
        "weights": weights_sha256,
        "backbone": config.model.backbone,
        "layers": COLOR_LAYERS,
        "prior": asdict(PriorSettings()) if config.traversal.prior != "off" else None,
        "match size": MATCH_SIZE,
        "chunk": CHUNK,
        "seed": config.inputs.seed,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
