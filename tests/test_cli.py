"""The command line, seen from outside: options, the YAML file, and what bad settings get."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmt_ray import cli, options
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.logs import PlainFormatter

JOB = Path(__file__).parent.parent / "jobs" / "colorize_dataset.py"


def run_job(*options, **kwargs):
    return subprocess.run(
        [sys.executable, str(JOB), *map(str, options)], capture_output=True, text=True, timeout=120, **kwargs
    )


REQUIRED = ("--input", "a", "--reference", "b", "--output", "c")


def parsed(*options):
    return cli.parse_options("colorize", [*options, *REQUIRED])


def test_defaults_come_from_the_dataclasses():
    from dmt_ray.config import InputConfig, OutputConfig
    from dmt_ray.jobs.colorize import ReferenceConfig

    assert parsed() == ColorizeConfig(
        inputs=InputConfig("a"), references=ReferenceConfig("b"), output=OutputConfig("c")
    )


def test_yaml_takes_every_kind_of_value_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "size: 96\nshard_size: 4\ntaps: [conv3_1, conv4_1]\nprogress: false\nlimit: null\nimage-format: webp\n"
        "strength: 1e-1\nuri_column: null\n"
    )
    config = parsed("--config", str(file), "--size", "128")
    assert config.model.size == 128
    assert config.output.shard_size == 4
    assert config.model.taps == ("conv3_1", "conv4_1")
    assert config.run.progress is False
    assert config.inputs.limit is None
    assert config.inputs.uri_column is None
    assert config.output.image_format == "webp"
    assert config.traversal.strength == (0.1,)
    assert parsed(f"--config={file}").model.size == 96


def test_the_size_of_a_pool_is_a_number_or_a_range(tmp_path):
    (tmp_path / "run.yaml").write_text("traversal_actors: 1:8\nreconstruction_actors: 12\n")  # 1:8 is YAML's 68
    compute = parsed("--config", str(tmp_path / "run.yaml")).compute
    assert (compute.traversal_actors, compute.reconstruction_actors) == ("1:8", 12)
    assert parsed("--reconstruction-actors", "2:64").compute.reconstruction_actors == "2:64"
    for wrong in ("0", "8:2", "0:3", "2:", ":2", "a:b"):
        with pytest.raises(SettingsError, match=r"--reconstruction-actors is .*at least 1, or MIN:MAX"):
            parsed("--reconstruction-actors", wrong)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sizze: 96", "'sizze' is not an option"),
        ("size: {a: 1}", "not a mapping"),
        ("- size", "must be a mapping"),
        ("size: [", "is not YAML"),
        ("size: &a [x, x]\ntaps: *a", "aliases (*) are not read; write the value (line 2, column 7)"),
        ("[" * 30_000, "nested too deeply"),
        ("size: 2001-13-99", "a value is not what it looks like"),
        ("size: " + "9" * 5_000, "a value is not what it looks like"),
        ("size: \x07", "is not a text file"),
        ("size: 9" + " " * 70_000, "the limit is 65536"),
        ("dry_run: perhaps", "must be true or false"),
        ("size: 100", "--size is 100; it must be a multiple of 16"),
    ],
)
def test_a_bad_yaml_file_names_itself_and_the_key(tmp_path, text, reason):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        parsed("--config", str(file))
    assert reason in str(caught.value)
    assert "--size" in reason or str(file) in str(caught.value)


def test_aliases_that_stand_for_a_billion_values_end_in_a_sentence(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "size: *a9"]))
    began = time.monotonic()
    with pytest.raises(SettingsError, match="aliases"):
        parsed("--config", str(tmp_path / "bomb.yaml"))
    assert time.monotonic() - began < 1


def test_a_yaml_error_quotes_nothing_of_the_file(tmp_path):
    (tmp_path / "secret.yaml").write_text('password: "hunter2\nuser: root\n')
    with pytest.raises(SettingsError) as caught:
        parsed("--config", str(tmp_path / "secret.yaml"))
    assert "hunter2" not in str(caught.value)
    assert "line 3" in str(caught.value)


def test_an_option_may_be_given_several_times(tmp_path):
    for words in (
        ["--allow-uri", "http://a/", "--size", "32", "--allow-uri", "/b,/c", "/d"],
        ["--allow-uri=http://a/", "--allow_uri=/b", "--size=32", "--allow-uri", "/c", "/d"],
    ):
        config = parsed(*words)
        assert config.inputs.allow_uri == ("http://a/", "/b", "/c", "/d")
        assert config.model.size == 32
    (tmp_path / "run.yaml").write_text("allow_uri: [/e, /f]\n")
    assert parsed("--config", str(tmp_path / "run.yaml")).inputs.allow_uri == ("/e", "/f")
    assert parsed("--config", str(tmp_path / "run.yaml"), "--allow-uri", "/g").inputs.allow_uri == ("/g",)


def test_an_error_with_a_forged_line_is_one_line(capsys, tmp_path):
    name = str(tmp_path / "a\n12:00:00 INFO 999 ok\x1b[2K\rb")
    assert cli.job_main("colorize", ["--input", name, "--reference", name, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "\x1b" not in error
    assert r"a\n12:00:00 INFO 999 ok\x1b[2K\rb" in error


def test_a_defect_is_told_with_its_traceback_and_without_secrets(monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("https://host/a?token=hunter2\n12:00:00 INFO 999 ok")

    monkeypatch.setattr(cli, "_run_config", fail)
    assert cli.job_main("colorize", []) == 1
    [record] = caplog.records
    text = PlainFormatter("%(levelname)s %(message)s").format(record)
    assert text.startswith("CRITICAL This is a defect")
    assert "ZeroDivisionError" in text
    assert "hunter2" not in text
    assert all(line.startswith("    ") for line in text.split("\n")[1:])


def test_a_missing_yaml_file(tmp_path, capsys):
    assert cli.job_main("colorize", ["--config", str(tmp_path / "none.yaml"), *REQUIRED]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_every_option_can_stand_in_yaml():
    types = options.option_types(ColorizeConfig)
    assert {"input", "size", "taps", "strength", "iterations", "shard_size", "mode", "batch_size"} <= set(types)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--size", "33"], "--size is 33; it must be a multiple of 16"),
        (["--taps", "conv9_9"], "--taps is 'conv9_9'; it must be one of conv1_1"),
        (["--max-error-rate", "2"], "--max-error-rate is 2.0; it must be between 0 and 1"),
        (["--weights", "magic"], "--weights is 'magic'"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_exit_code_2(capsys, options, reason):
    assert cli.job_main("colorize", [*options, *REQUIRED]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) == 1


def test_an_unknown_option_is_named(capsys):
    assert cli.job_main("colorize", [*REQUIRED, "--sharpness", "3"]) == 2
    assert "--sharpness" in capsys.readouterr().err


def test_the_job_and_the_command_show_the_same_options():
    job = run_job("--help", env={**os.environ, "COLUMNS": "100"})
    command = subprocess.run(
        [sys.executable, "-m", "dmt_ray.cli", "colorize", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        timeout=120,
    )
    assert job.returncode == command.returncode == 0
    assert job.stdout.splitlines()[1:] == command.stdout.splitlines()[1:]
    assert "Working size in pixels" in job.stdout


def script(words, capsys, caplog):
    """Run the script of the job; return its exit code, what it prints and the lines of stderr."""
    done = run_job(*words)
    return done.returncode, done.stdout, done.stderr.splitlines()


def in_process(words, capsys, caplog):
    """Do what the script does, in this process, where pytest catches the log that a script writes to stderr."""
    with caplog.at_level(logging.INFO):
        code = cli.job_main("colorize", words)
    said = capsys.readouterr()
    return code, said.out, [*caplog.messages, *said.err.splitlines()]


@pytest.mark.parametrize(
    ("case", "run"),
    [
        *((case, in_process) for case in ("input", "empty", "output", "not ours", "password")),
        ("reference", script),  # it comes last: what starts earlier would show
    ],
)
def test_bad_places_stop_the_job_before_anything_starts(photos, tmp_path, case, run, capsys, caplog):
    places = {"input": photos / "inputs", "reference": photos / "references", "output": tmp_path / "out"}
    bad = tmp_path / "bad"
    bad.mkdir()
    if case == "input":
        places["input"] = tmp_path / "nowhere"
        reason = "nowhere"
    elif case == "empty":
        places["input"] = bad
        reason = str(bad)
    elif case == "reference":
        (bad / "a.jpg").write_bytes(b"not a picture")
        places["reference"] = bad
        reason = "The only reference cannot be used"
    elif case == "output":
        (bad / "file").write_text("in the way")
        places["output"] = bad / "file" / "out"
        reason = "file"
    elif case == "not ours":
        (bad / "thesis.txt").write_text("mine")
        places["output"] = bad
        reason = "'thesis.txt'"
    else:
        places["input"] = "https://me:hunter2@example.org/photos"
        reason = "--input holds a password"
    options = [part for name, place in places.items() for part in (f"--{name}", place)]
    words = [*map(str, options), "--weights", "random:0", "--size", "64", "--no-lpips"]
    code, output, lines = run(words, capsys, caplog)
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert reason in lines[0]
    assert "hunter2" not in output + lines[0]
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_cannot_be_reached_is_named(photos, tmp_path):
    options = ["--input", photos / "inputs", "--reference", photos / "references", "--output", tmp_path / "out"]
    done = run_job(*options, "--weights", "random:0", "--no-lpips", env={**os.environ, "RAY_ADDRESS": "nowhere"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: RAY_ADDRESS is 'nowhere'; it must be")
    assert not (tmp_path / "out").exists()


def test_verify_wants_a_run(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "plan.parquet" in capsys.readouterr().err


def test_expand_config_leaves_other_command_lines_alone():
    known = options.option_types(ColorizeConfig)
    for words in (["--size", "96"], ["--config"], ["--preset", "slow"]):
        assert options.expand_config(words, known, "colorize") == options.Expanded(words)
    with pytest.raises(DmtError, match="does not exist"):
        options.expand_config(["--config", "/nowhere/at.yaml"], known, "colorize")


TRANSFORM = ("--input", "a", "--source", "b", "--target", "c", "--output", "d")


COMMAS = ["--strength", "0.5,1,2"], ["--strength=0.5,1,2"], ["--strength", "0.5", "1", "2"]


@pytest.mark.parametrize("words", COMMAS)
def test_a_sweep_may_be_written_with_commas(words):
    config = cli.parse_options("transform", [*words, *TRANSFORM])
    assert config.strengths == (0.5, 1.0, 2.0)
    assert config.exemplars.source == "b"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--strength", "2,1"], "--strength is (2.0, 1.0); it must be"),
        (["--budget-weight", "0.1,0.2"], "--budget-weight is (0.1, 0.2); it must be falling"),
        (["--beta", "0.4"], "--beta is (0.4,); it must be given with --method dfi alone"),
        (["--neighbors-by", "attributes"], "--neighbors-by is 'attributes'; it must be features unless"),
        (["--manifold", "m"], "--source is 'b'; it must be left out when --manifold is given"),
        (["--basis-where", "x > 1"], "--basis-where is 'x > 1'; it must be given with --basis"),
        (["--mask-column", "m", "--mask-folder", "f"], "--mask-column is 'm'; it must be left out"),
    ],
)
def test_transform_options_that_contradict_each_other(capsys, options, reason):
    assert cli.job_main("transform", [*options, *TRANSFORM]) == 2
    assert reason in capsys.readouterr().err


def test_transform_wants_two_classes(capsys):
    assert cli.job_main("transform", ["--input", "a", "--source", "b", "--output", "d"]) == 2
    assert "--target is None; it must be a path or URI" in capsys.readouterr().err
