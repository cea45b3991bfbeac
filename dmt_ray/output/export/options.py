"""What to export, and in which form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from dmt_ray.config import require, require_choice
from dmt_ray.errors import SettingsError
from dmt_ray.storage import files
from dmt_ray.storage.errors import StorageError
from dmt_ray.storage.signing import Signer, load_signer

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
    sign_certificate: str | None = None
    """PEM file of your own certificate, followed by those up to its root: sign every picture by C2PA."""
    sign_key: str | None = field(default=None, repr=False)
    """PEM file of the certificate's private key, without a passphrase."""
    threads: int = 8
    """Files that are worked on side by side."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_choice("format", self.format, ExportFormat)
        require_choice("strengths", self.strengths, StrengthNames)
        require(self.only is None or bool(self.only.strip()), "only", self.only, "a SQL expression")
        require(self.format == "files" or not self.flat, "flat", self.flat, "left out unless --format is files")
        require(self.file_size >= 1, "file_size", self.file_size, "at least 1")
        if (self.sign_certificate is None) != (self.sign_key is None):
            raise SettingsError("--sign-certificate and --sign-key belong together: give both or neither.")
        require(1 <= self.threads <= 64, "threads", self.threads, "between 1 and 64")

    def recorded(self) -> dict[str, object]:
        """Return the options that decide what is written; where the certificate and the key lie does not."""
        values = asdict(self)
        for name in ("threads", "sign_certificate", "sign_key"):
            del values[name]
        return values

    def signer(self) -> Signer | None:
        """Return what signs the pictures; None where they are not signed.

        Raises:
            SettingsError: certificate or key cannot be read or used; does not say where the key lies.
        """
        if self.sign_certificate is None or self.sign_key is None:
            return None
        try:
            certificate = files.read_bytes(files.absolute(self.sign_certificate))
        except StorageError as error:
            raise SettingsError(f"--sign-certificate cannot be read: {error}") from error
        try:
            key = files.read_bytes(files.absolute(self.sign_key))
        except StorageError as error:
            raise SettingsError(f"The file of --sign-key cannot be read: {error.reason}.") from None
        return load_signer(certificate, key)
