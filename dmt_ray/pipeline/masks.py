"""Masks of the inputs: from a column of their table, or from a folder of pictures under the same names."""

from __future__ import annotations

import numpy as np
import torch

from dmt_ray.config import MaskConfig
from dmt_ray.errors import DmtError, ImageError
from dmt_ray.jobs.job import Array
from dmt_ray.method.pictures import resize
from dmt_ray.storage import files
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import InputItem


class MaskReader:
    """Reads the mask of each input, where a run has masks.

    Parameters:
        settings: where the masks are.
        reader: reads them.
    """

    def __init__(self, settings: MaskConfig, reader: InputReader) -> None:
        self._settings = settings
        self._reader = reader

    def read(self, item: InputItem) -> bytes | None:
        """Return the encoded mask of an image, or None when the run has no masks.

        Raises:
            ImageError: kind ``no-mask`` when the run has masks and the image has none.
            StorageError: the mask cannot be read.
        """
        settings = self._settings
        if settings.mask_folder is not None:
            return self._read_file(settings.mask_folder, item)
        if settings.mask_column is None:
            return None
        value = self._reader.read_record(item, [settings.mask_column])[settings.mask_column]
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str) and value:
            folder = (item.record or "").rpartition("#")[0].rpartition("/")[0]
            return self._reader.read_file(files.resolve(value, folder), named_by=item.record or "")
        if not isinstance(value, bytes) or not value:
            raise ImageError("no-mask", f"Column {settings.mask_column} holds no mask for this image.")
        return value

    def _read_file(self, folder: str, item: InputItem) -> bytes:
        """Read the mask under the image's own name, or under its stem with .png, inside the folder."""
        parts = [part for part in item.id.split("/") if part not in ("", ".", "..")]
        name = "/".join(parts)
        stem = name.rpartition(".")[0] or name
        for candidate in dict.fromkeys((name, f"{stem}.png")):
            place = files.join(folder, candidate)
            if files.exists(place):
                return self._reader.read_file(place)
        raise ImageError("no-mask", f"{files.masked(folder)} holds neither {name} nor {stem}.png.")


def decode_mask(data: bytes, rgb: Array, max_pixels: int) -> Array:
    """Return a mask (H, W) uint8 for a picture (H, W, 3), 255 where it may change freely and 0 where it may not.

    A mask of another size is stretched to the picture's, each pixel taking its nearest.

    Raises:
        ImageError: kind ``bad-mask`` when it cannot be decoded.
    """
    try:
        mask: Array = decode_image(data, max_pixels=max_pixels).max(axis=2)
    except DmtError as error:
        raise ImageError("bad-mask", f"The mask cannot be used: {error}") from error
    height, width = rgb.shape[:2]
    if mask.shape == (height, width):
        return mask
    rows = (np.arange(height) * mask.shape[0] // height).clip(0, mask.shape[0] - 1)
    columns = (np.arange(width) * mask.shape[1] // width).clip(0, mask.shape[1] - 1)
    return np.ascontiguousarray(mask[rows[:, None], columns])


def working_mask(mask: Array, height: int, width: int) -> Array:
    """Return a mask (height, width) float32 in 0..1 of a mask (H, W) uint8."""
    plane = resize(torch.from_numpy(mask)[None].float(), height, width)[0] / 255
    working: Array = plane.clamp(0, 1).numpy()
    return working
