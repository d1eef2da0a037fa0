"""Int8 files: written whole or not at all, saying what they are, opened where they belong, and made from the command line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from colours import COLOURS, changing, clip, colour_model, hurry, steady
from effvision import TSM, Predictor
from effvision.cli import main
from effvision.errors import InputError, ModelFileError, SourceError
from effvision.export import ExportReport, Int8
from effvision.export.device_check import check_device
from effvision.export.int8_graph import find_form
from effvision.metadata import Metadata
from effvision.runtime import onnx as runtime
from effvision.runtime.onnx import open_session, read_metadata
from kits import small_model
from refusals import refused

CARD = "tsm-mobilenetv2-motion"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    """The float file and one of each form."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        made = {"float": colour_model().export(folder / "float.onnx")}
        for form in ("cpu", "tensorrt"):
            how = Int8(form, calibration=changing(6), labelled=steady())  # type: ignore[arg-type]
            made[form] = colour_model().export(folder / f"{form}.onnx", int8=how)
    return made


def described(path: Any) -> Metadata:
    return read_metadata(open_session(path), where="the file")


# --- what is in them --------------------------------------------------------------------------------------------------------


def test_a_file_says_what_it_computes_with_and_how_that_was_measured(files: dict[str, ExportReport]) -> None:
    for form in ("cpu", "tensorrt"):
        report: Any = files[form]
        graph = onnx.load(report)
        assert find_form(graph) == form and graph.opset_import[0].version == 17 and graph.ir_version == 8
        ends = [*graph.graph.input, *graph.graph.output]
        assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
        block = described(report).precision
        assert list(block) == ["int8"] and block["int8"]["form"] == form and block["int8"]["right_int8"] == 4
        assert block == json.loads(json.dumps(report.precision.summary()))
        assert not {"time_ratio", "float_ms", "int8_ms", "layers"} & set(block["int8"]), "the clock repeats nothing"
        assert "the float graph equals PyTorch over 16 steps" in str(report) and "int8 for" in str(report)
        data = json.loads(json.dumps(report.to_dict()))
        assert data["precision"]["form"] == form and len(data["precision"]["layers"]) == 4


def test_a_float_file_does_not_speak_of_precision(files: dict[str, ExportReport]) -> None:
    block = {entry.key: entry.value for entry in onnx.load(files["float"]).metadata_props}["effvision"]
    assert "precision" not in json.loads(block) and described(files["float"]).to_json() == block
    assert files["float"].to_dict()["precision"] is None and "the float graph" not in str(files["float"])


def test_the_same_export_gives_the_same_bytes(files: dict[str, ExportReport], tmp_path: Path) -> None:
    how = Int8("cpu", calibration=changing(6), labelled=steady())
    assert colour_model().export(tmp_path / "again.onnx", int8=how).sha256 == files["cpu"].sha256


def test_weights_take_a_quarter_of_the_room(files: dict[str, ExportReport]) -> None:
    def weights(report: Any) -> int:
        held = [t for t in onnx.load(report).graph.initializer if ".weight" in t.name and len(t.dims) > 1]
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in held)

    assert weights(files["cpu"]) * 4 == weights(files["float"]) == weights(files["tensorrt"])


@pytest.mark.parametrize("figures", [3, None, "cpu", [1]])
def test_a_damaged_precision_is_a_damaged_file(files: dict[str, ExportReport], figures: Any, tmp_path: Path) -> None:
    graph = onnx.load(files["cpu"])
    block = json.loads(graph.metadata_props[0].value)
    graph.metadata_props[0].value = json.dumps({**block, "precision": {"int8": figures}})
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="is damaged"):
        Predictor.from_pretrained(tmp_path / "m.onnx")


# --- where they run ---------------------------------------------------------------------------------------------------------


def test_a_file_for_processors_answers_as_the_float_one_does(files: dict[str, ExportReport]) -> None:
    one, other = TSM.from_pretrained(files["float"]), TSM.from_pretrained(files["cpu"])
    for source in changing(3, seed=90):
        mine, theirs = one.session(smoothing=None), other.session(smoothing=None)
        for frame in source:
            assert mine.update(frame).chosen == theirs.update(frame).chosen  # type: ignore[attr-defined]
    assert [other.predict(source).label for source, _ in steady(seed=9)] == list(COLOURS)  # type: ignore[attr-defined]
    assert other.runtime.multiply_adds("step", 1) == one.runtime.multiply_adds("step", 1)


def test_a_file_for_tensorrt_does_not_open_on_a_processor(files: dict[str, ExportReport]) -> None:
    for device in ("cpu",):
        message = refused(
            lambda device=device: TSM.from_pretrained(files["tensorrt"], device=device),  # type: ignore[misc]
            "is int8 for TensorRT; on cpu it would be slower",
            kind=InputError,
        )
        assert "int8='cpu'" in message


@pytest.mark.parametrize(
    ("form", "device", "opens"),
    [
        ("cpu", "cuda", False),
        ("cpu", "tensorrt:1", False),
        ("cpu", "cpu", True),
        ("cpu", "openvino", True),
        ("tensorrt", "tensorrt", True),
        ("tensorrt", "cuda:1", True),
        ("tensorrt", "coreml", False),
        ("float", "tensorrt", True),
    ],
)
def test_each_form_opens_on_its_own_kind_of_machine(
    form: str, device: str, opens: bool, files: dict[str, ExportReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_session
    monkeypatch.setattr(runtime, "open_session", lambda path, *, device, threads=None: real(path))
    if opens:
        assert TSM.from_pretrained(files[form], device=device).runtime.device == device
    else:
        refused(lambda: TSM.from_pretrained(files[form], device=device), "hint: ", kind=InputError)


@pytest.mark.parametrize("target", ["jp51", "jp62", "jp72"])
def test_the_check_for_a_device_takes_one_form_and_not_the_other(files: dict[str, ExportReport], target: str) -> None:
    assert check_device(files["tensorrt"], target).verdict == "ok"
    report = check_device(files["cpu"], target)
    assert report.verdict == "unsupported" and any("QuantizeLinear" in f.op for f in report.problems)


def test_info_tells_of_every_form(files: dict[str, ExportReport], capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("cpu", "tensorrt"):
        assert main(["info", str(files[form].path)]) == 0
        told = capsys.readouterr()
        assert "int8" in told.out and "logits" in told.out and told.err == ""
    assert main(["jetson-check", str(files["cpu"].path), "--target", "jp62"]) == 1
    assert main(["jetson-check", str(files["tensorrt"].path), "--target", "jp62"]) == 0


# --- written whole or not at all --------------------------------------------------------------------------------------------


def test_a_refused_file_is_not_written_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"the file that was there")
    how = Int8("cpu", calibration=changing(9), labelled=steady())
    refused(lambda: colour_model(spoilt=("4", "8")).export(tmp_path / "m.onnx", int8=how), "int8 is refused: accuracy")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"the file that was there"


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SourceError, match="No space left"):
        colour_model().export(tmp_path / "m.onnx", int8=Int8("tensorrt", calibration=changing(6)))
    assert list(tmp_path.iterdir()) == []


def test_two_streams_a_call_are_refused_and_any_number_is_not(tmp_path: Path) -> None:
    how = Int8("cpu", calibration=changing(6))
    refused(lambda: colour_model().export(tmp_path / "m.onnx", batch=2, int8=how), "one stream at a time", "'dynamic'")
    assert list(tmp_path.iterdir()) == []
    report: Any = colour_model().export(tmp_path / "m.onnx", batch="dynamic", int8=how)
    model = TSM.from_pretrained(report)
    sessions = [model.session(smoothing=None) for _ in range(3)]
    for _ in range(4):
        found = model.update_many(sessions, [clip([name])[0] for name in ("red", "green", "blue")])
    assert [result.label for result in found] == ["red", "green", "blue"]  # type: ignore[attr-defined]


def test_a_network_of_whole_clips_works_too(tmp_path: Path) -> None:
    model = small_model(shift="bidirectional")
    how = Int8("cpu", calibration=[source[:8] for source in changing(9)], force=True)
    report: Any = model.export(tmp_path / "m.onnx", int8=how)
    assert (report.precision.calibration_steps, report.precision.judged_steps) == (6, 3)
    loaded = TSM.from_pretrained(report)
    source = changing(1, seed=5)[0]
    wanted, got = (m.predict(source).logits for m in (model, loaded))  # type: ignore[attr-defined]
    assert 0 < np.abs(wanted - got).max() < 0.1 * np.abs(wanted).max()
    refused(lambda: model.export(tmp_path / "n.onnx", int8=Int8("cpu", calibration=changing(5))), "needs 6 or more")


# --- the command line -------------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    """Folders of pictures, as recordings."""
    import cv2

    places = []
    for index, source in enumerate(changing(3, length=10)):
        place = tmp_path / "recordings" / str(index)
        place.mkdir(parents=True)
        for step, frame in enumerate(source):
            cv2.imwrite(str(place / f"{step:03}.png"), frame[..., ::-1])
        places.append(str(place))
    return places


def test_the_command_quantises_and_reports(
    videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: colour_model())
    out = tmp_path / "m.onnx"
    assert main(["export", CARD, "--int8", "cpu", "--calibrate", *videos, "--out", str(out), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["precision"]["form"] == "cpu" and report["precision"]["calibration_steps"] == 20
    assert report["path"] == str(out) and find_form(onnx.load(out)) == "cpu"


def test_what_the_command_refuses_it_refuses_with_numbers_unless_forced(
    videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: colour_model(spoilt=("4", "8")))
    command = ["export", CARD, "--int8", "tensorrt", "--calibrate", *videos, "--out", str(tmp_path / "m.onnx")]
    assert main(command) != 0
    told = capsys.readouterr()
    assert "int8 is refused: " in told.err and "answers differ" in told.err and not (tmp_path / "m.onnx").exists()
    assert main([*command, "--force"]) == 0
    assert "REFUSED" in capsys.readouterr().out and find_form(onnx.load(tmp_path / "m.onnx")) == "tensorrt"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--calibrate", "a.mp4"], "--calibrate goes with --int8"),
        (["--labelled", "."], "--labelled goes with --int8"),
        (["--force"], "--force goes with --int8"),
        (["--force", "--calibrate", "a.mp4", "--fp16"], "--calibrate, --force goes with --int8"),
        (["--int8", "gpu"], "invalid choice: 'gpu'"),
        (["--int8", "cpu", "--fp16"], "two precisions"),
        (["--int8", "cpu", "--opset", "18"], "opset 17 or older"),
    ],
)
def test_options_without_the_one_they_belong_to_are_wrong_use(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: colour_model())
    try:
        code = main(["export", CARD, "--out", str(tmp_path / "m.onnx"), *more])
    except SystemExit as done:  # argparse
        code = int(done.code or 0)
    assert code == 2 and said in capsys.readouterr().err and list(tmp_path.iterdir()) == []
