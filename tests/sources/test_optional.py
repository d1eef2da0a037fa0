"""Messages for what is not installed: the missing thing is named, with the line that installs it."""

from __future__ import annotations

import importlib
import json

import pytest

from effvision._optional import import_cv2, require
from effvision.errors import MissingDependencyError


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fake(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fake)


def test_what_is_there_is_imported() -> None:
    assert require("json") is json


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"not installed\nhint: pip install 'effvision\[points\]'"):
        require("open3d_that_nobody_has", extra="points")


def test_a_missing_package_without_extra_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    with pytest.raises(MissingDependencyError, match="hint: pip install opencv-python"):
        import_cv2()


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0", "libxcb.so.1"])
@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_missing_system_library_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, library: str, kind: type[Exception]
) -> None:
    fail_with(monkeypatch, kind(f"{library}: cannot open shared object file: No such file or directory"))
    with pytest.raises(MissingDependencyError) as caught:
        import_cv2()
    assert f"system library {library} " in str(caught.value)
    assert str(caught.value).endswith("apt-get install libgl1 libglib2.0-0 libxcb1")


def test_a_library_of_an_unknown_package_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, OSError("libfoo.so.2: cannot open shared object file"))
    with pytest.raises(MissingDependencyError, match=r"libfoo\.so\.2"):
        require("foo", extra="all")


def test_another_failure_is_passed_on_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ImportError("numpy.core.multiarray failed to import"))
    with pytest.raises(MissingDependencyError, match="multiarray failed to import\nhint: reinstall"):
        import_cv2()


def test_a_missing_dependency_of_the_package_is_not_blamed_on_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ModuleNotFoundError("No module named 'dash'", name="dash"))
    with pytest.raises(MissingDependencyError, match="could not be loaded: No module named 'dash'"):
        require("open3d", extra="points")
