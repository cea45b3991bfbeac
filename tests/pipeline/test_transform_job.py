"""The transform job on a real Ray: classes from a table, a sweep, masks, groups, the path, and bad inputs."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dmt_ray.cli import parse_options
from dmt_ray.errors import SettingsError
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.run import run_job

pytestmark = pytest.mark.usefixtures("local_ray")


def photo(seed: int, smile: bool, size: int = 96) -> Image.Image:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    blob = np.exp(-(((x - random.uniform(-0.1, 0.1)) / 0.6) ** 2) - (y / 0.8) ** 2)
    bar = smile * np.exp(-((x / 0.4) ** 2) - ((y - 0.4) / 0.12) ** 2)
    rgb = np.stack([0.3 + 0.4 * blob + 0.4 * bar, 0.2 + 0.4 * blob, 0.4 - 0.2 * blob + 0.4 * bar], -1)
    return Image.fromarray((255 * np.clip(rgb + random.normal(0, 0.02, rgb.shape), 0, 1)).astype(np.uint8))


def encoded(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faces.csv`` of 12 exemplars in two classes, and ``inputs.parquet`` of three photos, one of them broken."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "pictures").mkdir()
    with (folder / "faces.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "Smiling", "person"])
        for seed in range(12):
            photo(seed, smile=seed % 2 == 1).save(folder / "pictures" / f"{seed}.png")
            table.writerow([f"pictures/{seed}.png", 1 if seed % 2 else -1, f"person-{seed // 4}"])
    mask = np.zeros((96, 96), np.uint8)
    mask[48:] = 255
    pictures = [encoded(photo(20, False)), encoded(photo(21, False)), b"no picture at all"]
    rows = {
        "id": ["a", "b", "broken"],
        "image": pictures,
        "person": ["person-0", "somebody", "person-1"],
        "mask": [encoded(Image.fromarray(mask))] * 3,
    }
    pq.write_table(pa.table(rows), folder / "inputs.parquet")
    return folder


def command(faces: Path, out: Path, *options: object) -> list[str]:
    table = faces / "faces.csv"
    words = ["--input", faces / "inputs.parquet", "--image-column", "image", "--output", out]
    words += ["--source", table, "--source-where", "Smiling < 0", "--target", table, "--target-where", "Smiling > 0"]
    words += ["--size", 64, "--taps", "conv2_1", "conv3_1", "--weights", "random:0", "--iterations", 6]
    words += ["--tv-weight", 1, "--no-progress", "--max-error-rate", 0.5, "--no-lpips", "--judge", "none"]
    words += ["--threads-per-actor", 1]
    return [str(word) for word in (*words, *options)]


def run(faces: Path, out: Path, *options: object) -> tuple[int, pd.DataFrame]:
    code = run_job(parse_options("transform", command(faces, out, *options)))
    return code, pd.read_parquet(out / "shards").set_index(["id", "step"])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(float)


def test_a_sweep_with_masks_groups_and_the_path(faces, tmp_path):
    options = ("--strength", "0.5,1", "--mask-column", "mask", "--group-column", "person", "--save-path", 2)
    code, frame = run(faces, tmp_path / "out", *options)
    assert code == 0
    assert verify_output(str(tmp_path / "out")).complete
    assert list(frame.index) == [(name, step) for name in ("a", "b", "broken") for step in (0, 1)]
    assert list(frame.strength) == [0.5, 1.0] * 3
    assert list(frame.status) == ["ok"] * 4 + ["error"] * 2
    assert frame[["verdict_before", "verdict_after", "flipped"]].isna().all(axis=None)
    assert list(frame.error_type)[4:] == ["not-an-image"] * 2
    assert list(frame.person) == ["person-0"] * 2 + ["somebody"] * 2 + ["person-1"] * 2
    inputs = pd.read_parquet(faces / "inputs.parquet").set_index("id").image
    for name in ("a", "b"):
        before = pixels(inputs[name])
        half, full = (pixels(frame.image[name, step]) for step in (0, 1))
        for result in (half, full):
            assert result.shape == before.shape
            np.testing.assert_array_equal(result[:48], before[:48])
        assert np.abs(full[48:] - before[48:]).mean() > np.abs(half[48:] - before[48:]).mean() > 0.3
        row = frame.loc[name, 1]
        assert row.witness_after < row.witness_before
        assert row.budget_weight > 0
        assert row.psnr_to_input < frame.psnr_to_input[name, 0]
        animation = Image.open(BytesIO(row.animation))
        assert animation.format == "WEBP"
        assert animation.n_frames == 3
        assert animation.size == (64, 64)


@pytest.mark.slow
def test_other_ways_to_move_and_to_choose(faces, tmp_path):
    code, straight = run(faces, tmp_path / "dfi", "--method", "dfi", "--beta", "16,32", "--normalise")
    assert code == 0
    assert (straight.strength["a"].diff().dropna() > 0).all()
    code, local = run(faces, tmp_path / "local", "--traversal", "local", "--patch-neighbors", 4, "--strength", 1)
    assert code == 0
    code, near = run(faces, tmp_path / "near", "--neighbors", 2, "--basis", faces / "pictures")
    assert code == 0
    for frame in (straight, local, near):
        good = frame[frame.status == "ok"]
        assert (good.feature_loss_after < good.feature_loss_before).all()
    assert len({row.image for row in (local.loc["a", 0], near.loc["a", 0], straight.loc["a", 1])}) == 3


def test_a_folder_of_masks(faces, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(masks / "0.png")
    (masks / "1.png").write_bytes(b"nothing")
    words = command(faces, tmp_path / "out", "--mask-folder", masks, "--limit", 3)
    words[1] = str(faces / "pictures")
    words = [word for word in words if word not in ("--image-column", "image")]
    words[words.index("--max-error-rate") + 1] = "1"
    assert run_job(parse_options("transform", words)) == 0
    frame = pd.read_parquet(tmp_path / "out" / "shards").set_index("id")
    np.testing.assert_array_equal(pixels(frame.image["0.png"]), pixels((faces / "pictures" / "0.png").read_bytes()))
    assert frame.error_type["1.png"] == "bad-mask"
    assert frame.error_type["10.png"] == "no-mask"
    assert "10.png" in frame.error["10.png"]


def test_conditions_that_cannot_be_used_stop_the_run_before_it_starts(faces, tmp_path):
    for where, reason in (("Smiling > 5", "leaves none of the 12 rows"), ("Grinning > 0", "Grinning")):
        with pytest.raises(SettingsError, match=reason) as caught:
            run(faces, tmp_path / "out", "--target-where", where)
        assert "--target:" in str(caught.value)
    with pytest.raises(SettingsError, match="no column 'family'"):
        run(faces, tmp_path / "out", "--group-column", "family")
    assert not (tmp_path / "out").exists()
