"""Displacements that a run of traversals saved, and what a damaged file of them costs."""

from dataclasses import replace

import pytest

from dmt_ray.errors import ImageError
from dmt_ray.output.commit import commit_shard, shard_uri
from dmt_ray.output.displacements import saved_displacements
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.prepare import prepare_run, write_run


@pytest.fixture
def run(configure):
    """The first shard of a run of traversals alone: one image that failed, and one that was moved."""
    run = prepare_run(configure(traversal_only=True))
    write_run(run)
    failed, moved = run.shards[0].items
    rows = [
        {"id": failed.id, "step": 0, "status": "error", "error_type": "empty", "error": "It is empty."},
        {"id": moved.id, "step": 0, "status": "ok", "displacement_norm": 1.0, "displacement": b"numbers"},
    ]
    commit_shard(run.shards[0], rows_table(rows), run.expected)
    return run


def test_each_image_has_a_displacement_or_an_error(run, configure):
    place, shard = run.expected.output, run.shards[0]
    saved = saved_displacements(place, shard)
    assert saved["photo-0.jpg"].data == b"numbers"
    assert saved["empty.jpg"].error.kind == "empty"
    with open(shard_uri(place, 0), "r+b") as file:  # noqa: PTH123
        file.truncate(200)
    saved = saved_displacements(place, shard)
    assert [(type(each.error), each.error.kind) for each in saved.values()] == [(ImageError, "bad-displacement")] * 2


def test_a_run_of_traversals_commits_displacements_and_no_images(run):
    shard = run.shards[0]
    rows = [
        {"id": item.id, "step": 0, "status": "ok", "displacement_norm": 1.0, "displacement": b"numbers"}
        for item in shard.items
    ]
    with pytest.raises(ValueError, match="ok without displacement"):
        commit_shard(shard, rows_table([rows[0] | {"displacement": None}, rows[1]]), run.expected)
    with pytest.raises(ValueError, match="makes no images"):
        commit_shard(shard, rows_table([rows[0] | {"image": b"x"}, rows[1]]), run.expected)
    with pytest.raises(ValueError, match="ok without image"):
        commit_shard(shard, rows_table(rows), replace(run.expected, traversal_only=False))
