"""An empty folder on each kind of store."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest) -> str:
    """An empty folder, on each kind of store in turn."""
    if request.param == "local":
        return str(request.getfixturevalue("tmp_path"))
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('bucket')}/some/prefix"
