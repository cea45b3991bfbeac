"""The data behind the page, in scripts that the page loads when it needs them: rows, thumbnails, larger pictures.

A page that is opened from a disk may load scripts and pictures beside it, but may not fetch anything. So each file is
one call with JSON, which is never part of the page's HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dmt_ray.output.layout import REPORT_FOLDER
from dmt_ray.output.report_files import data_name
from dmt_ray.output.schema import ROW_SCHEMA
from dmt_ray.report.figures import figure_names
from dmt_ray.report.pictures import Pictures
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

#: Rows of a file; all of these are loaded when the page is opened.
ROWS_PER_FILE = 2000
#: Rows of a file of thumbnails, which is loaded when one of them is seen.
THUMBNAILS_PER_FILE = 32
#: Characters of a file of larger pictures, about; a photo's pictures are in one file.
_VIEW_SIZE = 2**20
_TEXTS = ("id", "uri", "status", "error_type", "error", "warning")
#: Characters of a text that the page shows.
_LONGEST = 1000


class DataFiles:
    """Writes the data of the photos that the page shows, in order, a file at a time.

    Parameters:
        output: the output of a run.
        digest: of the report, for the files' names.
    """

    def __init__(self, output: str, digest: str) -> None:
        self._folder = files.join(output, REPORT_FOLDER)
        self.digest = digest
        self.names: set[str] = set()
        """What was written."""
        self.rows = 0
        self.photos = 0
        self.without_input = 0
        """Photos without a picture of the input."""
        self._rows: dict[str, list[object]] = {name: [] for name in row_columns()}
        self._before: list[object] = []
        self._after: list[object] = []
        self._views: dict[int, dict[str, object]] = {}
        self._views_size = 0
        self._view_number = 0

    def add(self, pictures: Pictures) -> None:
        """Add a photo's rows and pictures.

        Raises:
            StorageError: a file cannot be written.
        """
        first = self.rows
        if self._views_size >= _VIEW_SIZE:
            self._write_views()
        self._add_view(first, {"before": pictures.before})
        for index, row in enumerate(pictures.photo.rows):
            for name in self._rows:
                self._rows[name].append(_shown(row.get(name)))
            self._rows["photo"][-1] = first
            self._rows["view"][-1] = self._view_number
            self._rows["missing"][-1] = pictures.missing
            self._add_view(first + index, {"after": pictures.after[index], "frames": pictures.frames[index]})
            self._after.append(pictures.after_thumbnails[index])
            # The thumbnail of the input stands once in a file: the photo's other rows name its place.
            place = len(self._before) - index
            self._before.append(pictures.before_thumbnail if index == 0 or place < 0 else place)
            self.rows += 1
            if len(self._after) == THUMBNAILS_PER_FILE:
                self._write_thumbnails()
            if len(self._rows["id"]) == ROWS_PER_FILE:
                self._write_rows()
        self.photos += 1
        self.without_input += pictures.missing is not None

    def finish(self) -> None:
        """Write what is left; raises as ``add``."""
        for write, waiting in (
            (self._write_rows, self._rows["id"]),
            (self._write_thumbnails, self._after),
            (self._write_views, self._views),
        ):
            if waiting:
                write()

    def write_asset(self, kind: str, suffix: str, content: bytes) -> str:
        """Write a script or a style sheet of the page and return its name; raises as ``add``."""
        return self._write(data_name(kind, self.digest, suffix=suffix), content)

    def _add_view(self, row: int, content: Mapping[str, object]) -> None:
        view = self._views.setdefault(row, {})
        view.update({name: value for name, value in content.items() if value})
        self._views_size += sum(len(str(value)) for value in content.values() if value)

    def _write_rows(self) -> None:
        self._write_script("rows", (self.rows - 1) // ROWS_PER_FILE, self._rows)
        self._rows = {name: [] for name in self._rows}

    def _write_thumbnails(self) -> None:
        content = {"before": self._before, "after": self._after}
        self._write_script("thumbs", (self.rows - 1) // THUMBNAILS_PER_FILE, content)
        self._before, self._after = [], []

    def _write_views(self) -> None:
        self._write_script("views", self._view_number, self._views)
        self._views, self._views_size = {}, 0
        self._view_number += 1

    def _write_script(self, kind: str, number: int, content: object) -> None:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        script = f'dmtReport.receive("{kind}",{number},{text});\n'
        self._write(data_name(kind, self.digest, number), script.encode("ascii"))

    def _write(self, name: str, content: bytes) -> str:
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        files.write_atomic(files.join(self._folder, name), content, content_type=kind)
        self.names.add(name)
        return name


def row_columns() -> list[str]:
    """Return what the page knows of a row: columns of the output, and ``photo``, ``view`` and ``missing``."""
    return [*_TEXTS, "step", "flipped", *figure_names(), "photo", "view", "missing"]


def narrow_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a shard's file that the page needs, without pictures."""
    wanted = {*row_columns(), "input_sha256"} & set(ROW_SCHEMA.names)
    return [name for name in schema.names if name in wanted]


def _shown(value: Any) -> object:
    """Return a value as the page gets it: texts without secrets and of bounded length, figures of six digits."""
    if isinstance(value, str):
        text = masked(value)
        return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    if isinstance(value, float):
        return float(f"{value:.6g}") if value - value == 0 else None
    return value
