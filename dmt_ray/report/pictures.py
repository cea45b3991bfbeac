"""The pictures of one photo for the page: results, the input as it can be read again, and the way between them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dmt_ray.errors import DmtError, ImageError
from dmt_ray.storage.files import StorageError, masked
from dmt_ray.storage.images import decode_animation, decode_image
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader

#: The longest side of a picture in the list, in pixels: twice what the page shows, for fine screens.
THUMBNAIL = 160
#: The longest side of a frame of the way from the input to the result.
_FRAME = 320
_QUALITY = 80
#: So many photos in a row that cannot be read mean that the place is gone: each try may take a store a minute.
_MOST_FAILED = 50
#: Results are the run's own pictures, of whatever size its inputs had.
_ANY_SIZE = 2**62
_CHANGED = "The photo, or the table or archive that it lies in, has changed since the run."
#: Error rows of which no picture can be had.
_UNREADABLE = frozenset({"empty", "not-an-image", "truncated", "unreadable", "too-large", "storage"})


@dataclass(frozen=True)
class Photo:
    """A photo with its rows, one for each step."""

    item: InputItem
    rows: Sequence[dict[str, Any]]
    """With the columns ``image`` and ``path``, where pictures are wanted."""


@dataclass
class Pictures:
    """The pictures of a photo as ``data:`` URIs, small for the list and larger for a look at one."""

    photo: Photo
    before: str | None = None
    before_thumbnail: str | None = None
    missing: str | None = None
    """Why there is no picture of the input."""
    after: list[str | None] = field(default_factory=list)
    """By row."""
    after_thumbnails: list[str | None] = field(default_factory=list)
    frames: list[list[str]] = field(default_factory=list)
    """By row: the way from the input to the result."""


@dataclass
class InputPictures:
    """Reads pictures of the input; gives up on a place where many in a row cannot be read."""

    reader: InputReader
    max_pixels: int
    grey: bool = False
    """The job makes its inputs grey, and so is the picture."""
    _failed: int = 0
    """Photos in a row whose files could not be read."""

    def read(self, item: InputItem, input_sha256: str | None) -> Image.Image:
        """Return the picture of an item, if it is still the one that the run has read.

        Raises:
            DmtError: it is not, or it cannot be read or decoded.
        """
        if self._failed >= _MOST_FAILED:
            raise ImageError("storage", "Many photos before it could not be read, so it was not tried.")
        try:
            # A checksum says more than the plan's size and time: a photo that was replaced, and done again, is shown.
            data = self.reader.read_item(item, accept_changed=input_sha256 is not None)
        except StorageError:
            self._failed += 1
            raise
        self._failed = 0
        if input_sha256 is not None and hashlib.sha256(data).hexdigest() != input_sha256:
            raise ImageError("changed", _CHANGED)
        image = Image.fromarray(decode_image(data, max_pixels=self.max_pixels))
        return image.convert("L") if self.grey else image


def draw(photo: Photo, size: int, inputs: InputPictures | None) -> Pictures:
    """Make the pictures of a photo.

    Parameters:
        photo: with images in its rows.
        size: longest side of the larger pictures, in pixels.
        inputs: how the input is read; None: it is not.
    """
    pictures = Pictures(photo)
    for row in photo.rows:
        thumbnail, picture = _both(row.get("image"), size)
        pictures.after_thumbnails.append(thumbnail)
        pictures.after.append(picture)
        pictures.frames.append(_frames(row.get("animation"), min(size, _FRAME)))
    if inputs is None:
        pictures.missing = "The report was made without reading the input."
        return pictures
    first = photo.rows[0]
    if first["error_type"] in _UNREADABLE:
        pictures.missing = "The photo could not be read."
        return pictures
    try:
        image = inputs.read(photo.item, first.get("input_sha256"))
    except DmtError as error:
        changed = isinstance(error, ImageError) and error.kind == "changed"
        pictures.missing = _CHANGED if changed else masked(str(error))
        return pictures
    pictures.before_thumbnail, pictures.before = _scaled(image, size)
    return pictures


def _both(data: bytes | None, size: int) -> tuple[str | None, str | None]:
    """Return a small and a larger picture of an encoded result; None where there is none, or it is damaged."""
    if data is None:
        return None, None
    try:
        return _scaled(Image.fromarray(decode_image(data, max_pixels=_ANY_SIZE)), size)
    except ImageError:
        return None, None


def _scaled(image: Image.Image, size: int) -> tuple[str, str]:
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    picture = _data_uri(image)
    if max(image.size) <= THUMBNAIL:
        return picture, picture
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _data_uri(image), picture


def _frames(data: bytes | None, size: int) -> list[str]:
    """Return the frames of an animation that the run encoded; none where there is none, or it is damaged."""
    if data is None:
        return []
    frames = []
    try:
        for frame in decode_animation(data):
            image = Image.fromarray(frame)
            image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            frames.append(_data_uri(image))
    except ImageError:
        return []
    return frames


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
