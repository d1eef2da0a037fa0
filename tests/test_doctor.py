"""`effvision doctor`: each finding, from facts made up here, with the line that mends it."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from effvision import doctor
from effvision._optional import require
from effvision.doctor import Probe
from effvision.errors import MissingDependencyError

REPOSITORY = Path(__file__).resolve().parents[1]

ABSENT = Probe(error="ModuleNotFoundError: No module named 'x'", absent=True)
NO_GL = Probe(error="ImportError: libGL.so.1: cannot open shared object file: No such file or directory")


def test_every_finding_is_named_once_and_can_be_told_as_json() -> None:
    checks = doctor.diagnose()
    assert len({check.name for check in checks}) == len(checks)
    assert json.loads(json.dumps([check.to_dict() for check in checks]))[0]["name"] == "Python"
    for check in checks:
        assert check.detail
        assert check.ok is not False or check.hint, f"{check.name} is wrong and nothing says how to mend it"


def test_nothing_but_the_standard_library_is_needed_to_ask() -> None:
    ask = "from effvision.doctor import missing_libraries; missing_libraries('cv2'); print(*sys.modules)"
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {ask}"
    done = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # -S: no site-packages
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - {"effvision", "__main__"} <= sys.stdlib_module_names


def test_an_old_python_is_refused() -> None:
    assert doctor.check_python((3, 9, 1), "/usr/bin/python3").ok is False
    assert doctor.check_python((3, 10, 0), "/usr/bin/python3").ok is True


# --- system libraries -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wheels bring their libraries elsewhere")
def test_only_the_missing_libraries_are_named() -> None:
    def load(name: str) -> None:
        if name == "libGL.so.1":
            raise OSError(name)

    assert doctor.missing_libraries("cv2", load=load) == {"libGL.so.1": "libgl1"}


def test_a_missing_library_of_opencv_is_named_with_its_package() -> None:
    check = doctor.check_opencv(NO_GL, {"libGL.so.1": "libgl1", "libxcb.so.1": "libxcb1"})
    assert check.ok is False
    assert "libGL.so.1, libxcb.so.1 missing" in check.detail
    assert check.hint.startswith("apt-get install")
    assert check.hint.endswith("libgl1 libxcb1")


def test_a_missing_library_we_do_not_know_is_named_all_the_same() -> None:
    unknown = Probe(error="ImportError: libfoo.so.3: cannot open shared object file: No such file or directory")
    assert "libfoo.so.3" in doctor.check_opencv(unknown, {}).hint


def test_open3d_is_judged_only_where_it_is_installed() -> None:
    assert doctor.check_open3d(False, {"libEGL.so.1": "libegl1"}).ok is None
    assert doctor.check_open3d(True, {}).ok is True
    assert "libegl1" in doctor.check_open3d(True, {"libEGL.so.1": "libegl1"}).hint


def test_the_page_needs_gradio_and_websockets() -> None:
    assert doctor.check_page({"gradio": "6.31.0", "websockets": "17.4"}).ok is True
    lacking = doctor.check_page({"gradio": "6.31.0"})
    assert lacking.ok is None and "websockets" in lacking.detail and "effvision[demo]" in lacking.hint


@pytest.mark.parametrize("module", sorted(doctor.SYSTEM_LIBRARIES))
def test_errors_and_doctor_name_the_same_packages(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError) as caught:
        require(module)
    named = doctor.check_opencv(NO_GL, doctor.SYSTEM_LIBRARIES[module]).hint
    assert str(caught.value).split("apt-get install")[1].split() == named.split("--no-install-recommends")[1].split()


# --- packages that break each other -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "ok"),
    [
        ({}, None),  # a Jetson's own OpenCV has no distribution
        ({"opencv-python": "5.0"}, True),
        ({"opencv-python-headless": "5.0"}, True),
        ({"opencv-python": "5.0", "opencv-contrib-python-headless": "5.0"}, False),
    ],
)
def test_two_opencv_packages_are_one_too_many(installed: dict[str, str], ok: bool | None) -> None:
    check = doctor.check_opencv_twins(installed)
    assert check.ok is ok
    if ok is False:
        line = "pip uninstall -y opencv-python opencv-contrib-python-headless && pip install opencv-python"
        assert check.hint == line


@pytest.mark.parametrize(
    ("installed", "ok"),
    [
        ({}, None),
        ({"onnxruntime": "1.32"}, True),
        ({"onnxruntime-gpu": "1.32", "onnxruntime-extensions": "0.14"}, True),  # an add-on, not a flavour
        ({"onnxruntime": "1.32", "onnxruntime-gpu": "1.32"}, False),
    ],
)
def test_two_flavours_of_onnx_runtime_are_one_too_many(installed: dict[str, str], ok: bool | None) -> None:
    check = doctor.check_onnxruntime_flavours(installed)
    assert check.ok is ok
    if ok is False:
        assert check.hint == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


# --- runtimes ---------------------------------------------------------------------------------------------------------


def test_without_any_runtime_both_lines_are_given() -> None:
    runtime = doctor.check_onnxruntime(ABSENT, torch_installed=False)
    torch = doctor.check_torch(ABSENT, onnxruntime_works=False)
    assert runtime.ok is False
    assert "pip install onnxruntime" in runtime.hint
    assert "effvision[torch]" in torch.hint


def test_one_runtime_is_enough() -> None:
    assert doctor.check_onnxruntime(ABSENT, torch_installed=True).ok is None
    assert doctor.check_torch(ABSENT, onnxruntime_works=True).ok is None


def test_the_providers_of_onnx_runtime_are_listed() -> None:
    facts = {"version": "1.32.0", "providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}
    assert doctor.check_onnxruntime(Probe(facts=facts), torch_installed=False).detail == "1.32.0; CPUExecutionProvider"


@pytest.mark.parametrize(
    ("cuda_build", "cuda", "ok", "said"),
    [
        (None, False, True, "CPU build"),
        ("13.0", True, True, "GPU found"),
        ("13.0", False, None, "no GPU answers"),  # gigabytes for nothing, but it works
    ],
)
def test_the_build_of_torch_is_told(cuda_build: str | None, cuda: bool, ok: bool | None, said: str) -> None:
    facts = {"version": "2.13.0", "threads": 2, "cuda_build": cuda_build, "cuda": cuda}
    check = doctor.check_torch(Probe(facts=facts), onnxruntime_works=True)
    assert check.ok is ok
    assert said in check.detail


def test_export_says_what_it_lacks() -> None:
    assert doctor.check_export(ABSENT, torch_works=False).detail == "not possible: no torch and no onnx or onnxscript"


# --- probes -----------------------------------------------------------------------------------------------------------


def test_a_library_that_is_not_there_is_absent() -> None:
    assert doctor.probe("x", code="import a_library_nobody_has").absent


def test_a_library_that_ends_the_process_does_not_end_ours() -> None:
    found = doctor.probe("x", code="import os; os.abort()")
    assert found.facts is None
    assert not found.absent
    assert found.error


def test_what_a_library_prints_while_loading_does_no_harm() -> None:
    assert doctor.probe("x", code="print('hello'); facts = {'version': '1'}").facts == {"version": "1"}


# --- files and devices ------------------------------------------------------------------------------------------------


def test_damaged_and_missing_weights_are_named(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"whole").hexdigest()
    names = ("whole.onnx", "damaged.onnx", "gone.onnx")
    (tmp_path / "index.toml").write_text("".join(f'["{name}"]\nsha256 = "{digest}"\n' for name in names))
    (tmp_path / "whole.onnx").write_bytes(b"whole")
    (tmp_path / "damaged.onnx").write_bytes(b"hole")
    check = doctor.check_weights(tmp_path)
    assert check.ok is False
    assert check.detail == "gone.onnx is missing, damaged.onnx is damaged"


def test_a_folder_without_an_index_is_not_judged(tmp_path: Path) -> None:
    assert doctor.check_weights(tmp_path).ok is None


def test_the_bundled_weights_are_whole() -> None:
    spec = find_spec("effvision.weights")
    assert spec is not None
    assert spec.origin is not None
    if not Path(spec.origin).with_name("index.toml").is_file():
        pytest.skip("no weights are bundled yet")
    assert doctor.check_weights().ok is True


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.check_cache(tmp_path / "new" / "folder").ok is True
    assert not (tmp_path / "new").exists()
    check = doctor.check_cache(tmp_path / "file" / "folder")
    assert check.ok is False
    assert "EFFVISION_CACHE" in check.hint


def test_cameras_are_listed(tmp_path: Path) -> None:
    assert doctor.check_cameras(tmp_path, system="linux").ok is None
    (tmp_path / "video0").write_text("")
    found = doctor.check_cameras(tmp_path, system="linux")
    assert found.ok is True
    assert re.search(r"video0$", found.detail)
    assert doctor.check_cameras(tmp_path, system="darwin").ok is None
