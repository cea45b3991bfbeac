"""``--format webdataset``: tar archives in which each picture lies beside a JSON file with its row's columns."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
from collections.abc import Callable
from typing import Any

from dmt_ray.output.export.manifest import Entry
from dmt_ray.output.export.names import Names
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.output.export.pictures import Picture
from dmt_ray.output.export.run import ExportedRun
from dmt_ray.output.export.units import Unit, Written, announce, cut_by_bytes, without_pictures
from dmt_ray.output.export.writing import Destination
from dmt_ray.storage.tar_writer import TarWriter


class WebDatasetWriter:
    """Writes archives; see ``FilesWriter`` for the parameters."""

    most_threads = 64
    whole = True

    def __init__(
        self, run: ExportedRun, options: ExportOptions, destination: Destination, check: Callable[[], None]
    ) -> None:
        self._run, self._options, self._destination, self._check = run, options, destination, check
        # The library takes what comes before the first dot for the sample's key, and a slash for a folder.
        self._names = Names(run.source.ids, flat=True, dots=False)

    def units(self) -> list[Unit]:
        """Return a unit for each archive."""
        return cut_by_bytes(self._run, self._options.file_size)

    def write(self, unit: Unit, earlier: dict[str, str]) -> Written:
        """Write a unit's archive; see ``Writer``."""
        path = f"shard-{unit.number:06d}.tar"
        entries: list[Entry] = []
        pictures = 0
        with self._destination.create(path) as file:
            with TarWriter(file) as tar:
                for shard in unit.shards:
                    for batch in self._run.batches(shard):
                        columns = without_pictures(self._run, batch.rows).to_pylist()
                        for picture, animation, row in zip(batch.pictures, batch.animations, columns, strict=True):
                            self._check()
                            key = self._key(picture)
                            tar.add(key + picture.suffix, picture.data)
                            tar.add(f"{key}.json", _json(row))
                            entries.append(picture.entry(path, member=key + picture.suffix))
                            pictures += 1
                            if animation is not None:
                                member = f"{key}.animation{animation.suffix}"
                                tar.add(member, animation.data)
                                entries.append(animation.entry(path, member))
            whole = Entry(path, file.hexdigest(), file.tell())
            announce(self._destination, unit, [whole, *entries])
        return Written([whole, *entries], pictures)

    def finish(self, destination: Destination) -> None:
        """Do nothing: there are only the archives."""

    def _key(self, picture: Picture) -> str:
        name = self._names.of(picture.id)
        return name if picture.label is None else f"{name}_{picture.label.replace('.', '_')}"


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: times as text, bytes in base64, and null for what is no finite number."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal():
            return str(value)
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value
