"""The helpers beside these tests, as a fixture: test files are imported by path, not as a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def slow() -> Any:
    """The module `slow.py` in this folder."""
    spec = importlib.util.spec_from_file_location("patchnet_slow", Path(__file__).with_name("slow.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
