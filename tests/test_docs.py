"""What the documents say of options, defaults, columns, files and make targets is what the code has."""

import ast
import dataclasses
import functools
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dmt_ray
from dmt_ray import cli
from dmt_ray.command_line.commands import all_commands, job_configs
from dmt_ray.errors import ERROR_REMEDIES, ERROR_TYPES, OTHER_REMEDY
from dmt_ray.output.schema import ROW_SCHEMA
from dmt_ray.pipeline.prepare import prepare_run, run_record

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "cluster/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
#: Long options of other programs, and of scripts, that the documents mention.
FOREIGN = {"data", "sheet", "address", "working-dir", "help", "from-env-file", "build-arg", "help-all", "version"}
FOREIGN |= {"num-gpus", "dashboard-host"}
FOREIGN |= {"node-id", "reason", "reason-message", "deadline-remaining-seconds"}
FOREIGN |= {"docker-server", "docker-username", "docker-password"}

sys.path.insert(0, str(ROOT / "tools"))
configuration_page = importlib.import_module("configuration_page")


def _options() -> set[str]:
    """Every option of every command, by its name on the command line."""
    rows = [row for section in _all_sections() for option in section.options for row in [option.name]]
    return {name for row in rows for name in re.findall(r"--([a-z-]+)", row)} | {"displacements"}


def _all_sections():
    for command in all_commands().values():
        yield from configuration_page.sections(command)


def test_every_extra_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/running.md").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`([a-z0-9]+)`", " ".join(table))) == set(project["optional-dependencies"])


def _benchmark_options() -> set[str]:
    """The options of the benchmarks: the fields of their classes called ``Options`` or ``ClassOptions``."""
    classes = [
        node
        for path in sorted((ROOT / "benchmarks").glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options")
    ]
    fields = [field for node in classes for field in node.body if isinstance(field, ast.AnnAssign)]
    return {field.target.id.replace("_", "-") for field in fields if isinstance(field.target, ast.Name)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_that_is_mentioned_exists(path: Path):
    mentioned = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", path.read_text(encoding="utf-8")))
    assert mentioned - FOREIGN <= _options() | _benchmark_options()


def _commands(path: Path) -> list[list[str]]:
    """The words of each command of the program in a document's shell blocks."""
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S))
    lines = re.sub(r"\\\n", " ", blocks).splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        end = next((place for place, word in enumerate(words) if word in (">", "|", "&&")), len(words))
        script = next(
            (place for place, word in enumerate(words) if re.fullmatch(r"jobs/\w+_dataset\.py", word)), None
        )
        if words[:1] == ["dmt-ray"]:
            found.append(words[1:end])
        elif script is not None:
            found.append([words[script][len("jobs/") : -len("_dataset.py")], *words[script + 1 : end]])
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_shown_can_be_given(path: Path):
    for name, *words in _commands(path):
        if name.startswith("--") or any(word in ("COMMAND", "--help", "--help-all", "--config") for word in words):
            continue
        if name in job_configs():
            cli.parse_options(name, words, None)
        else:
            cli._parse(name, all_commands()[name], words, None)


def test_the_readme_is_short_and_has_its_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert {"colorize", "transform", "fit", "export"} <= {words[0] for words in _commands(ROOT / "README.md")}


def test_the_page_of_all_options_is_what_the_code_says(tmp_path):
    """The tool runs in a process of its own: a test's job may be registered in this one."""
    made = tmp_path / "page.md"
    subprocess.run([sys.executable, configuration_page.__file__, str(made)], check=True)
    assert configuration_page.PAGE.read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), (
        "run python tools/configuration_page.py"
    )


def test_the_site_has_every_page_and_no_other():
    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages(value)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages(nav)) == sorted(there)


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## `(.+)`$", text, re.M)
    assert len(headings) == 10
    said = "\n".join(filter(None, (_literal(node) for path in SOURCES for node in ast.walk(_tree(path)))))
    for heading in headings:
        parts = [re.escape(part.strip()) for part in heading.split("…") if part.strip(" .")]
        assert re.search(".*".join(parts), said), heading


SOURCES = sorted((ROOT / "dmt_ray").rglob("*.py"))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _literal(node: ast.AST) -> str | None:
    """A text of the code, with an ellipsis for each of its values."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def test_pictures_of_the_documents_are_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".webp", ".png", ".jpg")]
    assert pictures
    assert all(path.stat().st_size < 150_000 for path in pictures)


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version == dmt_ray.__version__ == citation["version"]


def test_the_columns_in_the_documentation_are_the_schema():
    text = (ROOT / "docs/output.md").read_text(encoding="utf-8")
    documented = {}
    for names, kind in re.findall(r"^\| (`.+?) \| (\w+) \|", text, re.M):
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind)
    schema = {field.name: str(field.type).replace("large_binary", "binary") for field in ROW_SCHEMA}
    assert list(documented.items()) == list(schema.items())


def test_the_error_types_in_the_documentation_are_those_of_the_code():
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    table = text[text.index("| `error_type` |") : text.index("a Python exception's name")]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.M) == list(ERROR_TYPES)


def test_what_to_do_about_errors_in_the_documentation_is_what_the_report_says():
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z-]+)` \|.*\| (.+) \|$", text, re.M)
    said = {kind: remedy.replace("`", "") for kind, remedy in table}
    assert said == ERROR_REMEDIES
    assert f"| {OTHER_REMEDY} |" in text


def test_every_image_error_is_of_a_documented_type():
    raised = set()
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ImageError") and node.args:
                kind = node.args[0]
                if isinstance(kind, ast.Constant):
                    raised.add(kind.value)
    assert raised <= set(ERROR_TYPES)
    assert set(ERROR_TYPES) - raised <= {"storage", "crash", "truncated", "unreadable"}  # named in other ways


def test_the_keys_of_run_json_in_the_documentation_are_those_that_are_written(configure):
    text = (ROOT / "docs/output.md").read_text(encoding="utf-8")
    section = text[text.index("## `run.json`") : text.index("## Modes")]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.M)
    record = dataclasses.replace(run_record(prepare_run(configure())), replacing=True)
    written = set(json.loads(record.to_bytes())) | {"balance"}  # transform alone, with --balance
    assert set(documented) == written


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_make_targets_in_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    assert {"demo", "test", "lint", "type", "docs", "bench", "clean", "help"} <= targets
    for path in DOCUMENTS:
        for named in re.findall(r"(?:`|^)make ([a-z ]+?)(?:`|  )", path.read_text(encoding="utf-8"), re.M):
            assert set(named.split()) <= targets, path
