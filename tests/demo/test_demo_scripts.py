"""The demo's dataset and its score, on the real packaged photos."""

import hashlib
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

DEMO = Path(__file__).parents[2] / "demo"


def _load(name: str):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build_dataset = _load("build_dataset")
build_textures = _load("build_textures")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    build_dataset.build(folder)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_pixel_is_in_a_reference_and_in_an_input():
    for photo in build_dataset.PHOTOS:
        width, height = photo.load().size
        boxes = [*photo.references(), *photo.inputs]
        assert all(min(b.corners) >= 0 and b.corners[2] <= width and b.corners[3] <= height for b in boxes)
        for reference, crop in itertools.product(photo.references(), photo.inputs):
            assert reference.distance(crop) >= build_dataset.GAP, (photo.name, reference, crop)


def test_every_input_is_grey_and_has_its_truth(dataset):
    inputs = sorted((dataset / "inputs").iterdir())
    assert 12 <= len(inputs) <= 16
    assert 40 <= len(list((dataset / "references").iterdir())) <= 60
    assert {path.suffix for path in inputs} == {".png", ".jpg"}
    assert len({Image.open(path).size for path in inputs}) >= 8
    for path in inputs:
        grey, truth = Image.open(path), Image.open(dataset / "truth" / f"{path.stem}.png")
        assert (grey.mode, truth.mode) == ("L", "RGB")
        difference = np.asarray(grey, float) - np.asarray(truth.convert("L"), float)
        assert grey.size == truth.size
        assert np.abs(difference).mean() < 2


def test_building_twice_writes_the_same_bytes(dataset):
    before = _digests(dataset)
    (dataset / "inputs" / "left-over.png").write_bytes(b"from an earlier version")
    build_dataset.build(dataset)
    assert _digests(dataset) == before


def _score(dataset: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO / "score.py"), "--data", str(dataset), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_score_measures_against_the_truth_and_writes_the_sheet(dataset, tmp_path):
    """Results that are still grey gain nothing, and an error row is named."""
    ids = ["coffee-01.png", "rocket-01.jpg", "dahlia-01.jpg"]
    images = [(dataset / "inputs" / ids[0]).read_bytes(), (dataset / "inputs" / ids[1]).read_bytes(), None]
    table = pa.table(
        {
            "id": ids,
            "status": ["ok", "ok", "error"],
            "error_type": [None, None, "truncated"],
            "error": [None, None, "the file ends early"],
            "image": images,
        }
    )
    (tmp_path / "shards").mkdir()
    pq.write_table(table, tmp_path / "shards" / "shard-000000.parquet")
    done = _score(dataset, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Mean PSNR gain over grey: +0.00 dB on 2 photos" in done.stdout
    assert f"Contact sheet: {tmp_path / 'contact_sheet.png'}" in done.stdout
    assert "dahlia-01.jpg: truncated: the file ends early" in done.stderr
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 1000


def test_score_gain_is_that_of_the_formula(dataset, tmp_path):
    truth = np.asarray(Image.open(dataset / "truth" / "coffee-01.png"), float)
    grey = np.asarray(Image.open(dataset / "inputs" / "coffee-01.png").convert("RGB"), float)
    half = tmp_path / "half.png"
    Image.fromarray(((truth + grey) / 2).astype(np.uint8)).save(half)
    row = {"id": "coffee-01.png", "image": half.read_bytes()}
    sys.modules.pop("demo_score", None)
    score = _load("score").score_row(row, dataset)
    assert score.gain == pytest.approx(20 * np.log10(2), abs=0.1)  # half the error is 6.02 dB


def test_score_without_a_run_says_so(dataset, tmp_path):
    done = _score(dataset, tmp_path / "nothing")
    assert done.returncode == 1
    assert "run the job first" in done.stderr


def test_textures_of_two_classes_share_no_pixel_with_the_inputs(tmp_path):
    assert build_textures.build(tmp_path / "a") == build_textures.build(tmp_path / "b") == (70, 4)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 74
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    assert {Image.open(tmp_path / "a" / path).size for path in files} == {(128, 128)}
    lowest = build_textures._crops("gravel", 0, build_textures.BORDER, build_textures.STEP)[-1]
    above = np.asarray(lowest)[-1]  # the row just above the border
    assert not any(
        (np.asarray(Image.open(tmp_path / "a" / path)) == above).all(axis=1).any()
        for path in files
        if path.parts[0] == "inputs"
    )
