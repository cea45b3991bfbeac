"""The house has floors, and no module imports from a floor above its own."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "dmt_ray": 0,
    "dmt_ray.errors": 0,
    "dmt_ray.config": 0,
    "dmt_ray.method": 1,
    "dmt_ray.storage": 2,
    "dmt_ray.output": 3,
    "dmt_ray.jobs": 4,
    "dmt_ray.report": 4,
    "dmt_ray.pipeline": 5,
    "dmt_ray.cli": 6,
    "dmt_ray.process_exit": 6,
    "jobs": 6,
}
#: What the lower floors must do without: method is numbers only, storage knows nothing of Ray or torch models.
FORBIDDEN = {
    "dmt_ray.errors": {"torch", "ray", "numpy", "fsspec", "pyarrow"},
    "dmt_ray.config": {"torch", "ray", "numpy", "fsspec", "pyarrow"},
    "dmt_ray.method": {"ray", "fsspec", "pyarrow", "PIL", "pathlib", "io"},
    "dmt_ray.storage": {"ray"},
    "dmt_ray.report": {"ray", "torch"},
}
SOURCES = sorted([*(ROOT / "dmt_ray").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])


def _module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _longest_prefix(module: str, table: dict) -> str | None:
    matches = [name for name in table if module == name or module.startswith(name + ".")]
    return max(matches, key=len, default=None)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, at any depth, relative imports resolved."""
    module = _module(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_no_module_imports_upwards(path: Path):
    own = FLOORS[_longest_prefix(_module(path), FLOORS)]
    for line, name in _imports(path):
        other = _longest_prefix(name, FLOORS)
        assert other is None or FLOORS[other] <= own, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_lower_floors_do_without_the_upper_floors_tools(path: Path):
    floor = _longest_prefix(_module(path), FORBIDDEN)
    banned = FORBIDDEN[floor] if floor else set()
    for line, name in _imports(path):
        assert name.split(".")[0] not in banned, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize("module", ["dmt_ray", "dmt_ray.config", "dmt_ray.errors"])
def test_import_is_light(module: str):
    code = f"import sys, json, {module}; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "ray", "numpy", "pyarrow", "torchvision"} & set(json.loads(done.stdout))
