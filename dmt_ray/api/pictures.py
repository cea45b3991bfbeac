"""Pictures as Python has them: a path or URI, encoded bytes, a PIL image or an array; each becomes an input item."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmt_ray.errors import ImageError
from dmt_ray.storage import files
from dmt_ray.storage.inputs.listing import FOUND, InputItem

#: A path or URI, an encoded file's bytes, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8.
Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]

#: Modes of PIL that a PNG file can hold.
_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})


def encoded(picture: bytes | Image.Image | npt.NDArray[np.uint8]) -> bytes:
    """Return a picture in memory as the bytes of an image file, without loss; bytes as they are.

    A PIL image keeps its colour profile and its EXIF data, and so its orientation, as if its file were read.

    Raises:
        ImageError: kind ``unsupported`` for another array or mode, ``unreadable`` when PIL cannot load the image.
        TypeError: it is nothing of the kind.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        picture = _image(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(f"A picture is a path, bytes, a PIL image or an array, and not {type(picture).__name__}.")
    try:
        picture.load()
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise ImageError("unreadable", f"PIL cannot load the image: {error}") from error
    if picture.mode not in {*_PNG_MODES, "CMYK"}:
        raise ImageError(
            "unsupported", f"A PIL image of mode {picture.mode} is not taken; convert it first: image.convert('RGB')."
        )
    exif = picture.getexif()
    beside = {"icc_profile": picture.info.get("icc_profile"), "exif": exif.tobytes() if exif else None}
    kept = {name: value for name, value in beside.items() if value}
    buffer = io.BytesIO()
    if picture.mode == "CMYK":
        picture.save(buffer, "TIFF", **kept)
    else:
        picture.save(buffer, "PNG", compress_level=0, **kept)
    return buffer.getvalue()


def _image(array: npt.NDArray[np.uint8]) -> Image.Image:
    plane = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype != np.uint8 or not array.size or not (plane.ndim == 2 or plane.shape[2:] in ((3,), (4,))):
        raise ImageError(
            "unsupported",
            f"The array is {array.dtype} of shape {array.shape}; it must be uint8, of shape (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4).",
        )
    return Image.fromarray(np.ascontiguousarray(plane))


@contextmanager
def as_items(pictures: Sequence[Picture], name: str) -> Iterator[list[InputItem | ImageError]]:
    """Yield pictures as items that can be read until the end of the block, or what is wrong with each.

    Pictures in memory lie in fsspec's ``memory://`` meanwhile.

    Parameters:
        pictures: in any of their forms.
        name: what their ids are called.
    """
    folder = f"memory://dmt_ray-{uuid.uuid4().hex}"
    written: list[str] = []

    def item(number: int, picture: Picture) -> InputItem | ImageError:
        if isinstance(picture, str | os.PathLike):
            uri = files.absolute(os.fspath(picture))
            return InputItem(f"{name} {number}, {files.masked(uri)}", uri, origin=FOUND)
        try:
            data = encoded(picture)
        except ImageError as error:
            return error
        uri = f"{folder}/{number}"
        files.write_atomic(uri, data)
        written.append(uri)
        return InputItem(f"{name} {number}", uri, origin=FOUND)

    try:
        yield [item(number, picture) for number, picture in enumerate(pictures)]
    finally:
        for uri in written:
            files.delete(uri)
