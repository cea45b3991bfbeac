"""What the documents say of options, defaults, columns, files and make targets is what the code has."""

import ast
import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest

from dmt_ray.errors import ERROR_REMEDIES, ERROR_TYPES, OTHER_REMEDY
from dmt_ray.jobs.colorize import ColorizeConfig
from dmt_ray.jobs.transform import TransformConfig
from dmt_ray.output.export.options import ExportOptions
from dmt_ray.output.schema import ROW_SCHEMA
from dmt_ray.pipeline.prepare import prepare_run, run_record
from dmt_ray.report.scaling import PlanCommand

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "cluster/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Long options of other programs that the documents mention.
#: Options of commands that are no jobs.
OTHERS = {"deep", "discard", "picture-size", "no-read-input"}
for command in (PlanCommand, ExportOptions):
    OTHERS |= {field.name.replace("_", "-") for field in dataclasses.fields(command)}
FOREIGN = OTHERS | {"data", "sheet", "address", "working-dir", "help", "from-env-file", "build-arg", "config"}
FOREIGN |= {"num-gpus"}
FOREIGN |= {"preset", "help-all", "version", "no-lpips", "no-progress"}
FOREIGN |= {"docker-server", "docker-username", "docker-password"}


def _defaults() -> dict[str, set[object]]:
    """Every option's defaults, one for each job that has it, by its name on the command line."""
    defaults: dict[str, set[object]] = {}
    for job in (ColorizeConfig, TransformConfig):
        for section in filter(dataclasses.is_dataclass, typing.get_type_hints(job).values()):
            for field in dataclasses.fields(section):
                defaults.setdefault(field.name.replace("_", "-"), set()).add(field.default)
    return defaults


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
    assert mentioned - FOREIGN <= set(_defaults()) | _benchmark_options()


def test_defaults_in_the_readme_are_the_defaults():
    rows = re.findall(r"^\| (`--.+?) \|(.*?)\|", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 10
    for options, stated in rows:
        values = [value for value in stated.strip().split(", ") if value]
        names = [name for name in re.findall(r"--([a-z-]+)", options) if name not in ("config", "preset")]
        for name, value in zip(names, values, strict=bool(values)):
            defaults = [
                " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
                for default in _defaults()[name]
            ]
            assert set(value.split(" or ")) == set(defaults), name


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
    for path in (ROOT / "dmt_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"demo", "test", "lint", "type", "bench", "clean", "help"} <= targets
    assert set(re.findall(r"make ([a-z ]+)`", text)[0].split()) <= targets
