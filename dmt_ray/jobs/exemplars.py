"""What a job learns from: its sets of exemplars are listed and checked by the driver, and learned from once."""

from __future__ import annotations

import functools
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

from dmt_ray.config import TAPS, ColorizeConfig, TransformConfig
from dmt_ray.errors import DmtError, ImageError, SettingsError
from dmt_ray.jobs.editors import Array, JobConfig, make_network
from dmt_ray.method.colorizer import build_exemplars, is_grey
from dmt_ray.method.networks.vgg import ActivationMeans, normalised
from dmt_ray.method.pictures import to_tensor, working_rgb
from dmt_ray.method.transformer import build_manifold
from dmt_ray.method.traversal.selection import ImageIdentity, digest
from dmt_ray.storage import files
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs import exemplar_tables as tables
from dmt_ray.storage.inputs.registry import InputItem, ItemReader, list_inputs
from dmt_ray.storage.inputs.shared_reader import SharedReader
from dmt_ray.storage.models.manifolds import open_arrays

#: The items of each set of exemplars, by the option that names it.
ExemplarSets = Mapping[str, Sequence[InputItem]]

#: Threads that read and decode beside the model; reading from an object store is mostly waiting.
READER_THREADS = 4
#: Arrays larger than this are made in a file and mapped, not in memory.
MAPPED_BYTES = 2**28


def exemplar_places(config: JobConfig) -> dict[str, str]:
    """Return where the exemplars are, by option."""
    if isinstance(config, ColorizeConfig):
        return {"reference": config.references.reference}
    places = {option: getattr(config.exemplars, option) for option in ("source", "target", "basis", "manifold")}
    return {option: place for option, place in places.items() if place is not None}


#: Where a run with ``--traversal-only`` keeps its manifold, beside its shards.
MANIFOLD_FOLDER = "manifold"


def saved_manifold(config: JobConfig) -> str | None:
    """Return where the run's manifold is already made: what ``fit`` saved, or what a run of traversals kept."""
    if isinstance(config, TransformConfig) and config.exemplars.manifold is not None:
        return config.exemplars.manifold
    displacements = config.inputs.displacements
    return None if displacements is None else files.join(displacements, MANIFOLD_FOLDER)


def listing_checksum(items: Sequence[InputItem]) -> str:
    """Return the SHA-256 of a listing's ids."""
    return hashlib.sha256("\n".join(item.id for item in items).encode()).hexdigest()


def list_exemplars(config: JobConfig) -> ExemplarSets:
    """List the exemplars of each set; none where they come as a saved manifold.

    Raises:
        SettingsError: a set is empty or cannot be listed; names the option.
    """
    if saved_manifold(config) is not None:
        return {}
    if isinstance(config, ColorizeConfig):
        return {"reference": _list_references(config)}
    settings = config.exemplars
    sets: dict[str, Sequence[InputItem]] = {}
    for option in ("source", "target", "basis"):
        if getattr(settings, option) is None:
            continue
        items = _named(option, functools.partial(_list_set, config, option))
        sets[option] = draw(items, settings.exemplar_limit, config.inputs.seed)
    return sets


def check_exemplars(config: JobConfig, sets: ExemplarSets) -> None:
    """Decode exemplars of each set until one can be used: enough to know that there are some, before Ray starts.

    Raises:
        SettingsError: a set has none.
    """
    with ItemReader(config.inputs.max_bytes) as reader:
        for option, items in sets.items():
            first: str | None = None
            for item in items:
                try:
                    _usable(option, decode_image(reader.read(item.uri), max_pixels=config.inputs.max_pixels))
                    break
                except DmtError as error:
                    first = first or f"{item.id}: {error}"
            else:
                raise _none_left(option, items, first)


def learn_exemplars(
    arrays: Mapping[str, Array], sets: ExemplarSets, config: JobConfig, device: str
) -> tuple[dict[str, Array], list[str]]:
    """Read the exemplars and make what all actors share, or open it where it is saved.

    Returns the arrays, and one sentence for each exemplar that had to be left out.

    Raises:
        SettingsError: none of a set can be used.
        StorageError: the saved manifold is missing or damaged.
    """
    place = saved_manifold(config)
    if place is not None:
        return open_arrays(place)[1], []
    means: dict[str, Array] = {}
    if config.model.normalise:
        means = _activations(arrays, sets, config, device)
        arrays = normalised(arrays, config.model.backbone, means)
    network = make_network(arrays, config, device)
    loader = _Loader(config)
    if isinstance(config, ColorizeConfig):
        pictures = [picture for picture, _ in loader.pictures("reference", sets["reference"])]
        loader.check("reference", len(pictures), sets["reference"])
        exemplars = build_exemplars(network, np.stack(pictures), config)
    else:
        options = ("source", "target", "basis")
        streams = [loader.pictures(option, sets.get(option, ())) for option in options]
        exemplars = build_manifold(network, streams, sum(map(len, sets.values())), config, allocate)
    return exemplars | means, loader.skipped


def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
    """Make room for an array: a large one in a file without a name, so that it never has to be in memory whole."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= MAPPED_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="dmt-ray-") as file:
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))


class _Loader:
    """Reads sets of exemplars at working size, and notes what was wrong with those it leaves out."""

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        self.skipped: list[str] = []
        self._reader = SharedReader(config.inputs.max_bytes)
        self._first: dict[str, str] = {}

    def pictures(self, option: str, items: Sequence[InputItem]) -> Iterator[tuple[Array, ImageIdentity]]:
        """Yield (size, size, 3) uint8 pictures and what is known of them, a few read ahead.

        Raises:
            SettingsError: there are items, and none can be used.
        """
        count = 0
        with ThreadPoolExecutor(READER_THREADS) as threads:
            for start in range(0, len(items), _READ_AHEAD):
                for loaded in threads.map(lambda item: self._load(option, item), items[start : start + _READ_AHEAD]):
                    if isinstance(loaded, str):
                        self.skipped.append(loaded)
                        self._first.setdefault(option, loaded)
                    else:
                        count += 1
                        yield loaded
        if items:
            self.check(option, count, items)

    def check(self, option: str, count: int, items: Sequence[InputItem]) -> None:
        """Say so when none of a set's items could be used."""
        if not count:
            raise _none_left(option, items, self._first.get(option))

    def _load(self, option: str, item: InputItem) -> tuple[Array, ImageIdentity] | str:
        try:
            data = self._reader.read(item.uri)
            rgb = decode_image(data, max_pixels=self.config.inputs.max_pixels)
            picture = _usable(option, working_rgb(rgb, self.config.model.size))
            if option == "basis":
                return picture, ImageIdentity(content=digest(data))
            return picture, image_identity(item, data, self.config, self._reader)
        except DmtError as error:
            return f"{item.id}: {error}"


#: Exemplars that are read and decoded before the network asks for them.
_READ_AHEAD = 32


def image_identity(item: InputItem, data: bytes, config: JobConfig, reader: SharedReader) -> ImageIdentity:
    """Return what is known of an image beside its pixels: its bytes' digest, and its table's group and attributes.

    Raises:
        StorageError: its table has no such column.
        ImageError: kind ``no-attributes`` when an attribute is missing or no number.
    """
    if isinstance(config, ColorizeConfig):
        return ImageIdentity()
    settings = config.exemplars
    columns = [*settings.attribute_columns, *([settings.group_column] if settings.group_column else [])]
    if not columns or (item.record is None and not settings.attribute_columns):
        return ImageIdentity(content=digest(data))
    values = reader.read_record(item.record, columns)
    group = values[settings.group_column] if settings.group_column else None
    attributes = None
    if settings.attribute_columns:
        try:
            attributes = np.array([float(values[name]) for name in settings.attribute_columns], np.float32)
        except (TypeError, ValueError) as error:
            raise ImageError("no-attributes", f"The attributes {values} are not all numbers.") from error
    return ImageIdentity(digest(data), None if group is None else str(group), attributes)


def _activations(arrays: Mapping[str, Array], sets: ExemplarSets, config: JobConfig, device: str) -> dict[str, Array]:
    """Return the mean activation of every filter over all exemplars."""
    taps = TAPS[config.model.backbone]
    deepest = max(taps.index(tap) for tap in config.model.taps)
    network = make_network(arrays, config, device, also=taps[: deepest + 1])
    loader = _Loader(config)
    means = ActivationMeans(network, taps[: deepest + 1])
    for picture, _ in chain.from_iterable(loader.pictures(option, items) for option, items in sets.items()):
        means.add(to_tensor(picture)[None])
    return means.arrays()


def _usable(option: str, rgb: Array) -> Array:
    """Return the picture, or say why it is no exemplar."""
    if option == "reference" and is_grey(rgb):  # it would teach that what it shows has no colour
        raise ImageError("grey", "The picture is grey, and a reference must have colour.")
    return rgb


def _none_left(option: str, items: Sequence[InputItem], first: str | None) -> SettingsError:
    kind = "basis pictures" if option == "basis" else f"{option}s"
    return SettingsError(f"None of the {len(items)} {kind} can be used; the first one: {first}")


def _list_set(config: TransformConfig, option: str) -> list[InputItem]:
    """List one set; its attributes and groups are only checked here, and read with each picture."""
    settings = config.exemplars
    compared = option != "basis"  # no image chooses or avoids the pictures of a basis
    return tables.list_exemplars(
        getattr(settings, option),
        where=getattr(settings, f"{option}_where"),
        attribute_columns=settings.attribute_columns if compared else (),
        group_column=settings.group_column if compared else None,
        image_column=settings.exemplar_image_column,
        uri_column=settings.exemplar_uri_column,
    ).items


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
