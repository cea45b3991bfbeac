"""``--format files``: each picture a file, under the folders and the name that its photo has in the input.

An animation lies beside its picture: ``a.animation.webp`` beside ``a.png``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dmt_ray.output.export.manifest import Entry
from dmt_ray.output.export.names import ANIMATION, Names
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.output.export.pictures import Picture
from dmt_ray.output.export.run import ExportedRun
from dmt_ray.output.export.units import Unit, Written, cut
from dmt_ray.output.export.writing import Destination

#: Rows of a unit, about: what is looked at again when an export was stopped.
UNIT_ROWS = 256


class FilesWriter:
    """Writes pictures as files.

    Parameters:
        run: what to export.
        options: with ``flat`` and ``strengths``.
        destination: where to.
        check: raises when the export is to stop.
    """

    most_threads = 64
    whole = False

    def __init__(
        self, run: ExportedRun, options: ExportOptions, destination: Destination, check: Callable[[], None]
    ) -> None:
        self._run, self._options, self._destination, self._check = run, options, destination, check
        self._names = Names(run.source.ids, flat=options.flat)

    def units(self) -> list[Unit]:
        """Return units of some hundred rows."""
        return cut(self._run, ((shard, self._run.facts[shard].rows) for shard in sorted(self._run.facts)), UNIT_ROWS)

    def write(self, unit: Unit, earlier: dict[str, str]) -> Written:
        """Write a unit's pictures; see ``Writer``."""
        entries: list[Entry] = []
        created = 0
        for shard in unit.shards:
            for batch in self._run.batches(shard):
                for picture in batch.all():
                    self._check()
                    path = self._path(picture)
                    put = self._destination.put(path, picture.data, earlier, picture.is_same)
                    created += put.created and not picture.animation
                    entries.append(replace(picture.entry(path), sha256=put.sha256, size=put.size))
        paths = {entry.path for entry in entries}
        for path, sha256 in earlier.items():
            if path not in paths:  # its row has no picture any more
                self._destination.remove(path, sha256)
        return Written(entries, created)

    def finish(self, destination: Destination) -> None:
        """Do nothing: there are only the pictures."""

    def _path(self, picture: Picture) -> str:
        name = self._names.of(picture.id)
        suffix = (ANIMATION if picture.animation else "") + picture.suffix
        if picture.label is None:
            return name + suffix
        if self._options.strengths == "folder":
            return f"{picture.label}/{name}{suffix}"
        return f"{name}_{picture.label}{suffix}"
