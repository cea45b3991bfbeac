"""The files of ``dmt-ray report`` in an output: how they are called, and how they are deleted."""

from __future__ import annotations

import re
from collections.abc import Collection

from dmt_ray.output.layout import REPORT_FOLDER
from dmt_ray.storage import files

REPORT_PAGE = "index.html"
#: Every other file's name: what it holds, the digest of the report that it belongs to, and a number.
_DATA_NAME = re.compile(r"[a-z]+-[0-9a-f]{12}(-[0-9]{4,})?\.(js|css)")
#: In the page, for this program's page to be known.
GENERATOR = b'<meta name="generator" content="dmt_ray report">'


def data_name(kind: str, digest: str, number: int | None = None, suffix: str = "js") -> str:
    """Return a data file's name, such as ``thumbs-0123456789ab-0002.js``."""
    return f"{kind}-{digest}" + ("" if number is None else f"-{number:04d}") + f".{suffix}"


def is_foreign_report(output: str) -> bool:
    """Tell whether ``report/index.html`` is there and another program's."""
    page = files.join(output, REPORT_FOLDER, REPORT_PAGE)
    return files.exists(page) and GENERATOR not in files.read_bytes(page)


def delete_report(output: str, keep: Collection[str] = ()) -> None:
    """Delete what ``dmt-ray report`` wrote into an output, and nothing else.

    Parameters:
        output: the output of a run.
        keep: names of files that stay.

    Raises:
        StorageError: a file cannot be deleted.
    """
    folder = files.join(output, REPORT_FOLDER)
    names = files.list_names(folder)
    if REPORT_PAGE in names - set(keep) and not is_foreign_report(output):
        files.delete(files.join(folder, REPORT_PAGE))
    for name in sorted(names - set(keep)):
        if _DATA_NAME.fullmatch(name):
            files.delete(files.join(folder, name))
