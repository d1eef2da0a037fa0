"""What the tests of bad input share: models that cost nothing, and a file exported once."""

from __future__ import annotations

from pathlib import Path

import pytest

from effvision import TSM
from refusals import tiny_model


@pytest.fixture(scope="session")
def model() -> TSM:
    return tiny_model()


@pytest.fixture(scope="session")
def large() -> TSM:
    """Enlarges so much that a long thin frame would need gigabytes."""
    return tiny_model(short_side=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def exported(model: TSM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.export(tmp_path_factory.mktemp("exported") / "good.onnx", batch="dynamic").path
