"""The errors that dmt_ray raises on purpose; everything else is a defect."""


class DmtError(Exception):
    """Base of every error that is meant for the user's eyes."""


class SettingsError(DmtError):
    """An option, a path or an existing output does not allow the run; the message says what to do."""


#: What ``error_type`` says of an image, and what it means; docs/errors.md lists the same.
ERROR_TYPES = {
    "empty": "the file has no bytes, or the table's cell is null",
    "not-an-image": "no image format that is read, whatever its name says",
    "truncated": "the end of the file is missing; --accept-truncated keeps what is there",
    "too-large": "more pixels than --max-pixels, more bytes than --max-bytes, or a side too long for the format",
    "unsupported": "an image, perhaps a sound one, of a kind that is not read; the message says what reads it",
    "unreadable": "an image format, but damaged",
    "storage": "the file could not be read; the reason is in error",
    "changed": "the photo, or the table or archive that it lies in, is not the one that was planned",
    "no-exemplars": "no exemplar is left for the image, once itself and its group are left out",
    "no-attributes": "an attribute column of the image is missing or no number",
    "no-mask": "the run has masks, and the image has none",
    "bad-mask": "the image's mask cannot be decoded",
    "bad-displacement": "the saved displacement is damaged, or does not fit the manifold",
    "not-finite": "a figure or a pixel of the result is not a finite number",
    "grey": "a reference has no colour to learn from (references only)",
    "crash": "its process died each time it was tried, in the end alone",
}


class ImageError(DmtError):
    """One input image cannot be used.

    Parameters:
        kind: one of ``ERROR_TYPES``; becomes the row's ``error_type``.
        message: one sentence that names the value that was wrong.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Keep ``kind`` when the error crosses a process boundary."""
        return type(self), (self.kind, str(self))
