"""``dmt_ray.Colorizer``: black-and-white photos get colours that a few colour photos have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Self, Unpack

from dmt_ray.api.editing import EditedPhoto
from dmt_ray.api.keywords import ColorizerEdit, ColorizerFit, ColorizerLoad
from dmt_ray.api.model import Exemplars, Model
from dmt_ray.api.pictures import Picture
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.job import JobConfig
from dmt_ray.storage import files


class Colorizer(Model):
    """Gives photos the colours that reference photos have; each photo keeps its own luma.

    Make one with ``fit`` or ``load``. It edits as a run of ``dmt-ray colorize`` with the same options does.

    Example:
        >>> import numpy as np, dmt_ray
        >>> colours = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
        >>> model = dmt_ray.Colorizer.fit(colours, size=32, weights="random:0", lpips=False)
        >>> result = model.edit(colours[0, ..., 0], strength=2)
        >>> result.picture.size, result.picture.mode, result.figures["strength"]
        ((64, 48), 'RGB', 2.0)

    (Real photos want real weights, which is the default: ``dmt-ray weights`` fetches them ahead of time.)
    """

    _config: ClassVar[type[JobConfig]] = ColorizeConfig
    _edit_keywords: ClassVar[type] = ColorizerEdit
    _load_keywords: ClassVar[type] = ColorizerLoad
    _fit_keywords: ClassVar[type] = ColorizerFit

    @classmethod
    def fit(cls, references: Exemplars, *, device: str | None = None, **options: Unpack[ColorizerFit]) -> Self:
        """Learn from colour photos, in this process.

        Parameters:
            references: a path or URI (a folder, glob, list file, table or archive), or pictures one by one: paths,
                bytes, PIL images, or arrays (H, W, 3) uint8. A few dozen suffice; a grey one is left out.
            device: torch device. Default: a GPU where there is one.
            options: those of ``dmt-ray colorize`` by their names, such as ``size`` (pixels) and ``backbone``; options
                of edits, such as ``iterations``, become the model's defaults.

        Raises:
            SettingsError: no reference can be used, weights cannot be had, or an option is out of range.
            StorageError: a place cannot be reached.
            TypeError: there is no such option.
        """
        return cls._fit({"reference": references}, device, dict(options))

    @classmethod
    def load(
        cls, uri: str | os.PathLike[str], *, device: str | None = None, **options: Unpack[ColorizerLoad]
    ) -> Self:
        """Load what ``save`` saved, with its options of edits, or the bank that ``dmt-ray fit --reference`` saved.

        Parameters:
            uri: a folder or URI.
            device: torch device. Default: a GPU where there is one.
            options: override the saved ones; ``weights`` that were given to ``fit`` are not saved: give them again.

        Raises:
            SettingsError: it is another job's, of another version, or was made with other weights.
            StorageError: it is missing or damaged.
        """
        return cls._load(uri, device, dict(options), manifold=files.absolute(os.fspath(uri)))

    def edit(self, photo: Picture, *, strength: float | None = None, **options: Unpack[ColorizerEdit]) -> EditedPhoto:
        """Give a photo colours; one that has colours is made grey first.

        Parameters:
            photo: a path or URI, bytes of an image file, a PIL image, or an array (H, W) or (H, W, 3) uint8.
            strength: times the colours that were found, 0 to 100; 1 by default (with global traversal, 2).
            options: of this edit alone, such as ``iterations`` and ``resolution``.

        Returns:
            The picture at the photo's own size, and its figures.

        Raises:
            ImageError: the photo cannot be used; ``kind`` says why, as the column ``error_type`` of a run.
            SettingsError: an option is out of range, or the options ask for several results.
            TypeError: there is no such option, or it is decided by ``fit``.
        """
        return self._edited_once(self._configured("edit", options, strength), photo, None)

    def path(
        self, photo: Picture, strengths: Sequence[float] | None = None, **options: Unpack[ColorizerEdit]
    ) -> list[EditedPhoto]:
        """Return one result for each strength, each begun at the one before; parameters and errors as of ``edit``.

        Parameters:
            photo: see ``edit``.
            strengths: rising, each 0 to 100. Default: the model's.
            options: see ``edit``.
        """
        return self._edited(self._configured("path", options, strengths), photo, None)

    def for_ray(
        self,
        *,
        column: str = "image",
        prefix: str = "edited_",
        strength: float | None = None,
        **options: Unpack[ColorizerEdit],
    ) -> type:
        """Return a class for ``map_batches`` of Ray Data; see ``Transformer.for_ray``."""
        return self._for_ray(column, prefix, self._configured("for_ray", options, strength))
