"""What the models of the Python API have in common: they are fitted, saved, loaded, and edit photos."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from dmt_ray.api.editing import EditedPhoto, edit_rows, edited, make_processor
from dmt_ray.api.keywords import checked
from dmt_ray.api.pictures import Picture, as_items
from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.jobs.exemplar_sets import draw, exemplar_noun, list_place, naming_option
from dmt_ray.jobs.exemplars import list_exemplars
from dmt_ray.jobs.job import ExemplarList, JobConfig
from dmt_ray.jobs.learning import LearnedModel, learn_model, open_model, usable_device
from dmt_ray.pipeline.shard_processor import ShardProcessor
from dmt_ray.storage import files
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.words import counted

#: Exemplars: one place, that is a folder, glob, list file, table or archive at a path or URI; or pictures one by one.
Exemplars: TypeAlias = str | os.PathLike[str] | Sequence[Picture] | npt.NDArray[np.uint8]

#: Stands in the options where a run would name a place.
IN_MEMORY = "memory"
#: Loaded editors that are kept: for calls in turn with other options.
_KEPT = 2


class Model:
    """A model on a device; see ``Colorizer`` and ``Transformer``."""

    _config: ClassVar[type[JobConfig]]
    _edit_keywords: ClassVar[type]
    _load_keywords: ClassVar[type]
    _fit_keywords: ClassVar[type]

    def __init__(self, learned: LearnedModel, device: str) -> None:
        self._learned, self._device = learned, device
        self._processors: OrderedDict[JobConfig, ShardProcessor] = OrderedDict()

    def __repr__(self) -> str:
        sets = ", ".join(counted(found.count, exemplar_noun(option)) for option, found in self._learned.sets.items())
        return f"<{type(self).__name__} of {sets}, size {self._learned.config.model.size}, on {self._device}>"

    @property
    def config(self) -> JobConfig:
        """The model's options, those of edits by default among them."""
        return self._learned.config

    @property
    def left_out(self) -> list[str]:
        """One sentence for each exemplar that could not be used; empty for a model that was loaded."""
        return list(self._learned.report.skipped)

    def save(self, uri: str | os.PathLike[str]) -> None:
        """Save the model to a folder or URI, replacing one that was saved there.

        ``dmt-ray transform --manifold URI`` takes a saved Transformer, and ``Transformer.load`` what ``dmt-ray fit``
        saved.

        Parameters:
            uri: a local path or any URI that fsspec knows.

        Raises:
            StorageError: it cannot be written; what was saved there before is untouched.
        """
        self._learned.save(files.absolute(os.fspath(uri)))

    @classmethod
    def _load(
        cls, uri: str | os.PathLike[str], device: str | None, keywords: Mapping[str, Any], **places: str
    ) -> Self:
        place = files.absolute(os.fspath(uri))
        given = checked(f"{cls.__name__}.load", cls._load_keywords, cls._config, keywords)
        config = cls._config.of(input=IN_MEMORY, output=IN_MEMORY, **places)
        learned = open_model(place, config.with_options(given))
        saved = {name: value for name, value in learned.options.items() if name not in given}
        try:
            saved = checked(f"{cls.__name__}.load", cls._load_keywords, cls._config, saved)
        except TypeError as error:
            raise SettingsError(f"{files.masked(place)} was saved by another version of dmt_ray: {error}") from error
        options = {**saved, **_kept(cls, given)}
        learned = replace(learned, config=learned.config.with_options(saved), options=options)
        return cls(learned, device or usable_device())

    @classmethod
    def _fit(cls, exemplars: Mapping[str, Exemplars | None], device: str | None, keywords: Mapping[str, Any]) -> Self:
        given = checked(f"{cls.__name__}.fit", cls._fit_keywords, cls._config, keywords)
        sets = {option: found for option, found in exemplars.items() if found is not None}
        places = {option: os.fspath(found) for option, found in sets.items() if isinstance(found, str | os.PathLike)}
        named = {option: files.absolute(places[option]) if option in places else IN_MEMORY for option in sets}
        config = cls._config.of(input=IN_MEMORY, output=IN_MEMORY, **named, **given)
        chosen = device or usable_device()
        if len(places) == len(sets):
            learned = learn_model(config, list_exemplars(config), chosen)
        else:
            _refuse_tables(config, given)
            learned = _learn_pictures(config, sets, chosen)
        return cls(replace(learned, options=_kept(cls, given)), chosen)

    def _configured(self, caller: str, keywords: Mapping[str, Any], strengths: object) -> JobConfig:
        """Return the options of an edit."""
        given = checked(f"{type(self).__name__}.{caller}", self._edit_keywords, self._config, keywords)
        if strengths is not None:
            given |= checked(caller, self._load_keywords, self._config, {"strength": strengths})
        if self._learned.config.has_option("attribute_columns"):  # of tables of inputs, which a photo is not in
            given["attribute_columns"] = ()
        return self._learned.config.with_options(given)

    def _processor(self, config: JobConfig) -> ShardProcessor:
        """Return the model loaded with some options, kept for the next call."""
        processor = self._processors.pop(config, None)
        if processor is None:
            processor = make_processor(self._learned, config, self._device, "python")
        self._processors[config] = processor
        while len(self._processors) > _KEPT:
            self._processors.popitem(last=False)
        return processor

    def _edited(self, config: JobConfig, photo: Picture, mask: Picture | None) -> list[EditedPhoto]:
        (rows,) = edit_rows(self._processor(config), [photo], [] if mask is None else [mask])
        if isinstance(rows, ImageError):
            raise rows
        return [edited(row) for row in rows]

    def _for_ray(self, column: str, prefix: str, config: JobConfig) -> type:
        from dmt_ray.api.ray_data import class_for

        require_one(config, "for_ray")
        return class_for(self._learned, config, column, prefix)

    def _edited_once(self, config: JobConfig, photo: Picture, mask: Picture | None) -> EditedPhoto:
        require_one(config, "edit")
        return self._edited(config, photo, mask)[0]


def require_one(config: JobConfig, caller: str) -> None:
    """Raise SettingsError when the options ask for several results of a photo."""
    if len(config.strengths) != 1:
        raise SettingsError(
            f"{caller}() makes one result, and the options ask for {len(config.strengths)}: give it one strength, or "
            "call path(), which makes them all."
        )


def _kept(model: type[Model], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of edits among those that a model was fitted or loaded with."""
    return {
        name: value for name, value in given.items() if name in {*model._edit_keywords.__annotations__, "strength"}
    }


def _refuse_tables(config: JobConfig, given: Mapping[str, Any]) -> None:
    """Raise SettingsError for options that need tables, where exemplars are pictures one by one."""
    for name in given:
        if name.endswith(("_where", "_column")) or name == "balance":
            raise SettingsError(
                f"--{name.replace('_', '-')} is for exemplars in tables: name a table for each set, not pictures."
            )


def _learn_pictures(config: JobConfig, sets: Mapping[str, Exemplars], device: str) -> LearnedModel:
    """Learn from sets of which some are pictures one by one."""
    option = "exemplar_limit" if config.has_option("exemplar_limit") else "reference_limit"
    with ExitStack() as opened:
        listed = {
            name: _list_place(name, config)
            if isinstance(found, str | os.PathLike)
            else _list_pictures(name, found, opened)
            for name, found in sets.items()
        }
        drawn = {name: draw(found, config.option(option), config.inputs.seed) for name, found in listed.items()}
        return learn_model(config, drawn, device)


def _list_place(option: str, config: JobConfig) -> ExemplarList:
    return naming_option(option, lambda: list_place(config.option(option)))


def _list_pictures(
    option: str, pictures: Sequence[Picture] | npt.NDArray[np.uint8], opened: ExitStack
) -> ExemplarList:
    if isinstance(pictures, np.ndarray) and pictures.ndim != 4:
        raise SettingsError(f"--{option} is an array of shape {pictures.shape}; several pictures are (N, H, W, 3).")
    items: list[InputItem] = []
    for number, item in enumerate(opened.enter_context(as_items(list(pictures), option))):
        if isinstance(item, ImageError):
            raise SettingsError(f"--{option}: picture {number}: {item}") from item
        items.append(item)
    if not items:
        raise SettingsError(f"--{option} holds no picture.")
    return ExemplarList(items)
