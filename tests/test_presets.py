"""``--preset``: one word for a set of options; and ``--config run.json``, which repeats a run."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import pytest

from dmt_ray import cli
from dmt_ray.command_line.commands import job_configs
from dmt_ray.command_line.presets import PRESET_NAMES, preset_values
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.networks import precision_of
from dmt_ray.jobs.registry import JOBS
from dmt_ray.options import option_types
from dmt_ray.pipeline.prepare import prepare_run, run_record

COLORIZE = ("--input", "a", "--reference", "b", "--output", "c")
TRANSFORM = ("--input", "a", "--source", "b", "--target", "c", "--output", "d")
FIT = ("--source", "b", "--target", "c", "--output", "d")
DOCUMENT = Path(__file__).parents[1] / "docs/command-line.md"


def test_the_papers_settings_in_one_word(caplog):
    with caplog.at_level(logging.INFO):
        config = cli.parse_options("transform", ["--preset", "paper", *TRANSFORM])
    move, pixels = config.traversal, config.inversion
    assert (move.method, move.traversal, move.standardise) == ("dmt", "global", "unit")
    assert (move.mean_kernel, move.shrink) == (0.5, 0.0)
    assert (pixels.tv_on, pixels.tv_weight, pixels.iterations) == ("image", 10.0, 60)
    assert (pixels.pixel_share, pixels.hold_chroma) == (0.0, 0.0)
    assert config.model.normalise
    assert precision_of(config) == "fp32"
    assert "The preset paper sets traversal global, standardise unit, normalise True" in caplog.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "auto"),
        (["--standardise", "unit"], "fp32"),
        (["--standardise", "unit", "--precision", "bf16"], "bf16"),
        (["--standardise", "none", "--precision", "fp32"], "fp32"),
    ],
)
def test_units_standardised_one_by_one_need_full_precision(words, expected):
    assert precision_of(cli.parse_options("transform", [*words, *TRANSFORM])) == expected


@pytest.mark.parametrize("words", [["--iterations", "7", "--preset=paper"], ["--preset", "paper", "--iterations=7"]])
def test_what_is_given_wins_over_the_preset(words, caplog):
    with caplog.at_level(logging.INFO):
        config = cli.parse_options("transform", [*words, "--no-normalise", "--mean_kernel", "0.7", *TRANSFORM])
    assert (config.inversion.iterations, config.model.normalise, config.traversal.mean_kernel) == (7, False, 0.7)
    assert config.traversal.shrink == 0.0
    assert "iterations" not in caplog.text


def test_a_yaml_file_wins_over_the_preset_and_may_name_it(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("iterations: 9\n")
    given = cli.parse_options("colorize", ["--preset", "fast", "--config", str(file), *COLORIZE])
    file.write_text("iterations: 9\npreset: fast\n")
    assert cli.parse_options("colorize", ["--config", str(file), *COLORIZE]) == given
    assert (given.inversion.iterations, given.model.size, given.output.lpips) == (9, 128, False)
    assert cli.parse_options("colorize", ["--config", str(file), "--preset", "best", *COLORIZE]).model.size == 448
    file.write_text("preset: slow\n")
    with pytest.raises(SettingsError, match="preset is 'slow'; it must be one of paper, fast, best"):
        cli.parse_options("colorize", ["--config", str(file), *COLORIZE])


@pytest.mark.parametrize(("command", "words"), [("colorize", COLORIZE), ("fit", FIT)])
@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_a_command_takes_what_it_has_of_a_preset(command, words, preset):
    config = cli.parse_options(command, ["--preset", preset, *words])
    known = option_types(type(config))
    values = preset_values(preset, command, known)
    assert values
    assert set(values) <= set(known)
    sections = [getattr(config, field.name) for field in dataclasses.fields(config)]
    for name, value in values.items():
        owner = next(part for part in (*sections, config) if hasattr(part, name) and not isinstance(part, str))
        assert getattr(owner, name) == value


def test_a_fit_and_a_run_with_the_same_preset_agree():
    for preset in PRESET_NAMES:
        made = cli.parse_options("fit", ["--preset", preset, *FIT]).as_transform()
        used = cli.parse_options("transform", ["--preset", preset, *TRANSFORM])
        for section, names in JOBS["transform"].decided.items():
            for name in names:
                assert getattr(getattr(made, section), name) == getattr(getattr(used, section), name)


def test_a_saved_manifold_decides_for_itself():
    config = cli.parse_options("transform", ["--preset", "paper", "--input", "a", "--manifold", "m", "--output", "d"])
    assert (config.model.normalise, config.traversal.standardise) == (False, "channel")
    assert config.inversion.tv_on == "image"


def test_an_error_says_that_the_preset_set_the_option(capsys):
    assert cli.main(["transform", "--preset", "paper", "--traversal", "local", *TRANSFORM]) == 2
    error = capsys.readouterr().err
    assert "--standardise is 'unit'; it must be channel with local traversal. --preset paper sets it." in error


def test_an_unknown_preset_names_the_others(capsys):
    assert cli.main(["transform", "--preset", "slow", *TRANSFORM]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "invalid choice 'slow' for argument '--preset'" in error
    assert "'fast'" in error


@pytest.fixture
def recorded(configure):
    """Return a run's config, as it is prepared, and the path of its ``run.json``."""

    def make(**options):
        run = prepare_run(configure(**options))
        record = run_record(run)
        path = Path(record.uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_bytes())
        return run.config, path

    return make


def test_run_json_repeats_a_run(recorded, tmp_path):
    config, path = recorded(iterations=3, strength=(0.5, 1.0), where=None, lpips=False)
    assert cli.parse_options("colorize", ["--config", str(path)]) == config
    again = cli.parse_options("colorize", ["--config", str(path), "--output", str(tmp_path / "b"), "--input=x"])
    assert again == config.with_options({"output": str(tmp_path / "b"), "input": "x"})


def test_run_json_shows_what_a_preset_set_and_a_preset_wins_over_it(configure, tmp_path):
    words = ["--preset", "fast", "--weights", "random:0"]
    small = configure()
    parsed = cli.parse_options(
        "colorize",
        [
            *words,
            "--input",
            small.inputs.input,
            "--reference",
            small.references.reference,
            "--output",
            str(tmp_path / "o"),
        ],
    )
    content = json.loads(run_record(prepare_run(parsed)).to_bytes())
    assert content["config"]["output"]["lpips"] is False
    assert content["settings"]["size"] == 128
    (tmp_path / "run.json").write_text(json.dumps(content))
    again = cli.parse_options("colorize", ["--config", str(tmp_path / "run.json"), "--preset", "best"])
    assert (again.model.size, again.output.lpips) == (448, False)


def test_run_json_does_not_repeat_how_the_run_was_started(recorded):
    config, path = recorded(mode="overwrite")
    assert config.run.mode == "overwrite"
    assert cli.parse_options("colorize", ["--config", str(path)]).run.mode == "resume"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"program": "dmt_ray transform"}, "is of a run of transform: repeat it by `dmt-ray transform --config"),
        ({"program": "other"}, "is no run.json of dmt_ray"),
        ({"config": None}, "is no run.json of dmt_ray"),
        ({"config": {"inputs": 3}}, "its config must be sections of options"),
        ({"config": {"inputs": {"sizze": 3}}}, "'sizze' is not an option"),
        ({"config": {"inputs": {"input": "https://a/b.txt?sha256:0123456789abcdef"}}}, "--input had one; give that"),
    ],
)
def test_a_run_json_that_cannot_be_repeated_is_named(tmp_path, change, reason):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"program": "dmt_ray colorize", "config": {}} | change))
    with pytest.raises(SettingsError, match=re.escape(reason)) as caught:
        cli.parse_options("colorize", ["--config", str(path), "--reference", "b", "--output", "c"])
    assert str(path) in str(caught.value)


def test_a_secret_that_run_json_left_out_may_be_given_again(tmp_path):
    path = tmp_path / "run.json"
    sections = {"inputs": {"input": "https://a/b.txt?sha256:0123456789abcdef"}}
    path.write_text(json.dumps({"program": "dmt_ray colorize", "config": sections}))
    config = cli.parse_options("colorize", ["--config", str(path), *COLORIZE])
    assert config.inputs.input == "a"


def test_a_run_json_that_is_cut_short(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{\n  "program": "dmt_ray')
    with pytest.raises(SettingsError, match=r"run.json is not JSON: .* \(line 2, column 14\)"):
        cli.parse_options("colorize", ["--config", str(path), *COLORIZE])


def test_the_presets_in_the_documentation_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    documented = {
        (preset, command): dict(re.findall(r"`--([a-z-]+)(?: (\S+))?`", told)) for preset, command, told in rows
    }
    expected = {}
    for preset in PRESET_NAMES:
        for command in ("colorize", "transform", "fit"):
            config = job_configs()[command][0]
            values = preset_values(preset, command, option_types(config))
            expected[preset, command] = {
                f"{'no-' * (value is False)}{name.replace('_', '-')}": "" if isinstance(value, bool) else f"{value}"
                for name, value in values.items()
            }
    assert documented == expected
