"""An image on its way through each of the two stages, and its photo's pixels as both see them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dmt_ray.config import InputConfig
from dmt_ray.jobs.job import Array
from dmt_ray.method.displacement import Displacement
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.output.row import Row
from dmt_ray.pipeline.error_rows import describe_error
from dmt_ray.pipeline.traversed import TraversedImage
from dmt_ray.storage.images import DecodedImage, decode
from dmt_ray.storage.metadata import Beside, Metadata


@dataclass
class LoadedImage:
    """An item on its way through the traversal, and its working picture when it could be read."""

    image: TraversedImage
    picture: Array | None = None
    identity: ImageIdentity = field(default_factory=ImageIdentity)

    def fail(self, error: Exception) -> None:
        """Note why there is no result."""
        self.image.error_type, self.image.error = describe_error(error)
        self.image.source = None


@dataclass
class SourceImage:
    """An image on its way through the reconstruction, with what its rows have in common."""

    row: Row
    data: bytes | None = None
    displacement: Displacement | None = None
    mask_data: bytes | None = None
    mask: Array | None = None
    rgb: Array | None = None
    metadata: Metadata | None = None
    beside: Beside | None = None
    rows: list[Row] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Note why there is no result."""
        kind, text = describe_error(error)
        self.row = replace(self.row, error_type=kind, error=text)

    def shared_among(self, steps: int) -> Row:
        """Return what the rows of all steps have in common, with the time spent divided among them."""
        read, traverse = self.row.seconds_read, self.row.seconds_traverse
        return replace(
            self.row,
            seconds_read=None if read is None else read / steps,
            seconds_traverse=None if traverse is None else traverse / steps,
        )


def decode_input(data: bytes, inputs: InputConfig) -> DecodedImage:
    """Decode a photo as the run's options allow.

    Raises:
        ImageError: it cannot be decoded, is larger than ``max_pixels``, or is truncated and not accepted.
    """
    return decode(data, max_pixels=inputs.max_pixels, accept_truncated=inputs.accept_truncated)
