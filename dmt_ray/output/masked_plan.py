"""Plans without secrets: what ``--mask-plan`` leaves out of a plan, and how a run gets it back from its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.output.plan import Plan, write_plan
from dmt_ray.output.plan_file import PLAN_SCHEMA, plan_footer
from dmt_ray.storage.files import fingerprint_uri
from dmt_ray.storage.inputs.formats import container_of

_PLACES = ("uri", "record")


def without_secrets(plan: Plan) -> Plan:
    """Return a plan, in a temporary file, whose URIs have no secrets in them; see ``fingerprint_uri``.

    Raises:
        StorageError: the temporary file cannot be written.
    """
    containers = {_masked(uri): identity for uri, identity in plan.containers.items()}
    footer = plan_footer(plan.input_columns, containers, plan.file.binding, masked=True)
    return write_plan(footer, map(_masked_rows, plan.file.groups()))


def completed(plan: Plan, rows: Iterable[pa.RecordBatch | pa.Table], containers: Iterable[str], place: str) -> Plan:
    """Return a plan, in a temporary file, with the secrets again that it was written without.

    Parameters:
        plan: as ``without_secrets`` made it.
        rows: a new listing of its input: ``id``, ``uri`` and ``record``.
        containers: URIs of the tables and archives of that.
        place: what was listed, for messages.

    Raises:
        SettingsError: an image is no longer listed, or is another one: its secrets are not to be had.
        StorageError: the temporary file cannot be written.
    """
    known: dict[str, tuple[str, str | None]] = {}
    wanted = _masked_ids(plan)
    if wanted:
        for batch in rows:
            columns = (batch.column(name).to_pylist() for name in ("id", *_PLACES))
            known |= {id_: (uri, record) for id_, uri, record in zip(*columns, strict=True) if id_ in wanted}

    def whole(rows: pa.Table) -> pa.Table:
        found = [known.get(id_) for id_ in rows["id"].to_pylist()]
        for number, name in enumerate(_PLACES):
            before = rows[name].to_pylist()
            now = [text if new is None else new[number] for text, new in zip(before, found, strict=True)]
            for id_, old, new in zip(rows["id"].to_pylist(), before, now, strict=True):
                if old is not None and (new is None or _masked(new) != old or (id_ in wanted and id_ not in known)):
                    raise SettingsError(
                        f"The plan was written with --mask-plan, so the secrets in its URIs come from {place}; and "
                        f"that names {id_!r} no more, or names another file by it. Give the input as it was, with "
                        "signatures that are valid now."
                    )
            rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(now, pa.string()))
        return rows

    secret = {_masked(uri): uri for uri in containers}
    identities: Mapping[str, str] = {secret.get(uri, uri): identity for uri, identity in plan.containers.items()}
    footer = plan_footer(plan.input_columns, identities, plan.file.binding)
    return write_plan(footer, map(whole, plan.file.groups()))


def _masked_ids(plan: Plan) -> set[str]:
    """Return the ids of the images whose URIs may lack something: those of URIs, and not of local paths."""
    found: set[str] = set()
    for rows in plan.file.groups():
        columns = (rows[name].to_pylist() for name in ("id", *_PLACES))
        found.update(
            id_ for id_, uri, record in zip(*columns, strict=True) if "://" in uri or "://" in (record or "")
        )
    return found


def _masked_rows(rows: pa.Table) -> pa.Table:
    for name in _PLACES:
        texts: Iterator[str | None] = (None if text is None else _masked(text) for text in rows[name].to_pylist())
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(texts, pa.string()))
    return rows.select(PLAN_SCHEMA.names)


def _masked(text: str) -> str:
    """Return a URI, or a place inside of a file, without secrets."""
    file = container_of(text) or text
    return fingerprint_uri(file) + text[len(file) :]
