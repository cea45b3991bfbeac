"""A manifold made once and used again, and a traversal whose pictures are made by another run."""

import json
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from material import ARTIST, but_for_the_run
from PIL import Image

from dmt_ray import cli
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.method.displacement import Displacement
from dmt_ray.output.verify import verify_output
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.storage.models.manifolds import open_arrays, save_arrays

SMALL = ["--size", 64, "--taps", "conv2_1", "conv3_1", "--weights", "random:0"]


def words(*parts: object) -> list[str]:
    return [str(part) for part in parts]


@pytest.fixture(scope="module")
def exemplars(photos: Path) -> list[object]:
    return ["--source", photos / "references" / "*0.*", "--target", photos / "references" / "*1.*"]


@pytest.fixture(scope="module")
def manifold(exemplars: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "manifold"
    assert cli.main(words("fit", *exemplars, *SMALL, "--standardise", "unit", "--output", place)) == 0
    return place


def job(photos: Path, out: Path, *more: object) -> list[str]:
    common = ["--input", photos / "inputs", "--output", out, "--weights", "random:0", "--iterations", 4]
    common += ["--threads-per-actor", 1]
    return words(
        "transform", *common, "--no-progress", "--no-lpips", "--max-error-rate", 0.5, "--tv-weight", 1, *more
    )


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "shards").set_index(["id", "step"])


def prepared(arguments: list[str]):
    return prepare_run(cli.parse_options("transform", arguments[1:]))


def test_a_manifold_used_again_gives_what_its_exemplars_give(local_ray, photos, exemplars, manifold, tmp_path):
    assert cli.main(job(photos, tmp_path / "a", *exemplars, *SMALL[:-2], "--standardise", "unit")) == 0
    assert cli.main(job(photos, tmp_path / "b", "--manifold", manifold)) == 0
    a, b = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert list(a.status) == list(b.status)
    assert (a.status == "ok").sum() == 4
    assert but_for_the_run(a.image) == but_for_the_run(b.image)
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    assert record["settings"]["size"] == 64
    assert record["settings"]["standardise"] == "unit"
    assert record["exemplars"]["source"]["count"] > 0


def test_options_that_contradict_the_manifold_are_refused(photos, manifold, tmp_path):
    assert prepared(job(photos, tmp_path / "out", "--manifold", manifold, "--size", 64)).config.model.size == 64
    for more, reason in (
        (["--size", 96], f"--size is 96, and the manifold {manifold} was made with 64"),
        (["--taps", "conv2_1"], "--taps is conv2_1, .* was made with conv2_1 conv3_1"),
        (["--traversal", "local"], "--traversal is local, .* was made with global"),
        (["--weights", "random:1"], "made with other weights"),
        (["--source", photos / "references"], "--source is .*left out when --manifold"),
    ):
        with pytest.raises(SettingsError, match=reason):
            prepared(job(photos, tmp_path / "out", "--manifold", manifold, *more))
    with pytest.raises(DmtError, match=r"nowhere.*manifold\.json: does not exist"):
        prepared(job(photos, tmp_path / "out", "--manifold", tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_a_manifold_of_another_version_is_refused(photos, manifold, tmp_path):
    record, arrays = open_arrays(str(manifold))
    save_arrays(str(tmp_path / "old"), {key: value for key, value in record.items() if key != "contents"}, arrays)
    with pytest.raises(SettingsError, match=r"old was made by another version of dmt_ray .*make it again"):
        prepared(job(photos, tmp_path / "out", "--manifold", tmp_path / "old"))


@pytest.mark.parametrize("name", ["transform", pytest.param("colorize", marks=pytest.mark.slow)])
def test_pictures_of_saved_displacements_are_those_of_one_run(
    local_ray, photos, exemplars, manifold, name, tmp_path, capsys
):
    if name == "transform":
        common = job(photos, tmp_path / "whole", *exemplars, *SMALL[:-2], "--strength", "0.5,1")
    else:
        common = words("colorize", *job(photos, tmp_path / "whole")[1:], "--reference", photos / "references")
        common += words(*SMALL[:-2], "--neighbors", 8)
    assert cli.main(common) == 0
    place = common.index("--output") + 1
    common[place] = str(tmp_path / "moves")
    assert cli.main([*common, "--traversal-only"]) == 0
    whole, moves = rows(tmp_path / "whole"), rows(tmp_path / "moves")
    good = whole.index[whole.status == "ok"]
    assert list(moves.status) == list(whole.status)
    assert moves.image.isna().all()
    first = [key for key in good if key[1] == 0]
    assert list(moves.index[moves.displacement.notna()]) == first
    assert np.allclose(moves.displacement_norm[good], whole.displacement_norm[good])
    saved = Displacement.from_bytes(moves.displacement[first[0]])
    assert len(saved.steps) == len(whole.loc[first[0][0]])
    assert verify_output(str(tmp_path / "moves"), deep=True).complete

    capsys.readouterr()
    options = words("--no-progress", "--no-lpips", "--max-error-rate", 0.5, "--output", tmp_path / "later")
    copied = photos / "inputs" / "photo-2.jpg"  # the same bytes at another time, as a copy of the folder has them
    before = copied.stat()
    os.utime(copied, (1, 1))
    assert cli.main(words("reconstruct", tmp_path / "moves", *options)) == 0
    os.utime(copied, ns=(before.st_atime_ns, before.st_mtime_ns))
    later = rows(tmp_path / "later")
    assert but_for_the_run(later.image) == but_for_the_run(whole.image)
    kept = Image.open(BytesIO(later.image["photo-1.jpg", 0])).getexif()
    assert kept[ARTIST] == "Artist 1"
    assert later.digital_source_type.equals(whole.digital_source_type)
    assert later.error_type.equals(whole.error_type)
    assert verify_output(str(tmp_path / "later"), deep=True).complete
    assert cli.main(words("reconstruct", tmp_path / "whole", *options[:-1], tmp_path / "third")) == 2
    assert "a run that made pictures" in capsys.readouterr().err
    (tmp_path / "moves" / "shards" / "shard-000000.parquet").unlink()
    assert cli.main(words("reconstruct", tmp_path / "moves", *options[:-1], tmp_path / "third")) == 2
    assert "still lacks 1 of its 1 shard;" in capsys.readouterr().err
