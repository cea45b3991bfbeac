"""The house has floors: no import upwards or in a circle, one door to files, nothing that nobody uses."""

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "dmt_ray": 0,
    "dmt_ray.errors": 0,
    "dmt_ray.masking": 0,
    "dmt_ray.process_exit": 0,
    "dmt_ray.words": 0,
    "dmt_ray.config": 0,
    "dmt_ray.method": 1,
    "dmt_ray.storage": 2,
    "dmt_ray.logs": 3,
    "dmt_ray.output": 3,
    "dmt_ray.jobs": 4,
    "dmt_ray.report": 4,
    "dmt_ray.pipeline": 5,
    "dmt_ray.api": 6,
    "dmt_ray.command_line": 6,
    "dmt_ray.options": 6,
    "dmt_ray.cli": 6,
    "dmt_ray.__main__": 6,
    "jobs": 6,
}
#: Modules that give to all floors what they have to say of themselves: they may name what lies above.
ROOFS = {"dmt_ray"}
#: What the lower floors must do without: method is numbers only, storage knows nothing of Ray, the output of neither.
FORBIDDEN = {
    "dmt_ray.errors": {"torch", "ray", "numpy", "fsspec", "pyarrow"},
    "dmt_ray.config": {"torch", "ray", "numpy", "fsspec", "pyarrow"},
    # The last two take each process of a run six seconds to import.
    "dmt_ray.method": {"ray", "fsspec", "pyarrow", "PIL", "pathlib", "io", "torchmetrics", "torchvision"},
    "dmt_ray.storage": {"ray"},
    "dmt_ray.output": {"ray", "torch"},
    "dmt_ray.report": {"ray", "torch"},
}
#: Only storage opens files; elsewhere, nothing that could.
FILE_MODULES = {"fsspec", "pathlib", "tempfile", "shutil", "glob", "zipfile", "tarfile"}
FILE_CALLS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "unlink",
    "memmap",
    "fromfile",
    "tofile",
}

SOURCES = sorted([*(ROOT / "dmt_ray").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])


def _module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path) for path in SOURCES}


def _longest_prefix(module: str, table: dict | set) -> str | None:
    matches = [name for name in table if module == name or module.startswith(name + ".")]
    return max(matches, key=len, default=None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, at any depth, relative imports resolved."""
    module = _module(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def test_every_module_has_a_floor():
    unknown = {_module(path) for path in SOURCES if _longest_prefix(_module(path), FLOORS) in (None, "dmt_ray")}
    assert unknown <= {"dmt_ray"}


@pytest.mark.parametrize("path", [path for path in SOURCES if _module(path) not in ROOFS], ids=_module)
def test_no_module_imports_upwards(path: Path):
    own = FLOORS[_longest_prefix(_module(path), FLOORS)]
    for line, name in _imports(path):
        other = _longest_prefix(name, FLOORS)
        assert other is None or FLOORS[other] <= own, f"{path.relative_to(ROOT)}:{line} imports {name}"


def _edges(name_of) -> dict[str, set[str]]:
    """Which modules, named by ``name_of``, import which others; wherever the import stands."""
    edges: dict[str, set[str]] = {}
    for path in SOURCES:
        module = _module(path)
        if module in ROOFS:
            continue
        for _, name in _imports(path):
            target = _longest_prefix(name, MODULES)
            if target is None or target in ROOFS:
                continue
            source, target = name_of(module), name_of(target)
            if source != target:
                edges.setdefault(source, set()).add(target)
    return edges


def test_no_modules_import_each_other_in_a_circle():
    tuple(graphlib.TopologicalSorter(_edges(lambda module: module)).static_order())


@pytest.mark.parametrize("floor", ["dmt_ray.method", "dmt_ray.storage"])
def test_no_folders_inside_a_floor_import_each_other_in_a_circle(floor: str):
    folders = {path.name for path in ROOT.joinpath(*floor.split(".")).iterdir() if path.is_dir()}

    def folder(module: str) -> str:
        inside = module.removeprefix(f"{floor}.").partition(".")[0]
        return f"{floor}.{inside}" if module.startswith(f"{floor}.") and inside in folders else module

    tuple(graphlib.TopologicalSorter(_edges(folder)).static_order())


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_lower_floors_do_without_the_upper_floors_tools(path: Path):
    floor = _longest_prefix(_module(path), FORBIDDEN)
    banned = FORBIDDEN[floor] if floor else set()
    for line, name in _imports(path):
        assert name.split(".")[0] not in banned, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if not _module(path).startswith("dmt_ray.storage")], ids=_module
)
def test_storage_is_the_only_door_to_files(path: Path):
    for line, name in _imports(path):
        assert name.split(".")[0] not in FILE_MODULES, f"{path.relative_to(ROOT)}:{line} imports {name}"
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name):
            assert called.id != "open", f"{path.relative_to(ROOT)}:{node.lineno} opens a file"
        elif isinstance(called, ast.Attribute) and called.attr in FILE_CALLS:
            owner = ast.unparse(called.value)
            through_storage = (
                owner == "files" or owner.endswith("_files") or ast.unparse(node).endswith("os.devnull, os.O_WRONLY)")
            )
            assert through_storage, f"{path.relative_to(ROOT)}:{node.lineno} calls {owner}.{called.attr}"


def _definitions() -> Iterator[tuple[str, str]]:
    """Where each function, class, method and constant of the package is defined, and its name."""
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not _is_overload(node):
                yield place, node.name
        for node in _tree(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", target.id


def _is_overload(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_nothing_is_there_that_nobody_uses():
    """Every definition is named once more somewhere in the package, its scripts, benchmarks or demo."""
    users = [*SOURCES, *(path for name in ("benchmarks", "demo", "examples") for path in (ROOT / name).glob("*.py"))]
    words = Counter(word for path in users for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
    words.update(re.findall(r"\w+", (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    unused = [
        f"{place} {name}"
        for place, name in _definitions()
        if words[name] < 2 and not name.startswith("__") and name not in OVERRIDES
    ]
    assert unused == []


#: Names that a library asks for.
OVERRIDES = {"find_class", "handle_starttag", "readable", "seekable", "readinto"}


@pytest.mark.parametrize("module", ["dmt_ray", "dmt_ray.config", "dmt_ray.errors"])
def test_import_is_light(module: str):
    assert not {"torch", "ray", "numpy", "pyarrow", "torchvision", "PIL"} & _loaded_by(f"import {module}")


def test_models_are_fitted_without_ray():
    names = ("dmt_ray.Colorizer", "dmt_ray.Transformer", "dmt_ray.EditedPhoto")
    loaded = _loaded_by(f"import dmt_ray; {'; '.join(names)}")
    assert "torch" in loaded
    assert "ray" not in loaded


@pytest.mark.parametrize("floor", ["output", "report"])
def test_output_and_reports_load_neither_torch_nor_ray(floor: str):
    names = [_module(path) for path in SOURCES if _module(path).startswith(f"dmt_ray.{floor}")]
    assert len(names) > 1
    assert not {"torch", "ray"} & _loaded_by(f"import {', '.join(names)}")


def _loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_a_config_is_told_by_its_class_in_jobs_alone():
    """Whatever differs from job to job is asked of the job's object."""
    for path in SOURCES:
        if not _module(path).startswith("dmt_ray.jobs"):
            found = re.findall(r"isinstance\(\s*(?:self\.)?config\b.*", path.read_text(encoding="utf-8"))
            assert [line for line in found if "FitConfig" not in line] == [], path
