"""What the tests of sources share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """Keep what is there already out of the collections after every test: millions of objects once PyTorch has exported."""
    gc.freeze()
    yield
    gc.unfreeze()
