"""``--balance`` through the job, on tables of real pictures: what it keeps out of results, and what is recorded."""

import csv
import json
import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dmt_ray import cli
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.exemplars import learn_exemplars, make_editor
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.prepare import PreparedRun, prepare_run, run_record
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.models.manifolds import open_arrays, open_record

YOUNG, OLD, HATTED = 16, 14, 8


def face(seed: int, *, old: bool, hat: bool) -> Image.Image:
    """A blob; the old have a bright bar below, and a hat is a bright bar above."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    value = 0.3 + 0.3 * np.exp(-((x / 0.6) ** 2) - (y / 0.8) ** 2)
    value += 0.35 * old * np.exp(-((x / 0.5) ** 2) - ((y - 0.5) / 0.15) ** 2)
    value += 0.35 * hat * np.exp(-((x / 0.5) ** 2) - ((y + 0.6) / 0.15) ** 2)
    rgb = value[..., None] * np.array([1, 0.9, 0.8]) + random.normal(0, 0.01, (96, 96, 3))
    return Image.fromarray((255 * np.clip(rgb, 0, 1)).astype(np.uint8))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faces.csv``: no young person wears a hat, more than half of the old do. ``inputs/`` has two of the young."""
    folder = tmp_path_factory.mktemp("hats")
    for name in ("pictures", "inputs"):
        (folder / name).mkdir()
    with (folder / "faces.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "old", "hat", "male", "weight", "name", "always"])
        for n in range(YOUNG + OLD):
            old, hat = n >= YOUNG, YOUNG <= n < YOUNG + HATTED
            face(n, old=old, hat=hat).save(folder / "pictures" / f"{n}.png")
            weight = "" if n == 3 else n
            table.writerow(
                [f"pictures/{n}.png", int(old), int(hat), "true" if n % 3 else "false", weight, f"n{n}", 1]
            )
    for n in (100, 101):
        face(n, old=False, hat=False).save(folder / "inputs" / f"{n}.png")
    return folder


def exemplars(faces: Path) -> list[object]:
    table = faces / "faces.csv"
    return ["--source", table, "--source-where", "old = 0", "--target", table, "--target-where", "old = 1"]


def words(name: str, out: Path, *options: object) -> list[str]:
    model = ["--size", 64, "--taps", "conv2_1", "conv3_1", "--weights", "random:0"]
    return [str(word) for word in (name, *options, "--output", out, *model)]


def transform(faces: Path, out: Path, *options: object) -> list[str]:
    how = ["--input", faces / "inputs", "--strength", 2, "--iterations", 6, "--no-progress", "--no-lpips"]
    return words("transform", out, *how, "--tv-weight", 1, *options)


def prepared(faces: Path, out: Path, *options: object) -> PreparedRun:
    return prepare_run(cli.parse_options("transform", transform(faces, out, *options)[1:]))


def learned(run: PreparedRun) -> dict[str, np.ndarray]:
    """What a run learns from its exemplars, or reads from its manifold."""
    arrays, report = learn_exemplars(run.weights.arrays, run.exemplars, run.config, "cpu", run.judge)
    assert not report.skipped
    return arrays


def results(faces: Path, run: PreparedRun) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and what the run's editor makes of them, both (2, 64, 64, 3) float."""
    editor = make_editor(run.weights.arrays, learned(run), run.config, "cpu")
    photos = [decode_image(path.read_bytes(), max_pixels=10**6) for path in sorted((faces / "inputs").iterdir())]
    pictures = np.stack([editor.working(rgb) for rgb in photos])
    displacements = editor.traverse(pictures, [ImageIdentity()] * len(photos))
    edits = editor.reconstruct(pictures, displacements, [None] * len(photos))
    made = np.stack([edit.picture for [edit] in edits]).astype(float)
    return pictures.transpose(0, 2, 3, 1), made


def test_what_one_class_wears_stays_out_of_the_results(faces, tmp_path):
    rows = {"hat": slice(9, 17), "bar": slice(44, 52)}
    gains = {}
    for name, options in (("plain", []), ("balanced", ["--balance", "hat,male"])):
        before, after = results(faces, prepared(faces, tmp_path / "out", *exemplars(faces), *options))
        gains[name] = {part: float((after - before)[:, at, 18:46].mean()) for part, at in rows.items()}
    assert gains["plain"]["hat"] > 1
    assert abs(gains["balanced"]["hat"]) < 0.2 * gains["plain"]["hat"]
    assert gains["balanced"]["bar"] > 0.8 * gains["plain"]["bar"] > 1


@pytest.mark.slow
def test_run_json_says_what_became_of_the_means(local_ray, faces, tmp_path):
    out = tmp_path / "out"
    options = [*exemplars(faces), "--method", "dfi", "--iterations", 2, "--balance"]
    run = prepared(faces, out, *options, "hat,male")
    assert cli.main(transform(faces, out, *options, "hat,male")) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["balance"] == ["hat", "male"]
    assert list(record["balance"]) == ["columns", "source", "target"]
    assert record["balance"]["columns"] == ["hat", "male"]
    source, target = record["balance"]["source"], record["balance"]["target"]
    assert (source["count"], target["count"]) == (YOUNG, OLD)
    assert source["means_before"] == {"hat": 0, "male": pytest.approx(10 / 16)}
    assert target["means_before"] == {"hat": pytest.approx(HATTED / OLD), "male": pytest.approx(10 / 14)}
    assert target["means_after"]["hat"] < 1e-6
    assert target["means_after"]["male"] == pytest.approx(source["means_after"]["male"], abs=1e-6)
    assert 5 < target["effective_size"] < OLD - HATTED + 1e-3
    assert verify_output(str(out)).complete
    # The actors had the weights: what they made is what they make in this process.
    frame = pd.read_parquet(out / "shards").set_index("id")
    made = results(faces, run)[1]
    for name, mine in zip(("100.png", "101.png"), made, strict=True):
        theirs = np.asarray(
            Image.open(BytesIO(frame.image[name])).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        )
        assert np.abs(theirs - mine).mean() < 3

    assert not prepared(faces, out, *options, "hat,male").todo
    with pytest.raises(SettingsError, match=r"balance was \['hat', 'male'\] and is \['hat'\] now"):
        prepared(faces, out, *options, "hat")


def test_the_dry_run_says_it_in_one_line(faces, tmp_path, capsys):
    assert cli.main(transform(faces, tmp_path / "out", *exemplars(faces), "--balance", "hat", "--dry-run")) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "Balanced" in line]
    assert "16 sources count as 16.0 (means: hat 0 -> 0); 14 targets count as 6.0 (means: hat 0.571 -> " in line
    assert not (tmp_path / "out").exists()


def test_a_manifold_keeps_its_balance(faces, tmp_path, capsys):
    made = tmp_path / "manifold"
    assert cli.main(words("fit", made, *exemplars(faces), "--balance", "hat,male")) == 0
    assert "14 targets count as 6.0 (means: hat 0.571 -> " in capsys.readouterr().out
    record, arrays = open_arrays(str(made))
    assert record["balance"]["columns"] == ["hat", "male"]
    assert record["exemplars"]["balance"] == ["hat", "male"]
    weights = arrays["exemplar_weights"]
    assert weights.shape == (YOUNG + OLD,)
    assert weights.dtype == np.float64
    assert weights[:YOUNG].sum() == pytest.approx(1)
    assert weights[YOUNG:].sum() == pytest.approx(1)
    assert weights[YOUNG : YOUNG + HATTED].max() < 1e-6 / OLD
    run = prepared(faces, tmp_path / "out", "--manifold", made)
    assert run.config.exemplars.balance == ("hat", "male")
    assert run_record(run).details["balance"] == record["balance"]
    direct = prepared(faces, tmp_path / "out", *exemplars(faces), "--balance", "hat,male")
    assert run_record(direct).details["balance"] == record["balance"]
    theirs = learned(direct)
    assert set(theirs) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_a_manifold_is_used_with_its_own_balance(faces, tmp_path):
    balanced, plain = tmp_path / "balanced", tmp_path / "plain"
    assert cli.main(words("fit", balanced, *exemplars(faces), "--balance", "hat,male")) == 0
    assert cli.main(words("fit", plain, *exemplars(faces))) == 0
    assert "exemplar_weights" not in open_arrays(str(plain))[1]
    assert "balance" not in open_record(str(plain))
    assert prepared(faces, tmp_path / "out", "--manifold", plain).learnable.balance is None
    assert prepared(faces, tmp_path / "out", "--manifold", balanced, "--balance", "hat,male").learnable.balance
    for other in ("hat", "male,hat"):
        with pytest.raises(
            SettingsError, match=rf"--balance is {other.replace(',', ' ')}, .* was made with hat male"
        ):
            prepared(faces, tmp_path / "out", "--manifold", balanced, "--balance", other)
    with pytest.raises(SettingsError, match=r"--balance is hat, .* leave it out"):
        prepared(faces, tmp_path / "out", "--manifold", plain, "--balance", "hat")


@pytest.mark.slow
def test_saved_displacements_keep_their_balance(local_ray, faces, tmp_path):
    options = [*exemplars(faces), "--balance", "hat,male", "--method", "dfi", "--iterations", 2]
    assert cli.main(transform(faces, tmp_path / "moves", *options, "--traversal-only")) == 0
    later = ["reconstruct", tmp_path / "moves", "--output", tmp_path / "later", "--no-progress", "--no-lpips"]
    assert cli.main([str(word) for word in later]) == 0
    made = pd.read_parquet(tmp_path / "later" / "shards")
    assert list(made.status) == ["ok", "ok"]
    balances = [json.loads((tmp_path / name / "run.json").read_text())["balance"] for name in ("moves", "later")]
    assert balances[0] == balances[1] == open_record(str(tmp_path / "moves" / "manifold"))["balance"]


def test_columns_may_serve_for_balance_and_for_neighbours(faces, tmp_path):
    options = ("--balance", "male,hat", "--attribute-columns", "weight,male", "--group-column", "name")
    where = ["--source-where", "old = 0 AND weight IS NOT NULL"]
    run = prepared(faces, tmp_path / "out", *exemplars(faces), *where, *options)
    source = run.exemplars["source"]
    assert source.balance_values is not None
    assert source.balance is not None
    assert source.balance.columns == ("male", "hat")
    assert source.balance_values.tolist() == [[float(n % 3 > 0), 0.0] for n in range(YOUNG) if n != 3]


def test_a_draw_is_balanced_after_it_is_drawn(faces, tmp_path):
    run = prepared(faces, tmp_path / "out", *exemplars(faces), "--balance", "male", "--exemplar-limit", 9)
    for found in run.exemplars.values():
        assert found.balance_values is not None
        assert found.balance is not None
        assert len(found.items) == len(found.balance.weights) == 9
        numbers = [int(item.uri.rpartition("/")[2].removesuffix(".png")) for item in found.items]
        assert found.balance_values[:, 0].tolist() == [float(n % 3 > 0) for n in numbers]


def test_other_values_are_other_exemplars(faces, tmp_path):
    before = prepared(faces, tmp_path / "out", *exemplars(faces), "--balance", "hat")
    table = (faces / "faces.csv").read_text()
    changed = faces / "changed.csv"
    changed.write_text(table.replace("pictures/29.png,1,0", "pictures/29.png,1,1"))
    options = ["--source", changed, "--source-where", "old = 0", "--target", changed, "--target-where", "old = 1"]
    after = prepared(faces, tmp_path / "out", *options, "--balance", "hat")
    assert before.settings["targets"] != after.settings["targets"]


def test_exemplars_that_cannot_be_used_leave_their_weight_to_the_others(faces, tmp_path, caplog):
    table = (faces / "faces.csv").read_text()
    for name in ("one", "all"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "faces.csv").write_text(table)
        (folder / "pictures").symlink_to(faces / "pictures")
    own = tmp_path / "one" / "pictures"
    own.unlink()
    own.mkdir()
    for path in (faces / "pictures").iterdir():
        (own / path.name).write_bytes(b"broken" if path.name == "29.png" else path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert cli.main(words("fit", tmp_path / "made", *exemplars(tmp_path / "one"), "--balance", "hat,male")) == 0
    [lost] = [record.getMessage() for record in caplog.records if "weight in the balance" in record.getMessage()]
    assert lost.startswith("The targets that were left out had ")
    _, arrays = open_arrays(str(tmp_path / "made"))
    assert cli.main(words("fit", tmp_path / "whole", *exemplars(tmp_path / "all"), "--balance", "hat,male")) == 0
    _, whole = open_arrays(str(tmp_path / "whole"))
    kept = whole["exemplar_weights"][YOUNG:-1]
    np.testing.assert_allclose(arrays["exemplar_weights"][YOUNG:], kept / kept.sum())
    for n in range(YOUNG + HATTED, YOUNG + OLD):
        (own / f"{n}.png").write_bytes(b"broken")
    with pytest.raises(
        SettingsError, match="All targets that count once the classes are balanced had to be left out"
    ):
        run_fit(tmp_path / "none", exemplars(tmp_path / "one"))


def run_fit(out: Path, options: list[object]) -> None:
    from dmt_ray.jobs.fit import fit

    fit(cli.parse_options("fit", words("fit", out, *options, "--balance", "hat,male")[1:]))


def test_few_effective_exemplars_and_unequal_means_are_warned_of(faces, tmp_path, caplog):
    options = (*exemplars(faces), "--balance", "hat,old")
    with caplog.at_level(logging.WARNING):
        prepared(faces, tmp_path / "out", *options, "--target-where", "old = 1 AND (hat = 1 OR path LIKE '%/29.%')")
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("The 9 targets count as only 1.0 once they are balanced") for text in texts)
    assert any(
        "Column 'old' stays unequal: its mean is 0 in the sources and 1 in the targets" in text for text in texts
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--balance", "glasses"], r"--source: .*faces\.csv has no column 'glasses' to choose by\. Columns: .*hat"),
        (
            ["--balance", "name"],
            r"--source: Column 'name' of .*faces\.csv holds string; an attribute must be a number",
        ),
        (
            ["--balance", "weight"],
            r"--source: Column 'weight' of .*faces\.csv has no number for faces\.csv#3 \(and 0 more\)",
        ),
        (["--balance", "always"], "--balance: Column 'always' to balance by is 1 for all 30 exemplars"),
        (["--balance", "hat,hat"], "balance is .*hat.*free of repetition"),
        (["--balance", "hat", "--source", "FOLDER"], r"--source: .*pictures is no table \(Parquet or CSV\)"),
    ],
)
def test_columns_that_cannot_be_balanced_stop_the_run(faces, tmp_path, options, reason):
    given = [*exemplars(faces), *options]
    if "FOLDER" in options:
        given = ["--target", faces / "faces.csv", "--balance", "hat", "--source", faces / "pictures"]
    with pytest.raises(SettingsError, match=reason):
        prepared(faces, tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()
