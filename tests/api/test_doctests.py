"""The examples in the docstrings of the Python API run, and ``import dmt_ray`` names it without loading it."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import dmt_ray

ROOT = Path(dmt_ray.__file__).parent


@pytest.mark.parametrize("module", ["api.colorizer", "api.transformer", "jobs.job"])
def test_examples_of_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"dmt_ray.{module}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted >= 2


def test_type_checkers_see_the_names_that_are_loaded_lazily():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == dmt_ray._MODULES
    for name in seen:
        assert getattr(dmt_ray, name).__doc__
    assert (ROOT / "py.typed").exists()
