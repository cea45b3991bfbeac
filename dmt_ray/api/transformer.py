"""``dmt_ray.Transformer``: photos move from one class towards another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Self, Unpack

from dmt_ray.api.editing import EditedPhoto
from dmt_ray.api.keywords import TransformerEdit, TransformerFit, TransformerLoad
from dmt_ray.api.model import Exemplars, Model
from dmt_ray.api.pictures import Picture
from dmt_ray.jobs.job import JobConfig
from dmt_ray.jobs.transform import TransformConfig


class Transformer(Model):
    """Moves photos from a source class towards a target class.

    Make one with ``fit`` or ``load``. It edits as a run of ``dmt-ray transform`` with the same options does.

    Example:
        >>> import numpy as np, dmt_ray
        >>> noise = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), np.uint8)
        >>> dark, light = noise[:3] // 2, noise[3:] // 2 + 128
        >>> lighter = dmt_ray.Transformer.fit(
        ...     source=dark, target=light, size=32, weights="random:0", judge="none", lpips=False, iterations=5
        ... )
        >>> weak, strong = lighter.path(noise[0] // 2, strengths=[2, 6])
        >>> weak.figures["psnr_to_input"] > strong.figures["psnr_to_input"]
        True

    (Real photos want real weights, which is the default: ``dmt-ray weights`` fetches them ahead of time.)
    """

    _config: ClassVar[type[JobConfig]] = TransformConfig
    _edit_keywords: ClassVar[type] = TransformerEdit
    _load_keywords: ClassVar[type] = TransformerLoad
    _fit_keywords: ClassVar[type] = TransformerFit

    @classmethod
    def fit(
        cls,
        source: Exemplars,
        target: Exemplars,
        *,
        basis: Exemplars | None = None,
        device: str | None = None,
        **options: Unpack[TransformerFit],
    ) -> Self:
        """Learn from two classes of photos, in this process.

        Parameters:
            source: photos of the class to move away from: a path or URI (a folder, glob, list file, table or
                archive), or pictures one by one: paths, bytes, PIL images, or arrays (H, W, 3) uint8.
            target: photos of the class to move towards, likewise.
            basis: photos of no class that widen the manifold.
            device: torch device. Default: a GPU where there is one.
            options: those of ``dmt-ray transform`` by their names, such as ``size`` (pixels), ``traversal`` and
                ``source_where``; options of edits, such as ``strength``, become the model's defaults.

        Raises:
            SettingsError: no photo of a class can be used, weights cannot be had, or an option is out of range.
            StorageError: a place cannot be reached.
            TypeError: there is no such option.
        """
        return cls._fit({"source": source, "target": target, "basis": basis}, device, dict(options))

    @classmethod
    def load(
        cls, uri: str | os.PathLike[str], *, device: str | None = None, **options: Unpack[TransformerLoad]
    ) -> Self:
        """Load what ``save`` or ``dmt-ray fit`` saved, with its options of edits.

        Parameters:
            uri: a folder or URI.
            device: torch device. Default: a GPU where there is one.
            options: override the saved ones; ``weights`` and ``judge`` that were given to ``fit`` are not saved: give
                them again.

        Raises:
            SettingsError: it is another job's, of another version, or was made with other weights.
            StorageError: it is missing or damaged.
        """
        return cls._load(uri, device, dict(options), manifold=os.fspath(uri))

    def edit(
        self,
        photo: Picture,
        *,
        strength: float | None = None,
        mask: Picture | None = None,
        **options: Unpack[TransformerEdit],
    ) -> EditedPhoto:
        """Move a photo towards the target class.

        Parameters:
            photo: a path or URI, bytes of an image file, a PIL image, or an array (H, W) or (H, W, 3) uint8.
            strength: how far to go, 0 to 100; 6 by default, and 1 with ``traversal="local"``.
            mask: where the photo may change, in any form of a photo: white freely, black not at all. One of another
                size is stretched to the photo's.
            options: of this edit alone, such as ``iterations``, ``until_flipped`` and ``resolution``.

        Returns:
            The picture at the photo's own size, and its figures.

        Raises:
            ImageError: the photo or the mask cannot be used; ``kind`` says why, as a run's column ``error_type``.
            SettingsError: an option is out of range, or the options ask for several results.
            TypeError: there is no such option, or it is decided by ``fit``.
        """
        return self._edited_once(self._configured("edit", options, strength), photo, mask)

    def path(
        self,
        photo: Picture,
        strengths: Sequence[float] | None = None,
        *,
        mask: Picture | None = None,
        **options: Unpack[TransformerEdit],
    ) -> list[EditedPhoto]:
        """Return one result for each strength, each begun at the one before; parameters and errors as of ``edit``.

        Parameters:
            photo: see ``edit``.
            strengths: rising, 0 to 100. Default: the model's, or a result for each ``budget_weight`` or ``beta``.
            mask: see ``edit``.
            options: see ``edit``.
        """
        return self._edited(self._configured("path", options, strengths), photo, mask)

    def for_ray(
        self,
        *,
        column: str = "image",
        prefix: str = "edited_",
        strength: float | None = None,
        **options: Unpack[TransformerEdit],
    ) -> type:
        """Return a class for ``map_batches`` of Ray Data, which loads the model once per actor.

        The model goes into Ray's object store here, once, so Ray must be running or is started. Each batch, in Ray's
        formats ``numpy`` (the default) and ``pandas``, gets a column ``edited_image`` (bytes of an image file in
        ``image_format``), ``edited_status`` (``ok`` or ``error``), ``edited_error_type``, ``edited_error``, and one
        for each figure. A photo that cannot be used gets an error and loses no other row.

        ::

            dataset = dataset.map_batches(older.for_ray(strength=4), batch_size=16, num_gpus=1, concurrency=2)

        Parameters:
            column: of the photos: bytes of image files, paths or URIs, structs ``{bytes, path}`` as in Hugging Face's
                Parquet files, or arrays (H, W, 3) uint8.
            prefix: of the names of the new columns.
            strength: see ``edit``.
            options: see ``edit``; ``batch_size`` is how many photos are inverted side by side.

        Raises:
            SettingsError: an option is out of range, or the options ask for several results of a photo.
            TypeError: there is no such option, or it is decided by ``fit``.
        """
        return self._for_ray(column, prefix, self._configured("for_ray", options, strength))
