"""A bank whose chunks actors make: the same bytes as by one process, whatever ends; and nodes that lack a place."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import ray
from small_bank import EndedError, build, config_of, contents, make_small, save_references

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.bank_chunks import BankPlan, Chunk, MadeChunk
from dmt_ray.jobs.exemplars import list_exemplars
from dmt_ray.pipeline import bank_actors, fitting, ray_address, resources
from dmt_ray.pipeline.bank_actors import Unread, check_unread, check_visible
from dmt_ray.pipeline.fitting import chunks_on
from dmt_ray.pipeline.resources import plan_alone
from dmt_ray.storage.models.array_files import ArrayFile

COUNT = 13
CRASHFS = str(Path(__file__).parents[1] / "data" / "crashfs")


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """A list of 13 references that the crashing driver reads, and of one that is not there."""
    folder = tmp_path / "references"
    folder.mkdir()
    save_references(folder, COUNT)
    (folder / "13.png").write_bytes(b"no picture")
    names = [f"crash://gate{folder}/{number}.png" for number in range(COUNT + 1)]
    listed = tmp_path / "references.txt"
    listed.write_text("\n".join([*names, str(folder / "missing.png")]))
    return listed


@pytest.fixture
def crashing(hooks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this process read what the workers of ``local_ray`` do; returns the folder of hooks."""
    monkeypatch.setenv("DMT_RAY_TEST_HOOKS", str(hooks))
    monkeypatch.syspath_prepend(CRASHFS)
    import crashfs

    fsspec.register_implementation("crash", crashfs.CrashFileSystem, clobber=True)
    return hooks


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)
    monkeypatch.setattr(resources, "DEFAULT_THREADS", 1)  # as the test's own process has; and room for two actors


def kill_reader(hooks: Path, killed: list[int]) -> None:
    """Kill the process that the hook holds, once there is one."""
    deadline = time.monotonic() + 120
    while not (found := list(hooks.glob("reading-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for path in found:
        killed.append(int(path.name.partition("-")[2]))
        os.kill(killed[-1], signal.SIGKILL)
        path.unlink()


def living_actors() -> int:
    states = ray._private.state.actors().values()
    return sum(each["ActorClassName"] == "ChunkActor" and each["State"] != "DEAD" for each in states)


@pytest.mark.usefixtures("local_ray")
def test_actors_make_the_bytes_that_one_process_makes_though_one_dies_and_builds_end(
    references, crashing, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fitting, "MANY", 1)
    caplog.set_level(logging.INFO)
    allowed = {"allow_uri": (f"crash://gate{tmp_path}/",)}
    one = build(references, tmp_path / "one", **allowed)
    assert (one.references, len(one.skipped)) == (COUNT, 2)
    with pytest.raises(EndedError):
        build(references, tmp_path / "both", end_after=1, **allowed)
    killed: list[int] = []
    (crashing / "hold-on-worker-read").touch()
    killer = threading.Thread(target=kill_reader, args=(crashing, killed))
    killer.start()
    with pytest.raises(EndedError):
        build(references, tmp_path / "both", end_after=7, make_chunks=chunks_on("auto"), **allowed)
    killer.join()
    assert len(killed) == 1
    assert "Actors: 2 x " in caplog.text
    assert "ended while making chunk" in caplog.text
    deadline = time.monotonic() + 30
    while living_actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living_actors() == 0
    again = build(references, tmp_path / "both", **allowed)
    assert again.resumed == 7
    assert again.skipped == one.skipped[-len(again.skipped) :]
    assert contents(tmp_path / "both") == contents(tmp_path / "one")


@pytest.mark.usefixtures("local_ray", "crashing")
@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (
            "driver",
            ["A process on node {node} cannot read the reference", "use a folder that they share, or a store"],
        ),
        (
            "deadly",
            ["/0.png to ", "cannot be described: 2 processes ended over them; the last one, on node {node}: "],
        ),
    ],
)
def test_what_only_the_command_can_read_is_an_error_that_names_the_node(
    driver, told, references, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bank_actors, "TRIES", 2)
    names = references.read_text().splitlines()[:2]
    listed = tmp_path / "only-here.txt"
    listed.write_text("\n".join(names).replace("crash://gate", f"crash://{driver}"))
    words = ["fit", "--reference", str(listed), "--allow-uri", f"crash://{driver}/", "--weights", "random:0"]
    assert cli.main([*words, "--ray-address", "local", "--output", str(tmp_path / "bank")]) == 2
    error = capsys.readouterr().err
    for sentence in told:
        assert sentence.format(node=ray.util.get_node_ip_address()) in error
    assert not list(tmp_path.glob("bank/patches*"))


def a_plan(place: Path, references: Path) -> BankPlan:
    config = config_of(references)
    return BankPlan(str(place), "00", config, list_exemplars(config)["reference"], {}, {})


def test_what_nobody_can_read_is_left_out_and_what_one_node_cannot_read_is_told(tmp_path):
    (tmp_path / "photos").mkdir()
    save_references(tmp_path / "photos", 2)
    plan = a_plan(tmp_path, tmp_path / "photos")
    items = list(plan.references.items)
    (tmp_path / "photos" / "0.png").unlink()
    check_unread(plan, "node 10.0.0.7", Unread(items[:1], ["0.png: it is gone."]))
    with pytest.raises(SettingsError, match=r"node 10\.0\.0\.7 cannot read the reference 1\.png: no such mount; "):
        check_unread(plan, "node 10.0.0.7", Unread(items, ["0.png: it is gone.", "1.png: no such mount."]))


def test_a_chunk_that_this_process_does_not_find_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    save_references(tmp_path / "photos", 1)
    plan = a_plan(tmp_path, tmp_path / "photos")
    made = MadeChunk(0, ArrayFile("patches_000000-00.safetensors", "F16", (0,), 0, ""), [])
    monkeypatch.setattr(bank_actors, "HIDDEN_S", 0.05)
    monkeypatch.setattr(bank_actors, "LOOK_S", 0.01)
    looked = []

    def appear() -> None:
        looked.append(1)
        if len(looked) == 2:
            (tmp_path / made.entry.file).touch()

    check_visible(plan, "node 10.0.0.7", made, appear)
    assert len(looked) == 2
    gone = replace(made, entry=replace(made.entry, file="patches_000001-00.safetensors"))
    with pytest.raises(SettingsError, match=r"node 10\.0\.0\.7 has written .*patches_000001.* does not find it"):
        check_visible(plan, "node 10.0.0.7", gone, lambda: None)


class Maker:
    """Says that a chunk is made; the real one needs seconds to load its network."""

    def make(self, chunk: Chunk) -> MadeChunk:
        return MadeChunk(chunk.number, ArrayFile(f"here_{chunk.number}-00.safetensors", "F16", (0,), 0, ""), [])


@pytest.mark.parametrize(
    ("many", "found", "told"),
    [
        (4, None, None),
        (3, None, None),
        (3, SettingsError("No Ray cluster answers at 10.0.0.7:6379."), "this process does: No Ray cluster answers"),
    ],
)
def test_auto_starts_no_ray_and_asks_for_a_cluster_only_for_many_references(
    many, found, told, tmp_path, monkeypatch, caplog
):
    asked = []

    def choose(address, otherwise):
        asked.append(address)
        if found is not None:
            raise found

    monkeypatch.setattr(fitting, "MANY", many)
    monkeypatch.setattr(ray_address, "choose_ray", choose)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a Ray is started"))
    (tmp_path / "photos").mkdir()
    save_references(tmp_path / "photos", 3)
    plan = a_plan(tmp_path, tmp_path / "photos")
    chunks = [Chunk(5, plan.references.items[:2]), Chunk(7, plan.references.items[2:])]
    assert [made.number for made in chunks_on("auto")(plan, chunks, Maker())] == [5, 7]
    assert asked == (["auto"] if many == 3 else [])
    assert told is None or told in caplog.text
    assert list(chunks_on("10.0.0.7:1")(plan, [], Maker())) == []  # nothing is missing: no cluster is joined


def test_a_pool_alone_has_a_gpu_or_the_threads_of_a_run_for_each_actor(monkeypatch):
    monkeypatch.undo()
    assert str(plan_alone([{"CPU": 8, "GPU": 2}, {"CPU": 8}, {"GPU": 1}], 100)) == "3 x (1 GPU, 4 torch threads)"
    assert plan_alone([{"CPU": 8, "GPU": 2}], 1).actors == 1
    assert str(plan_alone([{"CPU": 16}, {"CPU": 6}], 100)) == "5 x (2 CPU, 4 torch threads)"
    assert str(plan_alone([{"CPU": 16}], 2)) == "2 x (4 CPU, 8 torch threads)"  # few chunks: more threads for each
    with pytest.raises(SettingsError, match="no CPUs and no GPUs"):
        plan_alone([{"memory": 1.0}], 1)
