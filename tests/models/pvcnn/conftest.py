"""The helpers beside these tests, as a fixture: test files are imported by path, not as a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def golden() -> Any:
    """The module `golden.py` in this folder."""
    spec = importlib.util.spec_from_file_location("pvcnn_golden", Path(__file__).with_name("golden.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
