"""Tar archives are written member by member, the same bytes for the same members."""

from __future__ import annotations

import io
import tarfile
from types import TracebackType
from typing import IO, Any, cast

#: Bytes written at a time.
_BLOCK = 2**22


class TarWriter:
    """Write a tar archive; use it as a context manager, which ends the archive.

    Members have no time and no owner, so that the same members give the same archive.

    Parameters:
        file: takes bytes with ``write``, and says with ``tell`` how many it has; is not closed.
    """

    def __init__(self, file: Any) -> None:
        self._tar = tarfile.TarFile(
            fileobj=cast(IO[bytes], file), mode="w", format=tarfile.PAX_FORMAT, copybufsize=_BLOCK
        )

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._tar.close()

    def add(self, name: str, data: bytes) -> None:
        """Add a file.

        Parameters:
            name: of the member.
            data: its content.
        """
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        self._tar.addfile(info, io.BytesIO(data))
