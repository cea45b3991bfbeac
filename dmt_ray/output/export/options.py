"""What to export, and in which form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from dmt_ray.config import require, require_choice

ExportFormat = Literal["files", "webdataset", "huggingface"]
StrengthNames = Literal["suffix", "folder"]


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``dmt-ray export``."""

    format: ExportFormat = "files"
    """files: images under the input's folders and names; webdataset: tar archives; huggingface: Parquet files."""
    only: str | None = None
    """Take only rows for which this SQL expression over their columns is true, such as "flipped AND strength < 4"."""
    flat: bool = False
    """files: no folders; a folder's name becomes a part of the file's name."""
    strengths: StrengthNames = "suffix"
    """files: where a run with several strengths has them: photo_strength-2.png, or strength-2/photo.png."""
    file_size: int = 500
    """webdataset, huggingface: megabytes of a file, about."""
    threads: int = 8
    """Files that are worked on side by side."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_choice("format", self.format, ExportFormat)
        require_choice("strengths", self.strengths, StrengthNames)
        require(self.only is None or bool(self.only.strip()), "only", self.only, "a SQL expression")
        require(self.format == "files" or not self.flat, "flat", self.flat, "left out unless --format is files")
        require(self.file_size >= 1, "file_size", self.file_size, "at least 1")
        require(1 <= self.threads <= 64, "threads", self.threads, "between 1 and 64")

    def recorded(self) -> dict[str, object]:
        """Return the options that decide what is written."""
        values = asdict(self)
        del values["threads"]
        return values
