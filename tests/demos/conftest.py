from __future__ import annotations

from collections.abc import Iterator

import pytest

from page_server import Page, served


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page as `effvision demo` serves it."""
    folder = tmp_path_factory.mktemp("page")
    with served(folder, ["-m", "effvision", "demo", "--port", "0", "--json"]) as running:
        yield running


@pytest.fixture(scope="session")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page with room for one visitor, who may be silent for five seconds and play one second of a file."""
    program = (
        "import json\n"
        "from effvision.demos.channel import Limits\n"
        "from effvision.demos.server import Server\n"
        "with Server(port=0, limits=Limits(visitors=1, idle_s=5.0, file_s=1.0, upload_bytes=100_000)) as server:\n"
        "    print(json.dumps({'url': server.url}), flush=True)\n"
        "    server.wait()\n"
    )
    folder = tmp_path_factory.mktemp("small_page")
    with served(folder, ["-c", program]) as running:
        yield running
