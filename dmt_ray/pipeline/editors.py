"""What differs between the jobs, behind one face: which exemplars to learn from, and an editor to apply them.

The rest of the pipeline knows a job by its config alone and asks here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from dmt_ray.config import ColorizeConfig
from dmt_ray.errors import DmtError, ImageError, SettingsError
from dmt_ray.method.displacement import Displacement, Edit
from dmt_ray.method.pictures import working_rgb
from dmt_ray.method.recolor import Recolorer, build_exemplars, is_grey
from dmt_ray.method.vgg import VGG
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs import InputItem, ItemReader, list_inputs
from dmt_ray.storage.reading import SharedReader

Array = np.ndarray[Any, Any]

#: Every job's options.
JobConfig = ColorizeConfig

#: The items of each set of exemplars, by the option that names it.
ExemplarSets = Mapping[str, Sequence[InputItem]]

#: Threads that read and decode beside the model; reading from an object store is mostly waiting.
READER_THREADS = 4


class Editor(Protocol):
    """Moves pictures and brings them back; holds the network and the exemplars."""

    def working(self, rgb: Array) -> Array:
        """Return what the other calls take of a decoded picture (H, W, 3) uint8, at working size."""
        ...

    def traverse(self, pictures: Array) -> list[Displacement]:
        """Return one displacement per picture of a stacked batch."""
        ...

    def reconstruct(self, pictures: Array, displacements: Sequence[Displacement]) -> list[list[Edit]]:
        """Return each picture's edits, one per step."""
        ...

    def assemble(self, rgb: Array, edit: Edit) -> Array:
        """Return the result (H, W, 3) uint8 of a decoded picture and an edit of it."""
        ...


def make_network(arrays: Mapping[str, Array], config: JobConfig, device: str) -> VGG:
    """Build the run's network on a device."""
    model = config.model
    return VGG(arrays, model.backbone, model.taps, precision=model.precision, device=torch.device(device))


def make_editor(
    arrays: Mapping[str, Array], exemplars: Mapping[str, Array], config: JobConfig, device: str
) -> Editor:
    """Build the job's editor on a device."""
    return Recolorer(make_network(arrays, config, device), exemplars, config)


def exemplar_places(config: JobConfig) -> dict[str, str]:
    """Return where the exemplars are, by option."""
    return {"reference": config.references.reference}


def list_exemplars(config: JobConfig) -> ExemplarSets:
    """List the exemplars of each set.

    Raises:
        SettingsError: a set is empty or cannot be listed; names the option.
    """
    return {"reference": _list_references(config)}


def check_exemplars(config: JobConfig, sets: ExemplarSets) -> None:
    """Decode exemplars of each set until one can be used: enough to know that there are some, before Ray starts.

    Raises:
        SettingsError: a set has none.
    """
    reader = ItemReader()
    for option, items in sets.items():
        first: str | None = None
        for item in items:
            try:
                _usable(option, decode_image(reader.read(item.uri), max_pixels=config.inputs.max_pixels))
                break
            except DmtError as error:
                first = first or f"{item.id}: {error}"
        else:
            raise SettingsError(f"None of the {len(items)} {option}s can be used; the first one: {first}")


def learn_exemplars(
    arrays: Mapping[str, Array], sets: ExemplarSets, config: JobConfig, device: str
) -> tuple[dict[str, Array], list[str]]:
    """Read the exemplars and make what all actors share.

    Returns the arrays, and one sentence for each exemplar that had to be left out.

    Raises:
        SettingsError: none of a set can be used.
    """
    pictures, skipped = _load("reference", sets["reference"], config)
    return build_exemplars(make_network(arrays, config, device), np.stack(pictures), config), skipped


def _usable(option: str, rgb: Array) -> Array:
    """Return the picture, or say why it is no exemplar."""
    if option == "reference" and is_grey(rgb):  # it would teach that what it shows has no colour
        raise ImageError("grey", "The picture is grey, and a reference must have colour.")
    return rgb


def _load(option: str, items: Sequence[InputItem], config: JobConfig) -> tuple[list[Array], list[str]]:
    """Read a set at working size; return the pictures, and a sentence for each that cannot be used."""
    reader = SharedReader()

    def load(item: InputItem) -> Array | str:
        try:
            rgb = decode_image(reader.read(item.uri), max_pixels=config.inputs.max_pixels)
            return _usable(option, working_rgb(rgb, config.model.size))
        except DmtError as error:
            return f"{item.id}: {error}"

    with ThreadPoolExecutor(READER_THREADS) as threads:
        loaded = list(threads.map(load, items))
    pictures = [one for one in loaded if not isinstance(one, str)]
    skipped = [one for one in loaded if isinstance(one, str)]
    if not pictures:
        raise SettingsError(f"None of the {len(items)} {option}s can be used; the first one: {skipped[0]}")
    return pictures, skipped


def _list_references(config: ColorizeConfig) -> list[InputItem]:
    inputs, settings = config.inputs, config.references

    def listing() -> list[InputItem]:
        if inputs.image_column is None and inputs.uri_column is None:
            return list_inputs(settings.reference)
        try:
            return list_inputs(settings.reference, image_column=inputs.image_column, uri_column=inputs.uri_column)
        except SettingsError:
            return list_inputs(settings.reference)  # the columns may mean the input's table alone

    return draw(_named("reference", listing), settings.reference_limit, inputs.seed)


def _named(option: str, listing: Callable[[], list[InputItem]]) -> list[InputItem]:
    try:
        return listing()
    except SettingsError as error:
        raise SettingsError(f"--{option}: {error}") from error


def draw(items: list[InputItem], limit: int | None, seed: int) -> list[InputItem]:
    """Return at most ``limit`` of the items, drawn by ``seed``, in their order."""
    if limit is None or limit >= len(items):
        return items
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), limit))]
