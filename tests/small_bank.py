"""Banks of few small references in chunks of two, built in the test's own process or by what it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmt_ray.config import InputConfig, OutputConfig
from dmt_ray.jobs import color_bank
from dmt_ray.jobs.bank_chunks import MakeChunks, make_here
from dmt_ray.jobs.color_bank import BuiltBank, build_color_bank
from dmt_ray.jobs.colorize import ColorizeConfig, ReferenceConfig
from dmt_ray.jobs.exemplars import content_checksum, list_exemplars
from dmt_ray.method.colors import building
from dmt_ray.method.settings import ModelConfig, TraversalConfig
from dmt_ray.storage.models.weights import resolve_weights

CHUNK = 2


class EndedError(Exception):
    """The build ends here."""


def save_references(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Let the chunks, and the colour prior's network, be small."""
    patch.setattr(color_bank, "CHUNK", CHUNK)
    small = building.PriorSettings(members=2, hidden=(16, 8), epochs=2, batch=64)
    patch.setattr(color_bank, "PriorSettings", lambda: small)
    patch.setattr(building, "PriorSettings", lambda: small)


def config_of(references: Path | None, place: str | None = None, allow_uri: tuple[str, ...] = ()) -> ColorizeConfig:
    return ColorizeConfig(
        inputs=InputConfig("unused", allow_uri=allow_uri),
        output=OutputConfig("unused"),
        references=ReferenceConfig(None if references is None else str(references), manifold=place),
        model=ModelConfig(size=64, weights="random:0", precision="fp32"),
        traversal=TraversalConfig(prior="on" if place is None else "auto"),
    )


def build(
    references: Path,
    place: Path,
    *,
    end_after: int | None = None,
    make_chunks: MakeChunks = make_here,
    allow_uri: tuple[str, ...] = (),
) -> BuiltBank:
    """Build a bank; ``EndedError`` once so many chunks are done."""
    config = config_of(references, allow_uri=allow_uri)
    found = list_exemplars(config)["reference"]
    weights = resolve_weights("vgg16", "random:0")

    def on_chunk(done: int, total: int) -> None:
        assert total == -(-len(found.items) // CHUNK)
        if done == end_after:
            raise EndedError

    made_of = (weights.arrays, weights.sha256, content_checksum(config, "reference", found), "cpu")
    return build_color_bank(str(place), config, found, *made_of, on_chunk, make_chunks)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}
