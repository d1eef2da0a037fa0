"""Kits whose model computes on int8 or float16: checked, built with the right options, and refused where they do not belong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from colours import changing, colour_model, hurry, steady
from effvision.cli import main
from effvision.errors import ExportError, InputError
from effvision.export import Int8, KitReport
from effvision.export.int8_graph import find_form
from kits import call_kit, loaded, tensorrt
from refusals import refused

CARD = "tsm-mobilenetv2-motion"
KITS = {"int8": ("jp62", "tensorrt"), "processor": ("onnx", "cpu"), "fp16": ("jp62", None), "fp32": ("jp62", None)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KitReport]:
    folder = tmp_path_factory.mktemp("kits")
    made = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        for name, (target, form) in KITS.items():
            how: Any = None if form is None else Int8(form, calibration=changing(6), labelled=steady())  # type: ignore[arg-type]
            made[name] = colour_model().export_kit(target, folder / name, half=name == "fp16", int8=how)
    return made


# --- what is in them, and that they verify ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KITS)
def test_a_kit_verifies_itself_with_its_own_runner(name: str, kits: dict[str, KitReport]) -> None:
    done = call_kit(kits[name].folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert "verified on CPUExecutionProvider" in done.stderr and "20 of 20 frames equal" in done.stderr


@pytest.mark.parametrize("name", KITS)
def test_a_kit_says_what_its_model_computes_with(name: str, kits: dict[str, KitReport]) -> None:
    folder = kits[name].folder
    text = (folder / "README.md").read_text("utf-8")
    block = json.loads((folder / "model.json").read_text("utf-8"))["effvision"]
    said = {
        "int8": "int8 (for TensorRT), ranges by",
        "processor": "int8 (for processors), ranges by",
        "fp16": "float16, compared with float32 on a processor",
        "fp32": "",
    }[name]
    assert said in text and "@" not in text.replace("@@", "").partition("## Checked")[2]
    limits = {"fp16": "square (float16);", "fp32": "on the CPU, or 0.05"}.get(name, "0.3 of the largest number")
    assert limits in text and ("are tried in this" in text) == (name != "processor")
    assert ("- Exported file equals PyTorch" in text) == (name == "fp32")
    assert list(block.get("precision", {})) == {"fp16": ["half"], "fp32": []}.get(name, ["int8"])
    assert find_form(onnx.load(folder / "model.onnx")) == KITS[name][1]
    if name in ("int8", "processor"):
        assert "4 of 4 labelled sources right (float32: 4)" in text and "0 layers left in float" in text
    assert "verified here" in str(kits[name]) and json.dumps(kits[name].to_dict())
    assert kits[name].device.verdict == "ok" or name == "processor"


def test_no_warning_of_the_processor_where_the_model_is_made_for_one(kits: dict[str, KitReport]) -> None:
    assert "WARNING" not in call_kit(kits["processor"].folder, "--verify", "golden.npz").stderr
    assert "WARNING: running on the CPU" in call_kit(kits["int8"].folder, "--verify", "golden.npz").stderr


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_a_lost_state_exceeds_the_limits_of_every_precision(
    name: str, kits: dict[str, KitReport], tmp_path: Path
) -> None:
    folder = shutil.copytree(kits[name].folder, tmp_path / "kit")
    text = (folder / "runner.py").read_text("utf-8")
    forgetful = text.replace('found[s["output"]] for s', '0 * found[s["output"]] for s')
    assert forgetful != text
    (folder / "runner.py").write_text(forgetful, "utf-8")
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and "BAD  network" in done.stderr


@pytest.mark.parametrize("name", ["int8", "fp16", "fp32"])
def test_an_engine_is_judged_by_the_precision_of_the_file(name: str, kits: dict[str, KitReport]) -> None:
    folder = kits[name].folder
    stub = tensorrt(folder / "model.onnx", "10.3.0")
    with loaded(folder, tensorrt=stub) as programs:
        block = json.loads((folder / "model.json").read_text("utf-8"))["effvision"]
        wanted = {"int8": "int8", "fp16": "fp16", "fp32": "fp16"}[name]  # a GPU rounds float32 as half precision does
        assert programs.runner.of_file(block, "fp16") == wanted and wanted in programs.runner.TOLERANCES


def onnxruntime_with_gpu(given: list[Any]) -> Any:
    """ONNX Runtime that offers TensorRT and CUDA, and notes in `given` what it is asked for."""
    import onnxruntime

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
            given.extend(item if isinstance(item, tuple) else (item, {}) for item in providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [name for name, _ in given]

    class Stub:
        def __getattr__(self, name: str) -> Any:
            return getattr(onnxruntime, name)

    stub: Any = Stub()
    stub.InferenceSession = Session
    every = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    stub.get_available_providers = lambda: list(every)
    return stub


@pytest.mark.parametrize(("name", "asks"), [("int8", "True"), ("fp16", "False"), ("fp32", "False")])
def test_tensorrt_inside_onnx_runtime_is_told_of_int8(name: str, asks: str, kits: dict[str, KitReport]) -> None:
    given: list[Any] = []
    folder = kits[name].folder
    with loaded(folder, onnxruntime=onnxruntime_with_gpu(given)) as programs:
        network = programs.runner.OnnxNetwork(str(folder / "model.onnx"), None, True)
    shutil.rmtree(folder / "engine_cache")
    assert given[0][0] == "TensorrtExecutionProvider" and len(given) == 3
    assert given[0][1]["trt_int8_enable"] == asks and given[0][1]["trt_fp16_enable"] == "True"
    assert network.precision == ("int8" if name == "int8" else "fp16")


def test_a_model_for_processors_stays_on_the_processor_where_there_is_a_gpu(kits: dict[str, KitReport]) -> None:
    given: list[Any] = []
    folder = kits["processor"].folder
    with loaded(folder, onnxruntime=onnxruntime_with_gpu(given)) as programs:
        network = programs.runner.OnnxNetwork(str(folder / "model.onnx"), None, True)
        assert [name for name, _ in given] == ["CPUExecutionProvider"] and network.precision == "int8"
        with pytest.raises(programs.runner.KitError, match="cuda was asked for, but this int8 model is for processors"):
            programs.runner.OnnxNetwork(str(folder / "model.onnx"), "cuda", True)
    assert not (folder / "engine_cache").exists()


# --- building an engine -----------------------------------------------------------------------------------------------------

needs_a_shell = pytest.mark.skipif(not shutil.which("bash"), reason="no shell here: build_engine.sh was not run")
FAKE = "#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec'\n"


@needs_a_shell
@pytest.mark.parametrize(
    ("name", "banner", "more", "wanted"),
    [
        ("int8", "v8502", [], ["--fp16", "--int8"]),
        ("int8", "v100300", [], ["--fp16", "--int8"]),
        ("int8", "v100300", ["--fp32"], ["--int8"]),
        ("int8", "v110400", [], ["--stronglyTyped"]),
        ("int8", "v110400", ["--fp32"], ["--stronglyTyped"]),
        ("fp16", "v8502", [], ["--fp16"]),
        ("fp16", "v100300", ["--fp32"], ["--fp16"]),
        ("fp16", "v110400", [], ["--stronglyTyped"]),
        ("fp32", "v100300", [], ["--fp16"]),
        ("fp32", "v100300", ["--fp32"], []),
        ("fp32", "v110400", [], ["--stronglyTyped"]),
    ],
)
def test_each_tensorrt_is_asked_for_what_the_model_has(
    name: str, banner: str, more: list[str], wanted: list[str], kits: dict[str, KitReport], tmp_path: Path
) -> None:
    tool = tmp_path / "trtexec"
    tool.write_text(FAKE.format(banner=banner))
    tool.chmod(0o755)
    command = [shutil.which("bash") or "bash", str(kits[name].folder / "build_engine.sh"), "--print", *more]
    env = {**os.environ, "TRTEXEC": str(tool)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    kinds = {"--fp16", "--int8", "--stronglyTyped"}
    assert sorted(kinds & set(done.stdout.split())) == sorted(wanted)
    assert ("which is float32" in done.stderr) == (name == "fp32" and banner == "v110400")
    assert ("in half precision already" in done.stderr) == (name == "fp16" and bool(more))


# --- where they do not belong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "form", "said", "hint"),
    [
        ("jp62", "cpu", "int8 for processors is not what TensorRT on JetPack 6.1", "--int8 tensorrt for --target jp62"),
        ("onnx", "tensorrt", "the target onnx has not", "--int8 cpu"),
        ("jetson-nano", "tensorrt", "Jetson Nano (2019) and its like", "uses half precision"),
        ("jetson-nano", "cpu", "have no int8 units", "uses half precision"),
    ],
)
def test_a_form_that_the_target_cannot_use_is_refused_with_what_to_do(
    target: str, form: str, said: str, hint: str, tmp_path: Path
) -> None:
    message = refused(
        lambda: colour_model().export_kit(target, tmp_path / "kit", int8=form),  # type: ignore[arg-type]
        said,
        kind=InputError,
    )
    assert hint in message.partition("hint: ")[2] and list(tmp_path.iterdir()) == []


def test_the_command_refuses_likewise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from effvision import Predictor

    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: colour_model())
    command = ["export", CARD, "--target", "jp62", "--int8", "cpu", "--out", str(tmp_path / "kit")]
    assert main(command) == 2 and "--int8 tensorrt for --target jp62" in capsys.readouterr().err
    assert main([*command[:-2], "--fp16", "--out", str(tmp_path / "kit")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_refused_model_makes_no_kit(tmp_path: Path) -> None:
    how = Int8("tensorrt", calibration=changing(9), labelled=steady())
    with pytest.raises(ExportError, match="int8 is refused: accuracy falls"):
        colour_model(spoilt=("4", "8")).export_kit("jp62", tmp_path / "kit", int8=how)
    assert list(tmp_path.iterdir()) == []


def test_a_kits_folder_says_nothing_of_this_machine(kits: dict[str, KitReport]) -> None:
    for report in kits.values():
        for path in report.folder.iterdir():
            if path.is_file():
                data = path.read_bytes()
                assert str(report.folder.parent).encode() not in data and sys.prefix.encode() not in data, path.name
