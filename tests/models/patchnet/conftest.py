"""The helpers beside these tests, as fixtures: test files are imported by path, not as a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from effvision import PatchNet


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"patchnet_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slow() -> Any:
    """The module `slow.py` in this folder."""
    return _beside("slow")


@pytest.fixture(scope="session")
def clips() -> Any:
    """The module `clips.py` in this folder."""
    return _beside("clips")


@pytest.fixture(scope="session")
def model() -> PatchNet:
    """The family's default card in PyTorch."""
    return PatchNet.from_pretrained("patchnet", runtime="torch")
