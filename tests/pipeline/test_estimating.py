"""A dry run says what the run takes: by formula and from three photos, and with ``--estimate`` by timing these."""

import re
from dataclasses import replace

import pytest

from dmt_ray.errors import SettingsError
from dmt_ray.pipeline import sample_timing
from dmt_ray.pipeline.estimating import estimate_sentences, timed_sentences
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.pipeline.resources import ActorPlan, PoolPlan
from dmt_ray.pipeline.run import run_job
from dmt_ray.pipeline.sample_timing import Timed, sample_items, time_sample


def test_a_dry_run_estimates_bytes_and_memory(configure, photos, tmp_path):
    said = []
    assert run_job(configure(dry_run=True, batch_size=4), said.append) == 0
    (line,) = (line for line in said if line.startswith("Bytes:"))
    # 6 photos of about 1,900 bytes and 88 x 64 pixels; the empty one is not counted.
    found = re.fullmatch(r"Bytes: about ([\d.]+) kB to read and ([\d.]+) kB to write as png, going by 2 of .*", line)
    assert found is not None, line
    sizes = [file.stat().st_size for file in (photos / "inputs").iterdir() if file.stat().st_size]
    assert 6 * min(sizes) <= float(found[1]) * 1000 <= 6 * max(sizes)
    assert 6 * 80 * 64 * 1.89 < float(found[2]) * 1000 < 6 * (104 * 64 * 1.89 + 300)
    assert [line for line in said if "cannot be used" in line] == [
        "Of the 3 photos that were read, one cannot be used: empty.jpg: The image has no bytes."
    ]
    (memory,) = (line for line in said if line.startswith("Memory:"))
    found = re.match(r"Memory: about ([\d.]+) MB for each actor, at a batch of 4, by formula", memory)
    assert found is not None, memory
    assert float(found[1]) == pytest.approx(700 + 4 * 64**2 * 3500 / 1e6, rel=0.03)
    assert any("--estimate" in line for line in said)
    assert said[-1].startswith("Dry run:")
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_times_three_photos(configure, tmp_path):
    said = []
    config = configure(dry_run=True, estimate=True, strength=(0.5, 1.0), resolution="working", shard_size=6)
    assert run_job(config, said.append) == 0
    text = "\n".join(said)
    assert "one cannot be used: empty.jpg: " in text
    per_photo = re.search(r"Time: ([\d.]+) s per photo on \d+ threads? of a CPU .* 6 photos take [\d.]+ \w+ of", text)
    assert per_photo is not None, text
    assert float(per_photo[1]) > 0
    assert re.search(r"Before that, 5 exemplars are learned from in about [\d.]+ (s|min)\.", text)
    assert re.search(r"Memory: about [\d.]+ [MG]B for each actor at a batch of 2; .* takes [\d.]+ [kM]B, once", text)
    assert re.search(r"Bytes: about [\d.]+ kB to read and [\d.]+ kB to write as png\.", text)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match="--estimate is True; it must be given with --dry-run"):
        configure(estimate=True)


def test_more_exemplars_are_counted_in_proportion(configure, monkeypatch):
    run = prepare_run(configure(dry_run=True, estimate=True, traversal="global"))
    items = [item for item in sample_items(run) if item.id != "empty.jpg"]
    whole = time_sample(run, items, 1)
    monkeypatch.setattr(sample_timing, "MOST_EXEMPLARS", 2)
    part = time_sample(run, items, 1)
    assert part.learned == pytest.approx(whole.learned, rel=0.2)  # means and deviations do not grow
    assert whole.images == part.images == len(items)
    assert (whole.bytes_in, whole.bytes_out) == (part.bytes_in, pytest.approx(part.bytes_out, rel=0.2))


def test_the_time_is_that_of_the_slower_pool(configure):
    run = prepare_run(configure(dry_run=True, estimate=True))
    timed = Timed("cpu", 3, 1.0, 8.0, 60.0, 1e6, 2e9, 1e6, 3e6, [])
    cpus = PoolPlan(ActorPlan(1, 1, 0, 4), ActorPlan(4, 2, 0, 4))
    (time_, learning, memory, written) = timed_sentences(run, timed, cpus)
    assert "6 photos take 54 s of one actor, and about 12 s on this machine" in time_
    assert learning == "Before that, 5 exemplars are learned from in about 1.0 min."
    assert "2 GB for each actor at a batch of 2; what is learned of the exemplars takes 1 MB" in memory
    assert written == "Bytes: about 6 MB to read and 18 MB to write as png."
    shared = PoolPlan(ActorPlan(1, 0, 0.25, 4), ActorPlan(1, 0, 0.75, 4))
    assert "about 54 s on this machine" in next(timed_sentences(run, replace(timed, device="cuda:0"), shared))
    nothing = replace(timed, images=0, failed=["a.jpg: It is broken."])
    assert list(timed_sentences(run, nothing, cpus))[-1].startswith("Time: not known")


def test_a_finished_run_takes_nothing(configure):
    run = prepare_run(configure(dry_run=True))
    assert list(estimate_sentences(replace(run, todo=run.todo.only([])))) == []
