"""A plan holds secrets in a private file, or leaves them out and takes them from the input again."""

from __future__ import annotations

import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.output.masked_plan import completed, without_secrets
from dmt_ray.output.plan import load_plan, make_plan, plan_bytes, plan_from_bytes, write_plan_file
from dmt_ray.output.plan_file import PLAN_FILE
from dmt_ray.storage.inputs.listing import Listing
from dmt_ray.storage.inputs.registry import open_listing

LINES = [
    "https://host/{n}.jpg?X-Amz-Signature={s}&X-Amz-Date={s}",
    "abfs://c@account/{n}.jpg?sv=1&sig={s}",
    "s3://{s}:{s}@bucket/{n}.jpg",
    "https://host/get?img={n}&Signature={s}&Expires={s}#row=3",
    "https://host/plain-{n}.jpg",
    "/data/{n}.jpg",
]


@pytest.fixture
def listed(tmp_path: Path):
    """Lists a list file whose URIs are signed with a secret."""

    def make(secret: str, name: str = "{n}", lines: list[str] = LINES) -> Listing:
        texts = [line.replace("{s}", secret).replace("{n}", name.format(n=n)) for n, line in enumerate(lines)]
        (tmp_path / "list.txt").write_text("\n".join(texts))
        return open_listing(str(tmp_path / "list.txt"))

    return make


def secrets_in(data: bytes, tmp_path: Path) -> bool:
    """Whether a plan's file holds the secret, in a column or in its footer."""
    (tmp_path / "x.parquet").write_bytes(data)
    table = pq.read_table(tmp_path / "x.parquet")
    return "s3cret" in str(table.to_pylist()) or b"s3cret" in data


def test_a_plan_is_for_its_owner_alone_and_says_why(listed, tmp_path):
    write_plan_file(str(tmp_path / "out"), make_plan(listed("s3cret"), 2, pa.schema([])))
    path = tmp_path / "out" / PLAN_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"signatures and passwords" in pq.read_schema(path).metadata[b"dmt_ray.secrets"]
    assert secrets_in(path.read_bytes(), tmp_path)
    assert not load_plan(str(tmp_path / "out")).file.masked


def test_a_masked_plan_has_no_secrets_and_gets_new_ones_from_the_input(listed, tmp_path):
    plan = make_plan(listed("s3cret"), 2, pa.schema([]))
    write_plan_file(str(tmp_path / "out"), without_secrets(plan))
    stored = load_plan(str(tmp_path / "out"))
    assert stored.file.masked
    assert not secrets_in(plan_bytes(stored), tmp_path)
    assert [item.id for shard in stored for item in shard.items] == [
        item.id for shard in plan for item in shard.items
    ]
    again = listed("n3w")
    whole = completed(stored, again.batches(), again.containers, "list.txt")
    assert list(whole) == list(make_plan(again, 2, pa.schema([])))
    assert "https://host/get?img=3&Signature=n3w&Expires=n3w#row=3" in str(list(whole))
    assert list(plan_from_bytes(plan_bytes(whole))) == list(whole)
    assert not whole.file.masked


def test_what_the_input_names_no_more_or_otherwise_is_refused(listed, tmp_path):
    stored = without_secrets(make_plan(listed("s3cret"), 2, pa.schema([])))
    other = [line.replace("img={n}", "img=9") for line in LINES]
    for again in (listed("n3w", lines=other), listed("n3w", lines=LINES[1:]), listed("n3w", name="x{n}")):
        with pytest.raises(SettingsError, match=r"with --mask-plan, .* list\.txt; and that names '.*' no more"):
            completed(stored, again.batches(), again.containers, "list.txt")


def test_tables_with_secrets_in_their_own_uris_are_completed_too(tmp_path):
    from dmt_ray.storage.inputs.listing import INSIDE, listing_batch

    def listing(secret: str) -> Listing:
        table = f"https://host/t.parquet?sig={secret}"
        cells = [f"{table}#row={n}&by=id&column=image" for n in range(3)]
        records = [f"{table}#row={n}&by=id" for n in range(3)]
        batch = listing_batch(list("abc"), cells, records, origins=INSIDE)
        return Listing(lambda: iter([batch]), pa.schema([]), {table: "etag=1"})

    stored = without_secrets(make_plan(listing("s3cret"), 2, pa.schema([])))
    assert not secrets_in(plan_bytes(stored), tmp_path)
    assert dict(stored.containers) == {"https://host/t.parquet": "etag=1"}
    again = listing("n3w")
    whole = completed(stored, again.batches(), again.containers, "t.parquet")
    assert dict(whole.containers) == dict(again.containers)
    assert list(whole) == list(make_plan(again, 2, pa.schema([])))
