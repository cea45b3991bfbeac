"""What tests of the output share: rows as a run writes them, and whole outputs without a run."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from whole_output import STRENGTHS, error_row, row

from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.output.commit import SHARDS_FOLDER, commit_shard
from dmt_ray.output.dataset_card import output_card, write_card
from dmt_ray.output.expected import Expected
from dmt_ray.output.input_columns import output_fields
from dmt_ray.output.plan import load_plan, make_plan, plan_bytes
from dmt_ray.output.plan_file import PLAN_FILE, Binding, Shard
from dmt_ray.output.run_record import RUN_FILE, RunRecord, recorded_fingerprint
from dmt_ray.output.schema import SCHEMA_VERSION, rows_table
from dmt_ray.pipeline.prepare import PreparedRun, prepare_run, write_run
from dmt_ray.storage import files
from dmt_ray.storage.images import encode_animation, encode_image
from dmt_ray.storage.inputs.listing import Listing, listing_batch

FINGERPRINT = "f" * 64


def picture(seed: int) -> bytes:
    """A small PNG that no other seed gives."""
    return encode_image(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8), "png", 95)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@dataclass(frozen=True)
class Made:
    """A finished output, and what is in it."""

    place: str
    pictures: dict[tuple[str, int], bytes]
    """By id and step."""
    rows: pa.Table


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The Hugging Face library, which must not ask its hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return importlib.import_module("datasets")


@pytest.fixture
def make_output(tmp_path: Path) -> Callable[..., Made]:
    """Write a finished output; errors are ids, columns are the input's own, one value per id."""

    def make(
        ids: Sequence[str],
        *,
        place: str = str(tmp_path / "out"),
        strengths: Sequence[float] = (2.0,),
        errors: Sequence[str] = (),
        shard_size: int = 3,
        columns: pa.Table | None = None,
        animated: bool = False,
        traversal_only: bool = False,
        image_format: str = "png",
        seed: int = 0,
    ) -> Made:
        own = pa.schema([]) if columns is None else columns.schema
        listing = Listing(lambda: iter([listing_batch(list(ids), [f"/photos/{id_}" for id_ in ids])]), own)
        plan = make_plan(listing, shard_size, output_fields(own), Binding(FINGERPRINT, "plan"))
        record = RunRecord(
            files.join(place, RUN_FILE),
            "transform",
            FINGERPRINT,
            len(strengths),
            config={"output": {"save_path": 2 if animated else 0, "traversal_only": traversal_only}},
            plan="plan",
            schema_version=SCHEMA_VERSION,
        )
        record.write()
        files.write_atomic(files.join(place, PLAN_FILE), plan_bytes(plan))
        plan = load_plan(place)
        expected = Expected.of(place, plan, len(strengths), FINGERPRINT, traversal_only=traversal_only)
        pictures: dict[tuple[str, int], bytes] = {}
        tables = []
        for shard in plan:
            rows = []
            for item in shard.items:
                for step, strength in enumerate(strengths):
                    row = {"id": item.id, "uri": item.uri, "step": step, "strength": strength}
                    if item.id in errors:
                        row |= {"status": "error", "error_type": "empty", "error": "The file is empty."}
                    elif traversal_only:
                        row |= {"status": "ok", "displacement_norm": 1.0, "displacement": b"d" if step == 0 else None}
                    else:
                        data = pictures[item.id, step] = picture(seed + 1000 * step + ids.index(item.id))
                        row |= {"status": "ok", "displacement_norm": 1.0, "iterations": step}
                        row |= {"image": data, "image_format": image_format, "width": 8, "height": 6}
                        row["digital_source_type"] = "algorithmicallyEnhanced"
                        if animated:
                            row["animation"] = encode_animation([pixels(data), pixels(data)[::-1]], "webp")
                    rows.append(row)
            table = rows_table(rows)
            places = [ids.index(id_) for id_ in table["id"].to_pylist()]
            for field, name in zip(plan.input_columns, own.names, strict=True):
                table = table.append_column(pa.field(field.name, field.type), columns[name].take(places))
            commit_shard(shard, table, expected)
            tables.append(table)
        write_card(place, output_card(expected, f"{SHARDS_FOLDER}/*.parquet"))
        return Made(place, pictures, pa.concat_tables(tables))

    return make


@pytest.fixture
def commit_rows() -> Callable[[PreparedRun, Shard], None]:
    """Commit a shard of a run with one sound row per image and step."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image = {"image": encode_image(picture, "png", 95), "image_format": "png", "width": 16, "height": 12}
    image["digital_source_type"] = "algorithmicallyEnhanced"

    def commit(run: PreparedRun, shard: Shard) -> None:
        rows = [
            {"id": item.id, "uri": item.uri, "step": step, "strength": strength, "status": "ok"}
            | {"displacement_norm": 1.0}
            | image
            for item in shard.items
            for step, strength in enumerate(run.config.strengths)
        ]
        commit_shard(shard, rows_table(rows), run.expected)

    return commit


@pytest.fixture
def out(configure: Callable[..., ColorizeConfig], tmp_path: Path) -> str:
    """A whole output: three shards of two images in two steps; the last image has error rows."""
    run = prepare_run(configure(strength=STRENGTHS))
    write_run(run)
    for shard in run.shards:
        rows = [
            error_row(item.id, step) if item.id == "truncated.jpg" else row(item.id, step)
            for item in shard.items
            for step in range(2)
        ]
        commit_shard(shard, rows_table(rows), run.expected)
    return str(tmp_path / "out")


@pytest.fixture
def fingerprint(out: str) -> str:
    """Of the run of ``out``."""
    return recorded_fingerprint(out)
