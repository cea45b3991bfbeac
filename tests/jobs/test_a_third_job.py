"""A new job is one module and one entry of the registry: its options and its run on Ray follow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from material import but_for_the_run
from PIL import Image
from tint_job import TintConfig

from dmt_ray import cli
from dmt_ray.output.verify import verify_output


def words(photos, out):
    return [
        *(
            "--input",
            str(photos / "references"),
            "--tint",
            str(photos / "references" / "0.png"),
            "--output",
            str(out),
        ),
        *("--size", "64", "--weights", "random:0", "--no-lpips", "--strength", "0.5,1", "--no-progress"),
    ]


def test_its_options_come_from_its_dataclasses(photos, tmp_path):
    config = cli.parse_options("tint", words(photos, tmp_path / "out"))
    assert isinstance(config, TintConfig)
    assert config.strengths == (0.5, 1.0)


@pytest.mark.usefixtures("local_ray")
def test_it_runs_and_resumes_like_any_other(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["tint", *words(photos, out)]) == 0
    assert verify_output(str(out), deep=True).complete
    rows = pd.read_parquet(str(out / "shards"))
    wanted = np.asarray(Image.open(photos / "references" / "0.png"), float).mean((0, 1))
    for _, row in rows[rows.strength == 1].iterrows():
        mean = np.asarray(Image.open(BytesIO(row.image)), float).mean((0, 1))
        assert np.abs(mean - wanted).max() < 12  # clipping takes a little
    capsys.readouterr()
    assert cli.main(["tint", *words(photos, out), "--report"]) == 0
    said = capsys.readouterr().out
    assert "Nothing was left to do." in said
    assert f"{out}/report/index.html: 10 rows, 5 photos in the list." in said
    assert (out / "report" / "index.html").exists()


@pytest.mark.usefixtures("local_ray")
def test_its_traversals_alone_can_be_reconstructed_elsewhere(photos, tmp_path):
    moves, whole, out = tmp_path / "moves", tmp_path / "whole", tmp_path / "out"
    assert cli.main(["tint", *words(photos, moves), "--traversal-only"]) == 0
    assert cli.main(["reconstruct", str(moves), "--output", str(out), "--no-lpips"]) == 0
    assert cli.main(["tint", *words(photos, whole)]) == 0
    made, expected = (pd.read_parquet(str(place / "shards")) for place in (out, whole))
    assert but_for_the_run(made.image) == but_for_the_run(expected.image)
