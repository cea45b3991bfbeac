"""The scripts in ``examples/`` run, with real weights and a real Ray, and what they make is what edits make."""

from __future__ import annotations

import contextlib
import logging
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from material import but_for_the_run, photo
from PIL import Image

import dmt_ray
from dmt_ray.errors import SettingsError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(monkeypatch):
    """Run a script of ``examples/`` in this process; returns its variables."""

    def run(name: str, *words: object) -> dict[str, object]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Folders ``dark`` and ``light`` with three photos each, ``inputs`` with a dark one and another file."""
    folder = tmp_path_factory.mktemp("classes")
    for name, change in (("dark", lambda rgb: rgb // 2), ("light", lambda rgb: rgb // 2 + 120)):
        (folder / name).mkdir()
        for index in range(3):
            Image.fromarray(change(np.asarray(photo(index)))).save(folder / name / f"{index}.png")
    (folder / "inputs").mkdir()
    Image.fromarray(np.asarray(photo(9)) // 2).save(folder / "inputs" / "good.png")
    (folder / "inputs" / "no-photo.png").write_text("no photo")
    return folder


@contextlib.contextmanager
def torch_threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def test_edit_one_photo(run_example, classes, tmp_path, capsys):
    said = run_example(
        "edit_one_photo.py", classes / "inputs" / "good.png", classes / "light", tmp_path / "a.png", "--size", 64
    )
    assert f"{tmp_path / 'a.png'}: 80 x 64 pixels" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(image, said["result"].picture)


def test_transform_path(run_example, classes, tmp_path, capsys):
    run_example(
        "transform_path.py",
        classes / "inputs" / "good.png",
        classes / "dark",
        classes / "light",
        tmp_path,
        "--size",
        64,
    )
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"strength {strength}" for strength in (2, 4, 6)
    ]
    means = [np.asarray(Image.open(tmp_path / f"strength-{strength}.png")).mean() for strength in (2, 4, 6)]
    assert means == sorted(means)  # ever lighter
    loaded = dmt_ray.Transformer.load(tmp_path / "model", lpips=False)
    again = loaded.path(classes / "inputs" / "good.png", [2, 4, 6])[-1]
    assert np.array_equal(again.picture, Image.open(tmp_path / "strength-6.png"))


def test_whole_pipeline_and_its_rows_in_lance(local_ray, run_example, classes, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "dmt_ray")
    words = [classes / "inputs", classes / "light", tmp_path / "out", "--size", 64]
    result = run_example("whole_pipeline.py", *words)["result"]
    assert (result.complete, result.exit_code) == (True, 4)  # half of the photos have errors
    assert "no-photo.png" in capsys.readouterr().out
    assert any(
        re.match(r"4 of 4 rows, 2 failed, .* rows/s, 00:00 left, \d/2 actors busy", line) for line in caplog.messages
    )
    batches = list(result.rows(batch_size=3))
    assert all(isinstance(batch, pa.RecordBatch) and batch.num_rows <= 3 for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [(row["id"], row["step"], row["status"]) for row in rows] == [
        *[("good.png", step, "ok") for step in (0, 1)],
        *[("no-photo.png", step, "error") for step in (0, 1)],
    ]
    with pytest.raises(SettingsError, match="no column 'picture'; it has id, uri"):
        next(result.rows(["picture"]))
    with torch_threads(2):  # as the actors have on two CPUs: sums are rounded by how they are divided
        model = dmt_ray.Colorizer.fit(classes / "light", size=64)
        edits = model.path(classes / "inputs" / "good.png", [1, 2])
    assert but_for_the_run([row["image"] for row in rows[:2]]) == but_for_the_run([each.data for each in edits])
    assert [row["lpips_to_input"] for row in rows[:2]] == [each.figures["lpips_to_input"] for each in edits]
    # In a process of its own: Lance is not made for processes that fork.
    look = "import sys, lance; print(lance.dataset(sys.argv[1]).to_table(columns=['id', 'strength']).to_pydict())"
    for code in ([EXAMPLES / "to_lance.py", tmp_path / "out"], ["-c", look]):
        done = subprocess.run(
            [sys.executable, *code, tmp_path / "photos.lance"], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "{'id': ['good.png', 'good.png'], 'strength': [1.0, 2.0]}"


def test_ray_data(local_ray, run_example, classes, tmp_path):
    words = [classes / "inputs", classes / "dark", classes / "light", tmp_path / "results", "--size", 64]
    older = run_example("ray_data.py", *words)["older"]
    rows = pd.read_parquet(tmp_path / "results").sort_values("path")
    good, bad = rows.iloc[0], rows.iloc[1]
    assert (good.edited_status, bad.edited_status) == ("ok", "error")
    assert "plain text" in bad.edited_error
    wanted = older.edit(classes / "inputs" / "good.png", strength=4)
    assert but_for_the_run([good.edited_image]) == but_for_the_run([wanted.data])
    assert good.edited_flipped == wanted.figures["flipped"]

    editor = older.for_ray(column="photo", prefix="light_", strength=4)()  # as an actor makes it
    place = classes / "inputs" / "good.png"
    in_struct = {"bytes": place.read_bytes(), "path": "good.png"}
    for given in (str(place), np.asarray(Image.open(place)), in_struct, {"bytes": None, "path": str(place)}):
        photos = np.empty(2, object)
        photos[:] = [given, {"bytes": None, "path": None} if isinstance(given, dict) else None]
        for batch in ({"photo": photos}, pd.DataFrame({"photo": photos})):
            made = editor(batch)
            assert list(made["light_status"]) == ["ok", "error"]
            assert made["light_error_type"][1] == "empty"
            assert made["light_psnr_to_input"][0] == wanted.figures["psnr_to_input"]
            assert np.isnan(made["light_psnr_to_input"][1])
            assert np.array_equal(made["photo"][0], given)
    with pytest.raises(KeyError, match="no column 'photo'; it has image"):
        editor({"image": photos})
    with pytest.raises(TypeError, match="format 'numpy' or 'pandas'"):
        editor(pa.table({"photo": ["a"]}))
