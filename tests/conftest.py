"""What every test may ask for: the shared data folder, and a cache folder that is not the user's.

And the two passes of `make test`: what may run beside other tests, and what is marked `alone`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Two threads wait for each other in a busy loop at every operator: where something else has one of the cores, a test takes
# minutes instead of seconds. Before torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An export makes millions of small objects that stay. Python would look for garbage among them every 700: a sixth of the time.
gc.set_threshold(50_000, 20, 50)

# No verdict of hypothesis may depend on how fast the machine is, nor differ from one run to the next.
settings.register_profile(
    "effvision", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("effvision")


def shared_folder() -> Path:
    """Return the folder of golden vectors and sample data, which is not part of the repository."""
    return Path(os.environ.get("EFFVISION_SHARED") or REPOSITORY.parent / "shared")


def _absence(folder: Path) -> str:
    return f"no shared data at {folder}: set EFFVISION_SHARED to the folder that holds golden/ and data/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run leave out the tests marked `alone`, or all others. Apart from `-m`, which stays free for whoever runs them."""
    parser.addoption("--alone", choices=["no", "only"], help="without the tests marked `alone`, or only those")


def pytest_configure() -> None:
    """Let Ctrl-C be sent to programs that tests start: what is run in the background of a script is deaf to it by default."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say at the top of every run whether the tests on shared data will run."""
    folder = shared_folder()
    return f"shared data: {folder}" if folder.is_dir() else _absence(folder)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files without a test marked `alone` where only those are asked for: with torch that takes long."""
    if config.getoption("alone") == "only" and collection_path.suffix == ".py" and collection_path.is_file():
        return True if "mark.alone" not in collection_path.read_text("utf-8") else None
    return None


def pytest_runtest_setup() -> None:
    """Spare PyTorch's exporter what it does again for every export, once it is loaded: nothing is loaded for it."""
    if exporter := sys.modules.get("torch.onnx._internal.exporter._registration"):
        from quick_exports import hasten

        hasten(exporter)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of this pass, and skip what is marked `shared` where the folder is absent."""
    if which := config.getoption("alone"):
        left_out = [item for item in items if (item.get_closest_marker("alone") is None) == (which == "only")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    folder = shared_folder()
    if not folder.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=_absence(folder)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data folder; the test is skipped, with the reason, where there is none."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(_absence(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this run, so that no test reads or writes the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFVISION_CACHE", str(folder))
        yield folder
