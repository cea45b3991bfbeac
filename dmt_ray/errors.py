"""The errors that dmt_ray raises on purpose; everything else is a defect."""


class DmtError(Exception):
    """Base of every error that is meant for the user's eyes."""


class SettingsError(DmtError):
    """An option, a path or an existing output does not allow the run; the message says what to do."""


class ImageError(DmtError):
    """One input image cannot be used.

    Parameters:
        kind: a short stable slug that becomes the row's ``error_type``, such as ``truncated``.
        message: one sentence that names the value that was wrong.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Keep ``kind`` when the error crosses a process boundary."""
        return type(self), (self.kind, str(self))
