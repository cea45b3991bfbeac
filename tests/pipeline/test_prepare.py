"""What is decided before any actor starts. No Ray here."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.jobs.exemplars import learn_exemplars
from dmt_ray.output.commit import committed_shards, write_shard
from dmt_ray.output.schema import rows_table
from dmt_ray.pipeline.prepare import load_plan, prepare_run, run_record, write_run
from dmt_ray.pipeline.run import run_job


@pytest.fixture
def written(configure, tmp_path):
    """An output whose plan is frozen and whose first two shards (of three) are committed."""
    run = prepare_run(configure())
    write_run(run)
    for shard in run.shards[:2]:
        rows = rows_table({"id": i.id, "step": 0, "status": "ok", "image": b"an image"} for i in shard.items)
        write_shard(str(tmp_path / "out"), shard.number, rows, run.fingerprint)
    return run


def test_a_fresh_plan_has_every_input_once(written, tmp_path):
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "plan.parquet", "run.json", "shards"]
    plan = load_plan(str(tmp_path / "out"))
    assert list(plan) == list(written.shards)
    assert [len(shard.items) for shard in plan] == [2, 2, 2]
    ids = [item.id for shard in plan for item in shard.items]
    assert ids == ["empty.jpg", "photo-0.jpg", "photo-1.jpg", "photo-2.jpg", "photo-3.jpg", "truncated.jpg"]


def test_run_json_tells_what_made_the_output(written, tmp_path):
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["model"]["size"] == 64
    assert record["weights"] == {"backbone": "vgg16", "origin": "random:0", "sha256": written.weights.sha256}
    assert record["exemplars"]["reference"]["count"] == 5
    assert {"dmt_ray", "torch", "torchvision", "ray", "pyarrow", "python"} == set(record["versions"])
    assert len(record["fingerprint"]) == 64


def test_resume_does_only_what_is_missing(written, configure):
    run = prepare_run(configure())
    assert not run.fresh
    assert [shard.number for shard in run.todo] == [2]


def test_a_frozen_plan_does_not_follow_its_input(configure, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "inputs", folder)
    write_run(prepare_run(configure(input=str(folder))))
    shutil.copy(folder / "photo-0.jpg", folder / "a-new-one.jpg")
    run = prepare_run(configure(input=str(folder)))
    assert "a-new-one.jpg" not in [item.id for shard in run.shards for item in shard.items]
    shutil.rmtree(folder)
    assert len(prepare_run(configure(input=str(folder))).todo) == 3


def test_signatures_of_uris_stay_out_of_run_json(written):
    inputs = replace(written.config.inputs, input="https://example.org/a.jpg?X-Amz-Signature=abc")
    text = run_record(replace(written, fresh=True, config=replace(written.config, inputs=inputs))).to_bytes().decode()
    assert "example.org" in text
    assert "Signature" not in text


def test_settings_that_change_no_result_may_change(written, configure):
    run = prepare_run(configure(batch_size=1, max_error_rate=1.0, progress=True, threads_per_actor=1))
    assert [shard.number for shard in run.todo] == [2]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"size": 96}, ["size was 64 and is 96 now"]),
        (
            {"strength": 3.0, "iterations": 5},
            ["strength was [] and is [3.0] now", "iterations was 2 and is 5 now"],
        ),
        ({"weights": "random:1"}, ["weights sha256 was"]),
        ({"reference_limit": 3}, ["reference_limit was None and is 3 now", "references was"]),
        ({"shard_size": 3}, ["shard_size was 2 and is 3 now"]),
    ],
)
def test_other_settings_are_refused_by_name(written, configure, options, names):
    with pytest.raises(SettingsError) as caught:
        prepare_run(configure(**options))
    for name in names:
        assert name in str(caught.value)
    assert "--mode overwrite" in str(caught.value)


def test_overwrite_replaces_a_run_and_nothing_else(written, configure, tmp_path):
    keepsake = tmp_path / "out" / "report.html"
    keepsake.write_text("mine")
    run = prepare_run(configure(size=96, shard_size=4, mode="overwrite"))
    assert committed_shards(str(tmp_path / "out")) == {0, 1}  # preparing deletes nothing
    write_run(run)
    assert committed_shards(str(tmp_path / "out")) == set()
    assert [len(shard.items) for shard in load_plan(str(tmp_path / "out"))] == [4, 2]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["model"]["size"] == 96
    assert keepsake.read_text() == "mine"


def test_mode_error_wants_an_empty_place(written, configure):
    with pytest.raises(SettingsError, match="not empty"):
        prepare_run(configure(mode="error"))


@pytest.mark.parametrize("mode", ["resume", "overwrite", "error"])
def test_a_folder_of_somebody_else_is_left_alone(configure, tmp_path, mode):
    out = tmp_path / "out"
    (out / "shards").mkdir(parents=True)
    (out / "shards" / "shard-000000.parquet").write_bytes(b"theirs")
    with pytest.raises(SettingsError):
        prepare_run(configure(mode=mode))
    (out / "run.json").write_text('{"program": "another"}')
    with pytest.raises(SettingsError):
        prepare_run(configure(mode=mode))
    assert (out / "shards" / "shard-000000.parquet").read_bytes() == b"theirs"


def test_a_crash_between_plan_and_run_json_is_planned_again(written, configure, tmp_path):
    out = tmp_path / "out"
    for shard in (out / "shards").iterdir():
        shard.unlink()
    (out / "shards").rmdir()
    (out / "run.json").unlink()
    run = prepare_run(configure(size=96))
    assert run.fresh
    assert len(run.todo) == 3


def test_a_crash_while_overwriting_leaves_a_folder_that_still_works(written, configure, tmp_path):
    out = tmp_path / "out"
    (out / "plan.parquet").unlink()
    with pytest.raises(SettingsError, match=r"no plan\.parquet"):
        prepare_run(configure())
    run = prepare_run(configure(mode="overwrite"))
    write_run(run)
    assert len(prepare_run(configure()).todo) == 3


def test_what_a_listing_passes_over_is_told_and_recorded(configure, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "inputs", folder)
    for name in ("1.xyz", "2.xyz", "notes.txt"):
        (folder / name).write_bytes(b"")
    told = ["2 files are no images that can be read: 2 .xyz.", "1 file beside the images, left alone: 1 .txt."]
    config = configure(input=str(folder), output=str(folder / "out"))
    said = []
    assert run_job(replace(config, run=replace(config.run, dry_run=True)), said.append) == 0
    assert said[0].startswith("6 images")
    assert said[2:4] == told
    write_run(prepare_run(config))
    record = json.loads((folder / "out" / "run.json").read_text())["listing"]
    assert record == {"kind": "images", "passed_over": {"unreadable": {".xyz": 2}, "sidecars": {".txt": 1}}}
    # What comes later is of the same kind, whatever holds more then, and the output is no input.
    cells = [(folder / "photo-0.jpg").read_bytes()] * 20
    pq.write_table(pa.table({"image": cells}), folder / "t.parquet")
    shutil.copy(folder / "photo-0.jpg", folder / "photo-9.jpg")
    run = prepare_run(replace(config, run=replace(config.run, extend=True)))
    assert run.shards.images == 7
    write_run(run)
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["listing"]["passed_over"]["other_kinds"] == {"parquet": 1}
    assert record["listing"]["passed_over"]["outputs"] == 3  # run.json, plan.parquet, README.md
    assert record["planned"]["images"] == 7


def test_a_sample_is_drawn_by_seed_and_is_not_extended(configure):
    def drawn(**options):
        return [item.id for shard in prepare_run(configure(**options)).shards for item in shard.items]

    assert drawn(sample=3, seed=1) == drawn(sample=3, seed=1)
    assert len({tuple(drawn(sample=3, seed=seed)) for seed in range(6)}) > 1
    write_run(prepare_run(configure(sample=3)))
    assert prepare_run(configure(sample=3)).shards.images == 3
    with pytest.raises(SettingsError, match="sample was 3 and is 4 now"):
        prepare_run(configure(sample=4))
    with pytest.raises(SettingsError, match="--extend cannot be given with --sample"):
        prepare_run(configure(sample=3, extend=True))


def test_dry_run_writes_nothing(configure, tmp_path):
    said = []
    assert run_job(configure(dry_run=True), said.append) == 0
    assert "6 images in 3 shards, 6 of them in 3 shards to do; 5 references" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_reference_limit_draws_by_seed(configure):
    def drawn(**options):
        return [item.id for item in prepare_run(configure(**options)).exemplars["reference"].items]

    assert drawn(reference_limit=3, seed=1) == drawn(reference_limit=3, seed=1)
    assert len({tuple(drawn(reference_limit=3, seed=seed)) for seed in range(6)}) > 1
    assert drawn(reference_limit=9) == drawn()


def test_no_readable_reference(configure, tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(SettingsError, match="The only reference cannot be used"):
        prepare_run(configure(reference=str(folder)))


def test_grey_references_teach_nothing(configure, tmp_path, photos):
    folder = tmp_path / "references"
    folder.mkdir()
    shutil.copy(photos / "inputs" / "photo-0.jpg", folder / "grey.jpg")
    with pytest.raises(SettingsError, match=r"The only reference cannot be used.*grey\.jpg: The picture is grey"):
        prepare_run(configure(reference=str(folder)))
    shutil.copy(photos / "references" / "0.png", folder / "colour.png")
    run = prepare_run(configure(reference=str(folder)))
    exemplars, learned = learn_exemplars(run.weights.arrays, run.exemplars, run.config, "cpu")
    assert learned.skipped == ["grey.jpg: The picture is grey, and a reference must have colour."]
    assert len(exemplars["scenes"]) == 1  # of one reference


def test_relative_places_mean_the_same_from_elsewhere(configure, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(photos)
    here = prepare_run(configure(input="inputs", reference="references"))
    assert here.config.inputs == prepare_run(configure()).config.inputs
