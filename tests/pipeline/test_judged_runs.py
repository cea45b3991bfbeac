"""Runs with a judge: verdicts in every row, its accuracy in run.json, and a judge that travels with the manifold."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from material import but_for_the_run
from onnx_models import linear_model
from PIL import Image
from test_transform_job import photo

from dmt_ray import cli
from dmt_ray.config import OutputConfig
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.reconstruct import ReconstructConfig, reconstruct_config
from dmt_ray.jobs.transform import TransformConfig
from dmt_ray.method.metrics.verdicts import ProbeJudge
from dmt_ray.method.pictures import to_tensor
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.storage.models.manifolds import open_arrays
from dmt_ray.storage.models.weights import load_alexnet

pytestmark = pytest.mark.usefixtures("local_ray")

SIZE = 64
#: Means of red and blue: a bar adds to both. Above 0 with a bar, below 0 without one.
BAR = np.array([[400.0, 0.0, 400.0]])
BIAS = [-311.0]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``neutral`` and ``smiling``: six photos each. ``inputs``: two neutral photos, a smiling and a broken one."""
    folder = tmp_path_factory.mktemp("judged")
    for name in ("neutral", "smiling", "inputs"):
        (folder / name).mkdir()
    for seed in range(12):
        photo(seed, seed % 2 == 1).save(folder / ("smiling" if seed % 2 else "neutral") / f"{seed}.png")
    for seed, (name, smile) in enumerate((("a", False), ("b", False), ("smiling", True))):
        photo(20 + seed, smile).save(folder / "inputs" / f"{name}.png")
    (folder / "inputs" / "broken.png").write_bytes(b"no picture at all")
    (folder / "judge.onnx").write_bytes(linear_model(BAR, BIAS))
    return folder


@pytest.fixture(scope="module")
def manifold(faces: Path) -> Path:
    assert cli.main(["fit", *exemplars(faces), *small(), "--output", str(faces / "manifold")]) == 0
    return faces / "manifold"


def exemplars(faces: Path) -> list[str]:
    return ["--source", str(faces / "neutral"), "--target", str(faces / "smiling")]


def small() -> list[str]:
    return ["--size", str(SIZE), "--taps", "conv2_1", "conv3_1", "--weights", "random:0"]


def command(faces: Path, out: Path, *options: object) -> list[str]:
    words = ["transform", "--input", faces / "inputs", "--output", out, "--weights", "random:0"]
    words += ["--strength", "0.1,6", "--iterations", 6, "--tv-weight", 1, "--max-error-rate", 0.5]
    return [str(word) for word in (*words, "--no-progress", "--no-lpips", *options)]


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "shards").set_index(["id", "step"])


def recorded(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def no_verdicts(frame: pd.DataFrame) -> bool:
    return bool(frame[["verdict_before", "verdict_after", "flipped"]].isna().all(axis=None))


def prepared(words: list[str]):
    return prepare_run(cli.parse_options("transform", words[1:]))


def check_verdicts(frame: pd.DataFrame) -> None:
    """See that the neutral photos flip, the stronger move going further, and that the smiling one has nothing to."""
    for name in ("a.png", "b.png"):
        before, after = frame.verdict_before[name], frame.verdict_after[name]
        assert before[0] == before[1] < 0
        assert after[1] > after[0]
        assert list(frame.flipped[name]) == [value > 0 for value in after]
        assert after[1] > 0
    assert (frame.verdict_before["smiling.png"] > 0).all()
    assert frame.verdict_after["smiling.png"].notna().all()
    assert frame.flipped["smiling.png"].isna().all()
    assert no_verdicts(frame.loc["broken.png"])


def test_a_probe_judges_every_row_and_travels_with_the_manifold(faces, manifold, tmp_path, capsys):
    capsys.readouterr()
    assert cli.main(command(faces, tmp_path / "a", *exemplars(faces), *small()[:-2])) == 0
    said = capsys.readouterr().out
    frame = rows(tmp_path / "a")
    check_verdicts(frame)
    assert verify_output(str(tmp_path / "a"), deep=True).complete
    judge = recorded(tmp_path / "a")["judge"]
    assert (judge["name"], judge["accuracy"], judge["folds"]) == ("alexnet", 1.0, 5)
    assert judge["sha256"] == load_alexnet().sha256
    weak = int(frame.flipped.xs(0, level="step").sum())
    assert (
        f"Flipped: by strength, 0.1: {weak} of 2 ({weak / 2:.0%}), 6: 2 of 2 (100%) (judge alexnet, right on" in said
    )
    assert "right on 100.0% of held-out exemplars, 5 folds)." in said

    # The saved judge says the same of the same pictures, and of the photo itself.
    assert cli.main(command(faces, tmp_path / "b", "--manifold", manifold)) == 0
    again = rows(tmp_path / "b")
    assert but_for_the_run(again.image) == but_for_the_run(frame.image)
    pd.testing.assert_frame_equal(
        again[["verdict_before", "verdict_after", "flipped"]], frame[["verdict_before", "verdict_after", "flipped"]]
    )
    assert recorded(tmp_path / "b")["judge"] == judge
    record, arrays = open_arrays(str(manifold))
    assert record["judge"] == judge
    probe = ProbeJudge(load_alexnet().arrays, arrays, torch.device("cpu"))
    picture = Image.open(faces / "inputs" / "a.png").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert float(probe(to_tensor(np.asarray(picture))[None])) == pytest.approx(
        frame.verdict_before["a.png", 0], rel=0.1
    )

    # A resume does nothing and still tells.
    capsys.readouterr()
    assert cli.main(command(faces, tmp_path / "a", *exemplars(faces), *small()[:-2])) == 0
    said = capsys.readouterr().out
    assert "Nothing was left to do." in said
    assert "right on 100.0% of held-out exemplars, 5 folds)." in said
    with pytest.raises(SettingsError, match=r"judge_margin was 0\.0 and is 1\.0 now"):
        prepared(command(faces, tmp_path / "a", *exemplars(faces), *small()[:-2], "--judge-margin", 1))


def test_a_classifier_of_ones_own_judges(faces, tmp_path, capsys):
    place = faces / "judge.onnx"
    options = [*exemplars(faces), *small()[:-2], "--judge", str(place), "--judge-margin", "1"]
    assert cli.main(command(faces, tmp_path / "out", *options)) == 0
    frame = rows(tmp_path / "out")
    judge = recorded(tmp_path / "out")["judge"]
    assert (judge["name"], judge["accuracy"], judge["folds"]) == (str(place), 1.0, 0)
    assert recorded(tmp_path / "out")["settings"]["judge"] == f"onnx:{judge['sha256']}"
    assert "right on 100.0% of exemplars)." in capsys.readouterr().out
    for name in ("a.png", "b.png", "smiling.png"):
        pixels = np.asarray(Image.open(faces / "inputs" / name), float) / 255
        assert frame.verdict_before[name, 0] == pytest.approx(float(BAR[0] @ pixels.mean((0, 1)) + BIAS[0]), abs=1)
        result = np.asarray(Image.open(BytesIO(frame.image[name, 1])), float) / 255
        assert frame.verdict_after[name, 1] == pytest.approx(float(BAR[0] @ result.mean((0, 1)) + BIAS[0]), abs=3)
        if name != "smiling.png":
            assert list(frame.flipped[name]) == [value > 1 for value in frame.verdict_after[name]]
    other = faces / "other.onnx"
    other.write_bytes(linear_model(BAR, [-1.0]))
    with pytest.raises(SettingsError, match=r"judge was 'onnx:.* and is 'onnx:.* now"):
        prepared(
            command(faces, tmp_path / "out", *exemplars(faces), *small()[:-2], "--judge", other, "--judge-margin", 1)
        )


def test_traversals_have_no_verdicts_and_their_pictures_do(faces, tmp_path, capsys):
    options = [*exemplars(faces), *small()[:-2]]
    assert cli.main(command(faces, tmp_path / "moves", *options, "--traversal-only")) == 0
    assert no_verdicts(rows(tmp_path / "moves"))
    assert "Flipped" not in capsys.readouterr().out
    again = [
        "reconstruct",
        str(tmp_path / "moves"),
        "--no-progress",
        "--no-lpips",
        "--max-error-rate",
        "0.5",
        "--output",
    ]
    assert cli.main([*again, str(tmp_path / "later")]) == 0
    check_verdicts(rows(tmp_path / "later"))
    assert recorded(tmp_path / "later")["judge"] == recorded(tmp_path / "moves")["judge"]
    config = reconstruct_config(
        ReconstructConfig(str(tmp_path / "moves"), OutputConfig(str(tmp_path / "none")), judge="none")
    )
    assert prepare_run(config).judge is None


def test_a_manifold_without_a_judge_asks_for_none(faces, manifold, tmp_path):
    bare = tmp_path / "bare"
    assert cli.main(["fit", *exemplars(faces), *small(), "--judge", "none", "--output", str(bare)]) == 0
    record, arrays = open_arrays(str(bare))
    assert "judge" not in record
    assert not [name for name in arrays if name.startswith("judge_")]
    with pytest.raises(SettingsError, match=r"bare was saved without the judge alexnet; say --judge none, or make"):
        prepared(command(faces, tmp_path / "out", "--manifold", bare))
    assert prepared(command(faces, tmp_path / "out", "--manifold", bare, "--judge", "none")).judge is None
    own = prepared(command(faces, tmp_path / "out", "--manifold", bare, "--judge", faces / "judge.onnx"))
    assert own.judge_report.accuracy is None
    assert prepared(command(faces, tmp_path / "out", "--manifold", manifold, "--judge", "none")).judge is None


def test_no_network_no_judge(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("DMT_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SettingsError, match=r"No weights for the judge .*; or say --judge none"):
        prepared(command(faces, tmp_path / "out", *exemplars(faces), *small()[:-2]))


def test_options_of_a_judge(faces, tmp_path):
    for judge, reason in (
        ("resnet", "alexnet, none, or an .onnx file"),
        ("judge.pth", "alexnet, none, or an .onnx file"),
    ):
        with pytest.raises(SettingsError, match=reason):
            prepared(command(faces, tmp_path, *exemplars(faces), "--judge", judge))
    with pytest.raises(SettingsError, match=r"--judge-margin is -1\.0"):
        prepared(command(faces, tmp_path, *exemplars(faces), "--judge-margin", -1))
    with pytest.raises(SettingsError, match="--judge holds a password"):
        prepared(command(faces, tmp_path, *exemplars(faces), "--judge", "https://me:secret@host/judge.onnx"))
    with pytest.raises(SettingsError, match=r"--judge is '.*onnx'; it must be alexnet or none"):
        cli.parse_options("fit", [*exemplars(faces), "--output", str(tmp_path), "--judge", "judge.onnx"])
    config: TransformConfig = cli.parse_options("transform", command(faces, tmp_path, *exemplars(faces))[1:])
    assert config.named_places().get("judge") is None


@pytest.mark.parametrize("traversal", [pytest.param("global", marks=pytest.mark.slow), "local"])
def test_every_photo_is_moved_only_until_it_flips(faces, tmp_path, traversal):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("a", "b"):
        photo(ord(name), False).save(inputs / f"{name}.png")
        wide = np.tile(np.asarray(photo(ord(name), False)), (1, 2, 1))
        Image.fromarray(wide).save(inputs / f"wide_{name}.png")
    photo(22, True).save(inputs / "smiling.png")
    (inputs / "broken.png").write_bytes(b"no picture at all")
    words = [*exemplars(faces), *small()[:-2], "--judge", str(faces / "judge.onnx"), "--input", str(inputs)]
    words += ["--until-flipped", "--traversal", traversal, "--strength", "12"]
    assert cli.main(command(faces, tmp_path / "out", *words)) == 0
    frame = rows(tmp_path / "out")
    assert verify_output(str(tmp_path / "out"), deep=True).complete
    assert list(frame.index) == [(f"{name}.png", 0) for name in ("a", "b", "broken", "smiling", "wide_a", "wide_b")]
    found = frame.droplevel("step")
    assert found.strength["smiling.png"] == 0
    assert pd.isna(found.flipped["smiling.png"])
    assert pd.isna(found.strength["broken.png"])
    for name in ("a.png", "b.png", "wide_a.png", "wide_b.png"):
        row = found.loc[name]
        assert 0 < row.strength <= 12
        assert row.flipped == (row.verdict_after > 0)
        assert row.flipped or row.strength == 12
        assert (row.width, row.height) == ((192, 96) if "wide" in name else (96, 96))
    assert found.flipped[["a.png", "b.png"]].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "none"], "judge"),
        (["--budget-weight", "1e-6"], "until_flipped|until-flipped"),
        (["--save-path", "3"], "save_path|save-path"),
    ],
)
def test_what_cannot_be_done_until_flipped_is_refused(faces, tmp_path, options, message):
    words = command(faces, tmp_path, *exemplars(faces), "--until-flipped", *options)
    if "--budget-weight" in options:
        words = [word for word in words if word not in ("--strength", "0.1,6")]
    with pytest.raises((SettingsError, SystemExit), match=message if "none" not in options else None):
        prepared(words)


def test_a_judge_is_fitted_to_exemplars_of_several_shapes(faces, tmp_path):
    for name in ("neutral", "smiling"):
        (tmp_path / name).mkdir()
        for seed, path in enumerate(sorted((faces / name).iterdir())):
            rgb = np.asarray(Image.open(path))
            wide = np.tile(rgb, (1, 2, 1)) if seed % 2 else rgb
            Image.fromarray(wide).save(tmp_path / name / path.name)
    out = tmp_path / "made"
    words = ["--source", str(tmp_path / "neutral"), "--target", str(tmp_path / "smiling"), "--traversal", "local"]
    assert cli.main(["fit", *words, *small(), "--output", str(out)]) == 0
    record, arrays = open_arrays(str(out))
    assert len({tuple(grid) for grid in arrays["grids"]}) == 2
    assert record["judge"]["folds"] == 5
    assert arrays["judge_coefficients"].shape == (4608,)
