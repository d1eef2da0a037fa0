"""What the tests of weights files share: a server that runs while a test does, and a cache folder of its own."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from effvision import checkpoints
from weights_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=lambda: running.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about time: the test's own server may take longer to answer than a user would wait."""
    monkeypatch.setattr(checkpoints, "_REACH_TIMEOUT_S", 30.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no proxy or offline switch of the machine the tests run on."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("EFFVISION_OFFLINE", raising=False)
    monkeypatch.setenv("EFFVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path / "cache"
