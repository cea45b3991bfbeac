"""Pictures and animations to export: of a few rows at a time, signed where the user has a certificate."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.output.export.manifest import Entry
from dmt_ray.output.schema import column_name
from dmt_ray.output.shard_file import DamagedShardError
from dmt_ray.storage.signing import Signable, Signer, SigningError


@dataclass(frozen=True)
class Picture:
    """A picture or an animation to export."""

    id: str
    step: int
    strength: float | None
    label: str | None
    """What tells it from the image's other steps; None where there is one step."""
    suffix: str
    """Of its format, with the dot."""
    data: bytes
    sha256: str
    animation: bool = False
    is_same: Callable[[bytes], bool] | None = None
    """Tells of a file whether it is this picture under another signature; None where ``data`` are not signed."""

    def entry(self, path: str, member: str | None = None) -> Entry:
        """Return the row of the manifest that tells where the picture is."""
        return Entry(
            path, self.sha256, len(self.data), member, self.id, self.step, self.strength, animation=self.animation
        )


@dataclass(frozen=True)
class Batch:
    """Some rows to export."""

    rows: pa.Table
    """Rows that are ok, with all columns."""
    pictures: list[Picture]
    """Of the rows, in order."""
    animations: list[Picture | None]
    """Of the rows, in order; None where a row has none."""

    def all(self) -> Iterator[Picture]:
        """Yield each picture, and its animation behind it."""
        for pair in zip(self.pictures, self.animations, strict=True):
            yield from (each for each in pair if each is not None)


def read_batch(rows: pa.Table, labels: Sequence[str] | None, version: int) -> Batch:
    """Return rows with their pictures and animations.

    Parameters:
        rows: that are ok, with all columns.
        labels: what tells each from the image's other steps; None where there is one step.
        version: the rows' schema version.

    Raises:
        DamagedShardError: a picture is not the one that was written.
    """
    pictures = []
    narrow = rows.select(["id", "step", "strength", "image_format", "image_sha256"]).to_pylist()
    for index, (row, image) in enumerate(zip(narrow, rows["image"], strict=True)):
        data = image.as_py()
        if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
            raise DamagedShardError(f"the image of {row['id']} is not the one that was written (checksum)")
        picture = Picture(
            id=row["id"],
            step=row["step"],
            strength=row["strength"],
            label=None if labels is None else labels[index],
            suffix=_suffix(row["image_format"]),
            data=data,
            sha256=row["image_sha256"],
        )
        pictures.append(picture)
    given = rows[column_name("animation", version)].to_pylist()
    animations = [each and _animation(picture, each) for picture, each in zip(pictures, given, strict=True)]
    return Batch(rows, pictures, animations)


def _animation(picture: Picture, data: bytes) -> Picture:
    """Return the animation that leads to a picture."""
    suffix = ".gif" if data.startswith(b"GIF8") else ".webp"
    return replace(picture, suffix=suffix, data=data, sha256=hashlib.sha256(data).hexdigest(), animation=True)


def _suffix(image_format: str) -> str:
    """Return the ending of a format's files: png16 is a PNG, too."""
    name = "".join(char for char in image_format.lower() if char.isalpha()) or "image"
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(name, f".{name}")


def sign_batch(batch: Batch, signer: Signer, run: str, version: int) -> Batch:
    """Return rows with their pictures and animations signed, and with the checksums of the signed ones.

    Parameters:
        batch: rows as the run wrote them.
        signer: the certificate and its key.
        run: the run's fingerprint.
        version: the rows' schema version.

    Raises:
        SettingsError: a picture cannot be signed; names its id.
    """
    formats = batch.rows["image_format"].to_pylist()
    known = "digital_source_type" in batch.rows.column_names
    terms = batch.rows["digital_source_type"].to_pylist() if known else [None] * len(formats)
    pictures = [
        _signed(picture, Signable(picture.data, image_format, run, term), signer)
        for picture, image_format, term in zip(batch.pictures, formats, terms, strict=True)
    ]
    animations = [
        each and _signed(each, Signable(each.data, each.suffix.removeprefix("."), run, term), signer)
        for each, term in zip(batch.animations, terms, strict=True)
    ]
    columns = {
        "image": [picture.data for picture in pictures],
        "image_sha256": [picture.sha256 for picture in pictures],
        column_name("animation", version): [each and each.data for each in animations],
    }
    rows = batch.rows
    for name, values in columns.items():
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type))
    return Batch(rows, pictures, animations)


def _signed(picture: Picture, unsigned: Signable, signer: Signer) -> Picture:
    try:
        data = signer.sign(unsigned)
    except SigningError as error:
        raise SettingsError(f"{picture.id}: {error}") from error
    is_same = functools.partial(signer.has_signed, picture=unsigned)
    return replace(picture, data=data, sha256=hashlib.sha256(data).hexdigest(), is_same=is_same)
