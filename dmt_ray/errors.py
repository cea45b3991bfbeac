"""The errors that dmt_ray raises on purpose; everything else is a defect. Their messages hold no secrets."""

from __future__ import annotations

from dmt_ray.masking import masked


class DmtError(Exception):
    """Base of every error that is meant for the user's eyes; secrets in its message are masked."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(each) if isinstance(each, str) else each for each in arguments))


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
    "refused": "a list or table names what it may not name (docs/security.md); --allow-uri allows it",
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

#: What to do about each of them; docs/errors.md and the report's page say the same.
ERROR_REMEDIES = {
    "empty": "Fetch or export the photo again, then run with --retry-failed.",
    "not-an-image": "Replace the file by an image, or keep it out of the input.",
    "truncated": "Copy or download the photo again, then run with --retry-failed; or use --accept-truncated.",
    "too-large": "Raise --max-pixels or --max-bytes, use --image-format png, or scale the photo down first.",
    "unsupported": "Install what the message names, or save the photo anew as PNG or JPEG; then --retry-failed.",
    "unreadable": "Replace the file by a sound copy, or save it anew as PNG or JPEG, then run with --retry-failed.",
    "storage": "Make the file readable (its place, permissions, network), then run with --retry-failed.",
    "refused": "Allow the place with --allow-uri, or correct the list, then run with --retry-failed.",
    "changed": "Run with --retry-failed, which takes a photo as it is now; a changed table needs another --output.",
    "no-exemplars": "Add exemplars of other groups than the image's own.",
    "no-attributes": "Fill in the attribute columns of the image's row, or use --neighbors-by features.",
    "no-mask": "Add the missing mask under the photo's name, then run with --retry-failed.",
    "bad-mask": "Replace the mask by a readable image, then run with --retry-failed.",
    "bad-displacement": "Run the job with --traversal-only again, with the manifold that is used here.",
    "not-finite": "Try a smaller --strength or --precision fp32; if it stays, please report it.",
    "grey": "Use a colour photo as reference.",
    "crash": "Read how its process died; give it more memory, a smaller --size, or a longer --shard-timeout.",
}
#: What to do about an ``error_type`` that is none of them: a Python exception's name.
OTHER_REMEDY = "Please report it, with the message."


class ImageError(DmtError):
    """One input image cannot be used.

    Parameters:
        kind: one of ``ERROR_TYPES``; becomes the row's ``error_type``.
        message: one sentence that names the value that was wrong.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Keep ``kind`` when the error crosses a process boundary."""
        return type(self), (self.kind, str(self))
