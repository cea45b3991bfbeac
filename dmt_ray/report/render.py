"""The page as HTML. Whatever comes from outside is escaped."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping
from functools import partial
from typing import Any

import jinja2

from dmt_ray.output.plan import Plan
from dmt_ray.output.run_record import RunRecord
from dmt_ray.report import charts
from dmt_ray.report.data_files import ROWS_PER_FILE, THUMBNAILS_PER_FILE, DataFiles, row_columns
from dmt_ray.report.figures import figure_names, label_of
from dmt_ray.report.summary import Summary, throughput
from dmt_ray.storage.files import masked
from dmt_ray.words import agreed, counted

#: The page's own scripts, in the order in which they run, and its style sheet.
SCRIPTS = ("data", "list", "photo")
STYLE = "style"


def asset(name: str) -> bytes:
    """Return a file of the page as this package has it."""
    content = pkgutil.get_data("dmt_ray.report", f"assets/{name}")
    assert content is not None
    return content


def render_page(
    record: RunRecord,
    plan: Plan,
    summary: Summary,
    data: DataFiles,
    assets: Mapping[str, str],
    *,
    rows: Mapping[str, int],
    times: Mapping[str, float],
    limited: bool,
    unread: Mapping[str, str],
) -> str:
    """Return the page.

    Parameters:
        record: of the run.
        plan: of the run.
        summary: of all rows.
        data: what was written for the page's list.
        assets: the names of the page's scripts and style sheet in the report.
        rows: of each shard that was read, by file name.
        times: when the shards' files were written, in seconds, by file name.
        limited: the list has fewer photos than there are.
        unread: why other shards could not be read, or not wholly, by file name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dmt_ray.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=charts.number, duration=charts.duration)
    environment.filters.update(counted=partial(counted, spec=","), agreed=agreed)
    manifest = {
        "digest": data.digest,
        "rows": data.rows,
        "steps": record.steps,
        "columns": row_columns(),
        "rowsPerFile": ROWS_PER_FILE,
        "thumbnailsPerFile": THUMBNAILS_PER_FILE,
        "figures": [[name, label_of(name)] for name in figure_names()],
        "present": [distribution.name for distribution in summary.distributions],
        "remedies": {group.error_type: [group.meaning, group.remedy] for group in summary.groups},
    }
    return environment.get_template("index.html.j2").render(
        assets=assets,
        scripts=SCRIPTS,
        manifest=manifest,
        record=record,
        summary=summary,
        steps=record.steps,
        planned=plan.images,
        shards=len(plan),
        sound=len(rows),
        unread=unread,
        data=data,
        limited=limited,
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
