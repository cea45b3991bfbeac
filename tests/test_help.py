"""What ``dmt-ray`` shows of itself: help, version, completion, what is meant by a mistyped word, a closed pipe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dmt_ray
from dmt_ray import cli
from dmt_ray.command_line.commands import all_commands, job_configs
from dmt_ray.command_line.help_text import EXAMPLES
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.registry import JOBS
from dmt_ray.options import option_types

#: Without the jobs that other test files register.
COMMANDS = [command for command in all_commands() if "tint" not in command]


@pytest.fixture
def said(capsys, monkeypatch):
    """Run ``dmt-ray`` and return its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in [name for name in JOBS if "tint" in name]:  # jobs that other test files have registered
        monkeypatch.delitem(JOBS, name)

    def run(*words):
        code = cli.main(list(words))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def shown_options(text):
    return re.findall(r"^[│| ] (--[a-z][a-z-]*|[A-Z]+ )", text, re.M)


def test_the_help_leads_with_what_one_can_do_and_three_examples(said):
    code, out, err = said("--help")
    assert (code, err) == (0, "")
    assert re.findall(r"^  dmt-ray (\w+) ", out, re.M) == ["colorize", "transform", "report"]
    assert out.index("Edit whole collections") < out.index("  dmt-ray colorize") < out.index("commands:")
    assert re.findall(r"^  (\w+)  ", out, re.M) == list(all_commands())
    assert max(map(len, out.splitlines())) <= 118


def test_no_command_at_all_shows_the_help_on_stderr(said):
    code, out, err = said()
    assert (code, out) == (2, "")
    assert err == said("--help")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_opens_with_two_examples(said, command):
    code, out, err = said(command, "--help")
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines() if line.startswith("  dmt-ray")] == list(EXAMPLES[command])
    assert len(EXAMPLES[command]) == 2
    assert out.index("  dmt-ray") < out.index("-h, --help ")
    assert "{None}" not in out
    assert "None)" not in out
    assert len(shown_options(out)) <= 21  # the twenty and --help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_command_lines_that_parse(command):
    import shlex

    for example in EXAMPLES[command]:
        words = shlex.split(example)[2:]
        words = words[: words.index(">")] if ">" in words else words
        if command in job_configs():
            assert cli.parse_options(command, words)
        else:
            assert type(cli._parse(command, all_commands()[command], words, None)) is all_commands()[command]


@pytest.mark.parametrize("command", ["colorize", "transform", "fit", "reconstruct"])
def test_help_all_shows_every_option_but_internal_ones(said, command):
    _, out, _ = said(command, "--help-all")
    listed = {name.strip().lower().removeprefix("--").replace("-", "_") for name in shown_options(out)}
    hidden = set() if command == "reconstruct" else {"displacements"}
    assert listed == set(option_types(all_commands()[command])) - hidden
    assert "{None}" not in out
    short = said(command, "--help")[1]
    assert f"--help-all shows all {len(listed)}." in short
    assert "--displacements" not in short
    assert set(shown_options(short)) < {*shown_options(out)}


def test_help_is_shown_whatever_else_is_wrong(said):
    code, out, _ = said("transform", "--size", "7", "--config", "/nowhere.yaml", "-h")
    assert code == 0
    assert "Examples:" in out


def test_another_job_shows_what_it_must_have_first(said, monkeypatch):
    import tint_job  # registers itself

    monkeypatch.setitem(JOBS, "tint", tint_job.Tint())
    _, out, _ = said("tint", "--help")
    assert shown_options(out)[:4] == ["--input", "--output", "--tint", "--preset"]
    assert "--tint" in said("tint", "--help-all")[1]


def test_version_and_help_load_neither_torch_nor_ray():
    code = (
        "import sys, json; from dmt_ray import cli\n"
        "codes = [cli.main([word]) for word in ('--version', '--help')] + [cli.main(['transform', '--help'])]\n"
        "print(json.dumps([codes, [name for name in ('torch', 'ray', 'sklearn') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"dmt-ray {dmt_ray.__version__}"
    assert json.loads(lines[-1]) == [[0, 0, 0], []]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["colorize", "--referense", "a"], "--referense is no option of colorize; did you mean --reference?"),
        (["transform", "--strenght=2"], "--strenght is no option of transform; did you mean --strength?"),
        (["transform", "--no_lpip"], "--no-lpip is no option of transform; did you mean --no-lpips?"),
        (["transform", "--until"], "--until is no option of transform; did you mean --until-flipped?"),
        (["verify", "out", "--depe"], "--depe is no option of verify; did you mean --deep?"),
        (["colorize", "--xyzzy"], "--xyzzy is no option of colorize. `dmt-ray colorize --help-all` lists"),
        (["colorize", "--input", "a.jpg", "b.jpg"], "'b.jpg' is one word too many behind --input. Put a pattern"),
        (["colorize", "--input=My", "Photos"], "'Photos' is one word too many behind --input. Put a pattern"),
        (["transform", "--dry-run", "yes"], "'yes' is one word too many behind --dry-run."),
        (["fit", "photos"], "'photos' is one word too many behind the command."),
        (["colorise"], "'colorise' is no command; did you mean colorize?"),
        (["--referense"], "'--referense' is no command. `dmt-ray --help` lists"),
    ],
)
def test_a_mistyped_word_gets_one_line_with_what_is_meant(said, words, sentence):
    code, out, err = said(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")
    assert len(err.splitlines()) == 1


def test_words_behind_two_dashes_and_values_are_no_options():
    from dmt_ray.command_line.suggestions import check_options

    check_options(["-x", "--size=--nonsense", "--", "--nonsense"], "colorize", {"size": int})
    with pytest.raises(SettingsError, match="--nonsense"):
        check_options(["--nonsense", "--"], "colorize", {"size": int})


def test_an_option_with_several_values_takes_them_all():
    from dmt_ray.command_line.suggestions import check_values

    options = {"strength": tuple[float, ...], "size": int, "lpips": bool, "limit": int | None}
    check_values(["--strength", "1", "2", "--size=3", "--no-lpips", "--limit", "-4", "--strength=1", "2"], options)


def test_bash_completes_commands_options_and_choices(said, tmp_path):
    code, script, _ = said("completion", "bash")
    assert code == 0
    (tmp_path / "dmt-ray").write_text(script)
    ask = """
    source "$1"; shift
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
    $(complete -p dmt-ray | sed 's/.*-F \\([^ ]*\\).*/\\1/') dmt-ray "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
    echo "${COMPREPLY[@]}"
    """
    python = Path(sys.executable).parent

    def completed(*words):
        done = subprocess.run(
            ["bash", "-c", ask, "bash", tmp_path / "dmt-ray", "dmt-ray", *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"},
        )
        return done.stdout.split()

    assert completed("trans") == ["transform"]
    assert completed("colorize", "--refer") == ["--reference", "--reference-limit"]
    assert completed("transform", "--displ") == []
    assert {"best", "fast", "paper"} <= set(completed("transform", "--preset", ""))


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef dmt-ray"), ("fish", "function _tyro_dmt_ray")])
def test_zsh_and_fish_get_a_script(said, shell, mark):
    code, script, _ = said("completion", shell)
    assert code == 0
    assert mark in script


@pytest.mark.parametrize("words", [["plan", "--images", "1000"], ["transform", "--help-all"], ["--help"]])
@pytest.mark.parametrize("buffering", [1, -1])
def test_a_closed_pipe_is_quiet(monkeypatch, capsys, caplog, words, buffering):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=buffering) as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert cli.main(words) == 141
    assert capsys.readouterr().err == ""
    assert caplog.records == []


def test_another_broken_pipe_is_a_defect(monkeypatch, caplog):
    def fail(*_, **__):
        raise BrokenPipeError(32, "a socket's")

    monkeypatch.setattr(cli, "_run_config", fail)
    assert cli.job_main("colorize", []) == 1
    assert "defect" in caplog.records[0].message


def test_python_m_dmt_ray_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "dmt_ray", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dmt-ray {dmt_ray.__version__}\n", "")
