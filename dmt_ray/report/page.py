"""``dmt-ray report``: one static page about an output, which opens from a disk or a bucket without a network."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyarrow.parquet import ParquetFile

from dmt_ray.config import InputConfig, ReportOptions
from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import SHARDS_FOLDER, shard_name, shard_uri
from dmt_ray.output.compaction_record import is_compaction
from dmt_ray.output.layout import REPORT_FOLDER
from dmt_ray.output.plan import Plan, load_plan
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.report_files import REPORT_PAGE, delete_report, is_foreign_report
from dmt_ray.output.run_record import RunRecord, read_run
from dmt_ray.output.schema import column_name
from dmt_ray.output.shard_file import Committed, DamagedShardError, committed, each, reading_shard
from dmt_ray.output.versions import recorded_expected
from dmt_ray.report.data_files import DataFiles, narrow_columns
from dmt_ray.report.pictures import InputPictures, Photo, Pictures, draw
from dmt_ray.report.render import SCRIPTS, STYLE, asset, render_page
from dmt_ray.report.summary import Summary
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: Photos that are decoded side by side; each is held at its full size.
_THREADS = 3
#: Rows whose encoded pictures are read at a time.
_ROWS_AT_ONCE = 4
#: How often the log tells how far it is.
_TELL_SECONDS = 10.0
#: Jobs that make their inputs grey.
_GREY_JOBS = frozenset({"colorize"})


@dataclass(frozen=True)
class WrittenReport:
    """What was written."""

    page: str
    """Where the page is."""
    rows: int
    photos: int
    """In the list."""
    without_input: int
    """Photos without a picture of the input."""
    unread: Mapping[int, str] = field(default_factory=dict)
    """What is wrong with damaged shards, by number; their rows, or some of their pictures, are missing."""

    def sentences(self) -> list[str]:
        """Say what was written, one fact a line."""
        lines = [f"{masked(self.page)}: {counted(self.rows, 'row')}, {counted(self.photos, 'photo')} in the list."]
        if self.without_input:
            have = agreed(self.without_input, "has", "have")
            lines.append(f"{counted(self.without_input, 'photo')} {have} no picture of the input; the page says why.")
        if self.unread:
            are, them = agreed(len(self.unread), "is", "are"), agreed(len(self.unread), "it", "them")
            lines.append(
                f"{counted(len(self.unread), 'shard')} {are} damaged: rows or pictures of {them} are missing, see "
                "`dmt-ray verify`."
            )
        return lines


def write_report(output: str, options: ReportOptions | None = None) -> WrittenReport:
    """Write the page of a run, finished or not, into ``report/`` of its output, in place of an earlier one.

    One shard is held at a time, and a few decoded photos. The page appears last, when all that it needs is there.

    Parameters:
        output: the folder or URI of a run.
        options: what the page shows.

    Raises:
        SettingsError: there is no run, or ``report/index.html`` is not this program's.
        StorageError: a file cannot be read or written.
    """
    options = options or ReportOptions()
    if is_compaction(output):
        raise SettingsError(f"{masked(output)} is a compaction; name the --output of the run.")
    record, plan = read_run(output), load_plan(output)
    if is_foreign_report(output):
        raise SettingsError(
            f"{masked(files.join(output, REPORT_FOLDER, REPORT_PAGE))} was not written by this program; move it away."
        )
    expected = recorded_expected(output, plan)
    found = committed(plan, expected)
    data = DataFiles(output, _digest(record, plan, found, options))
    reading = _Reading(output, plan, found, options.limit, expected.version)
    inputs = None
    if options.read_input:
        reader = InputReader(record.option("inputs", "max_bytes"), plan.containers)
        largest = record.option("inputs", "max_pixels") or InputConfig.max_pixels
        inputs = InputPictures(reader, largest, grey=record.job in _GREY_JOBS)

    def picture(photo: Photo) -> Pictures:
        return draw(photo, options.picture_size, inputs)

    told = time.monotonic()
    for pictures in each(picture, reading.photos(), _THREADS):
        data.add(pictures)
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            expected_photos = counted(min(plan.images, options.limit), "photo")
            are = agreed(data.photos, "is", "are")
            logger.info("%d of %s %s in the report.", data.photos, expected_photos, are)
    data.finish()
    if inputs is not None:
        inputs.reader.close()
    page = files.join(output, REPORT_FOLDER, REPORT_PAGE)
    assets = {script: data.write_asset(script, "js", asset(f"{script}.js")) for script in SCRIPTS}
    assets[STYLE] = data.write_asset(STYLE, "css", asset(f"{STYLE}.css"))
    rows = {shard_name(number): facts.rows for number, facts in found.sound.items() if number not in reading.unread}
    html = render_page(
        record,
        plan,
        reading.summary,
        data,
        assets,
        rows=rows,
        times=files.modified_times(files.join(output, SHARDS_FOLDER)),
        limited=data.photos == options.limit < plan.images,
        unread={shard_name(number): reason for number, reason in sorted(reading.unread.items())},
    )
    files.write_atomic(page, html.encode(), content_type="text/html; charset=utf-8")
    delete_report(output, keep={REPORT_PAGE, *data.names})
    return WrittenReport(page, reading.summary.rows, data.photos, data.without_input, reading.unread)


class _Reading:
    """Reads the sound shards of an output: all rows into a summary, and the first photos with their pictures."""

    def __init__(self, output: str, plan: Plan, found: Committed, limit: int, version: int) -> None:
        self.output = output
        self._plan = plan
        self.sound = found.sound
        self._limit = limit
        self._animation = column_name("animation", version)
        self._taken = 0
        self.unread = dict(found.damaged)
        self.summary = Summary()

    def photos(self) -> Iterator[Photo]:
        """Yield the photos of the list in the plan's order; when this ends, the summary is of all rows."""
        for shard in self._plan.only(self.sound):
            try:
                with reading_shard(shard_uri(self.output, shard.number)) as file:
                    rows = file.read(columns=narrow_columns(file.schema_arrow))
                    self.summary.add(rows)
                    if self._taken < self._limit:
                        yield from self._photos_of(file, shard, rows.to_pylist())
            except DamagedShardError as error:
                logger.warning("%s is damaged: %s.", shard_name(shard.number), error)
                self.unread[shard.number] = str(error)

    def _photos_of(self, file: ParquetFile, shard: Shard, rows: list[dict[str, Any]]) -> Iterator[Photo]:
        items = {item.id: item for item in shard.items}
        columns = ["image", self._animation]
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False)
        wide = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        whole = (
            row | {"image": pictures["image"], "animation": pictures[self._animation]}
            for row, pictures in zip(rows, wide, strict=True)
        )
        for id_, group in itertools.groupby(whole, key=lambda row: row["id"]):
            if id_ not in items:
                raise DamagedShardError("its rows are not those of the plan")
            if self._taken == self._limit:
                return
            self._taken += 1
            yield Photo(items[id_], list(group))


def _digest(record: RunRecord, plan: Plan, found: Committed, options: ReportOptions) -> str:
    """Return what tells this report's files from those of another one of the same output."""
    facts = [record.fingerprint, str(plan.images), repr(options)]
    facts += [f"{number} {shard.body_sha256} {shard.size}" for number, shard in sorted(found.sound.items())]
    digest = hashlib.sha256("\n".join(facts).encode())
    for name in (*(f"{script}.js" for script in SCRIPTS), f"{STYLE}.css"):
        digest.update(asset(name))
    return digest.hexdigest()[:12]
