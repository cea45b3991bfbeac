"""``dmt-ray report``: one static page about an output, which opens from a disk or a bucket without a network."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
from pyarrow.parquet import ParquetFile

from dmt_ray.config import InputConfig, ReportOptions
from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import SHARDS_FOLDER, shard_name, shard_uri
from dmt_ray.output.compact import is_compaction
from dmt_ray.output.layout import REPORT_FOLDER
from dmt_ray.output.plan import Plan, Shard, load_plan
from dmt_ray.output.report_files import REPORT_PAGE, delete_report, is_foreign_report
from dmt_ray.output.run_record import RunRecord, read_run
from dmt_ray.output.shard_file import Committed, DamagedShardError, committed, each, reading_shard
from dmt_ray.output.versions import recorded_expected
from dmt_ray.report import charts
from dmt_ray.report.data_files import ROWS_PER_FILE, THUMBNAILS_PER_FILE, DataFiles, narrow_columns
from dmt_ray.report.figures import figure_names, label_of
from dmt_ray.report.pictures import InputPictures, Photo, Pictures, draw
from dmt_ray.report.summary import Summary, throughput
from dmt_ray.storage import files
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.reader import InputReader

logger = logging.getLogger(__name__)

#: Photos that are decoded side by side; each is held at its full size.
_THREADS = 3
#: Rows whose encoded pictures are read at a time.
_ROWS_AT_ONCE = 4
#: Jobs that make their inputs grey.
_GREY_JOBS = frozenset({"colorize"})
_SCRIPTS = ("data", "list", "photo")
_STYLE = "style"


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
    """Why shards are left out, by number."""

    def sentences(self) -> list[str]:
        """Say what was written, one fact a line."""
        lines = [f"{masked(self.page)}: {self.rows} rows, {self.photos} photos in the list."]
        if self.without_input:
            lines.append(f"{self.without_input} photos have no picture of the input; the page says why.")
        if self.unread:
            lines.append(f"{len(self.unread)} damaged shards are left out; `dmt-ray verify` says more.")
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
    found = committed(plan, recorded_expected(output, plan))
    data = DataFiles(output, _digest(record, plan, found, options))
    reading = _Reading(output, plan, found, options.limit)
    inputs = None
    if options.read_input:
        reader = InputReader(record.option("inputs", "max_bytes"), plan.containers)
        largest = record.option("inputs", "max_pixels") or InputConfig.max_pixels
        inputs = InputPictures(reader, largest, grey=record.job in _GREY_JOBS)

    def picture(photo: Photo) -> Pictures:
        return draw(photo, options.picture_size, inputs)

    for pictures in each(picture, reading.photos(), _THREADS):
        data.add(pictures)
    data.finish()
    if inputs is not None:
        inputs.reader.close()
    page = files.join(output, REPORT_FOLDER, REPORT_PAGE)
    assets = {script: data.write_asset(script, "js", _asset(f"{script}.js")) for script in _SCRIPTS}
    assets[_STYLE] = data.write_asset(_STYLE, "css", _asset(f"{_STYLE}.css"))
    files.write_atomic(page, _render(record, plan, reading, data, assets, options).encode())
    delete_report(output, keep={REPORT_PAGE, *data.names})
    return WrittenReport(page, reading.summary.rows, data.photos, data.without_input, reading.unread)


class _Reading:
    """Reads the sound shards of an output: all rows into a summary, and the first photos with their pictures."""

    def __init__(self, output: str, plan: Plan, found: Committed, limit: int) -> None:
        self.output = output
        self._plan = plan
        self.sound = found.sound
        self._limit = limit
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
                logger.warning("%s is left out: %s.", shard_name(shard.number), error)
                self.unread[shard.number] = str(error)

    def _photos_of(self, file: ParquetFile, shard: Shard, rows: list[dict[str, Any]]) -> Iterator[Photo]:
        items = {item.id: item for item in shard.items}
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["image", "path"], use_threads=False)
        wide = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        whole = (row | pictures for row, pictures in zip(rows, wide, strict=True))
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
    for name in (*(f"{script}.js" for script in _SCRIPTS), f"{_STYLE}.css"):
        digest.update(_asset(name))
    return digest.hexdigest()[:12]


def _asset(name: str) -> bytes:
    content = pkgutil.get_data("dmt_ray.report", f"assets/{name}")
    assert content is not None
    return content


def _render(
    record: RunRecord,
    plan: Plan,
    reading: _Reading,
    data: DataFiles,
    assets: Mapping[str, str],
    options: ReportOptions,
) -> str:
    """Return the page. Whatever comes from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dmt_ray.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=charts.number, duration=charts.duration)
    summary = reading.summary
    times = files.modified_times(files.join(reading.output, SHARDS_FOLDER))
    rows = {shard_name(number): facts.rows for number, facts in reading.sound.items()}
    manifest = {
        "digest": data.digest,
        "rows": data.rows,
        "steps": record.steps,
        "rowsPerFile": ROWS_PER_FILE,
        "thumbnailsPerFile": THUMBNAILS_PER_FILE,
        "figures": [[name, label_of(name)] for name in figure_names()],
        "present": [distribution.name for distribution in summary.distributions],
        "remedies": {group.error_type: [group.meaning, group.remedy] for group in summary.groups},
    }
    return environment.get_template("index.html.j2").render(
        assets=assets,
        manifest=manifest,
        record=record,
        summary=summary,
        steps=record.steps,
        planned=plan.images,
        shards=len(plan),
        sound=len(rows) - len(set(reading.unread) & set(reading.sound)),
        unread={shard_name(number): reason for number, reason in sorted(reading.unread.items())},
        data=data,
        limited=data.photos < plan.images and data.photos == options.limit,
        throughput=throughput(rows, times),
        bars=charts.bars,
        drawing=(charts.WIDTH, charts.HEIGHT),
        settings={section: _flat(values) for section, values in record.config.items()},
        provenance=_flat(
            {"program": f"dmt_ray {record.job}", "fingerprint": record.fingerprint}
            | {"schema version": record.schema_version}
            | dict(record.details)
        ),
    )


def _flat(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Return nested values as pairs of a name, with dots, and a text without secrets."""
    if isinstance(values, dict) and values:
        return [pair for key, value in values.items() for pair in _flat(value, f"{name}.{key}" if name else str(key))]
    if values is None or values == "":
        return [(name, "–")]
    text = values if isinstance(values, str) else json.dumps(values)
    return [(name, masked(text))]
