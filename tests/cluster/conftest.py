"""What the tests of cluster/ share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "cluster/entrypoint.py"


@pytest.fixture(scope="session")
def entrypoint() -> ModuleType:
    """cluster/entrypoint.py, as a module."""
    spec = importlib.util.spec_from_file_location("entrypoint", ENTRYPOINT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
