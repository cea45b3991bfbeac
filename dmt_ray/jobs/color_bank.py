"""A bank of references built at its place, a chunk at a time: memory stays the same, and an ended build goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.exemplars import ExemplarLoader
from dmt_ray.jobs.job import Array, ExemplarList
from dmt_ray.jobs.manifolds import LearnedSet, save_manifold
from dmt_ray.jobs.networks import make_network
from dmt_ray.method.colors.building import (
    describe_references,
    describing_sample,
    learn_describing,
    learn_prior,
    learns_prior,
    scenes_of,
)
from dmt_ray.method.colors.describing import COLOR_LAYERS, PatchDescriber, grid_of, row_width
from dmt_ray.method.colors.prior import PriorSample, PriorSettings
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, MATCH_SIZE
from dmt_ray.storage.models.array_files import ArrayFile
from dmt_ray.storage.models.chunks import ChunkedRows, ChunkWriter

logger = logging.getLogger(__name__)

#: References of a chunk; a chunk of 128 px has 4 MB.
CHUNK = 32
PATCHES = "patches"


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

    Raises:
        SettingsError: no reference can be used.
        StorageError: the place cannot be written or read.
    """
    network = make_network(weights, config, device, COLOR_LAYERS)
    size, seed = MATCH_SIZE, config.inputs.seed
    token = _token(config, weights_sha256, content_sha256)
    writer = ChunkWriter(place, PATCHES, token)
    items = references.items
    drawn = [items[index] for index in describing_sample(len(items), seed)]
    pictures, _ = _read(config, replace(references, items=drawn))
    if not pictures:
        pictures, skipped = _read(config, references)
        if not pictures:
            raise SettingsError(f"None of the {len(items)} references can be used; the first one: {skipped[0]}")
    arrays = learn_describing(network, pictures, size)
    del pictures
    describer = PatchDescriber(network, arrays, size)
    total = -(-len(items) // CHUNK)
    entries: dict[str, ArrayFile] = {}
    skipped, resumed = [], 0
    for number in range(total):
        if writer.has(number):
            entries[writer.chunk(number)] = writer.entry(number)
            resumed += 1
        else:
            part = replace(references, items=items[number * CHUNK : (number + 1) * CHUNK])
            pictures, left_out = _read(config, part)
            skipped += left_out
            entries[writer.chunk(number)] = writer.write(number, _described(network, describer, pictures))
        on_chunk(number + 1, total)
    chunked = ChunkedRows(place, list(entries.values()))
    if not len(chunked):
        raise SettingsError(f"None of the {len(items)} references can be used.")
    scenes, sample = [], PriorSample(len(chunked), size, seed, PriorSettings())
    prior = learns_prior(config.traversal.prior, len(chunked))
    for rows in _batches(chunked):
        scenes.append(scenes_of(rows))
        if prior:
            sample.add(rows)
    arrays["scenes"] = np.concatenate(scenes)
    if prior:
        arrays |= learn_prior(network, sample)
    learned = {"reference": LearnedSet(len(items), content_sha256)}
    save_manifold(place, config, weights_sha256, learned, arrays, chunks=entries, token=token)
    writer.delete_others()
    nbytes = chunked.nbytes + sum(array.nbytes for array in arrays.values())
    return BuiltBank(len(chunked), nbytes, skipped, prior, resumed)


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


def _read(config: ColorizeConfig, references: ExemplarList) -> tuple[list[Array], list[str]]:
    """Return the references that can be used, and a sentence for each of the others."""
    loader = ExemplarLoader({"reference": references}, config)
    try:
        return [picture for picture, _ in loader.pictures("reference")], loader.skipped
    except SettingsError:
        if len(loader.skipped) < len(references.items):
            raise
        return [], loader.skipped


def _described(network: FeatureNetwork, describer: PatchDescriber, pictures: Sequence[Array]) -> Array:
    """Return the rows of a chunk."""
    rows, columns = grid_of(describer.size)
    found = np.empty((len(pictures), rows * columns, row_width()), np.float16)
    for begin in range(0, len(pictures), BATCH):
        part = slice(begin, begin + BATCH)
        found[part] = describe_references(network, describer, np.stack(pictures[part]))
    return found


def _batches(chunked: ChunkedRows) -> Iterator[Array]:
    for begin in range(0, len(chunked), CHUNK):
        yield chunked.rows(range(begin, min(begin + CHUNK, len(chunked))))
