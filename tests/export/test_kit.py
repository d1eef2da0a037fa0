"""Kits: what is in them, that they run without effvision, and that a failure leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effvision import TSM
from effvision.cards import list_cards
from effvision.cli import main
from effvision.errors import ExportError, InputError, SourceError
from effvision.export import KitReport, kit
from effvision.export.device_report import SILENT, DeviceReport, Finding
from effvision.export.golden import STEPS, record, shrink
from effvision.export.targets import TARGETS
from effvision.sources import open_source
from environments import clean_environment
from kits import call_kit, run_kit, small_model

CARD = "tsm-mobilenetv2-motion"


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KitReport]:
    """A kit of the small model for every target."""
    model, folder = small_model(), tmp_path_factory.mktemp("kits")
    return {name: model.export_kit(name, folder / name) for name in TARGETS}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A kit of the default card that the command line wrote, and what it printed."""
    place, printed = tmp_path_factory.mktemp("bundled") / "kit", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["export", CARD, "--target", "jetson-nano", "--out", str(place), "--json"]) == 0
    return place, printed.getvalue()


@pytest.fixture(scope="module")
def bundled(command: tuple[Path, str]) -> Path:
    return command[0]


# --- what is in it ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_kit_is_whole_and_fits_its_target(kits: dict[str, KitReport], name: str) -> None:
    report, target = kits[name], TARGETS[name]
    there = {path.name: path.stat().st_size for path in report.folder.iterdir()}
    assert there == report.files and os.fspath(report) == str(report.folder)
    assert ("build_engine.sh" in there) == ("tensorrt_engine.py" in there) == (target.tensorrt is not None)
    model = onnx.load(report.folder / "model.onnx")
    assert model.opset_import[0].version == target.opset and model.ir_version <= target.ir
    assert all(value.type.tensor_type.shape.dim[0].dim_value == 1 for value in model.graph.input)
    assert (report.folder / "labels.txt").read_text("utf-8") == "a\nb\nc\n\u00fc\n"
    described = json.loads((report.folder / "model.json").read_text("utf-8"))
    block = {entry.key: entry.value for entry in model.metadata_props}["effvision"]
    assert described["effvision"] == json.loads(block) and described["files"] == {"step": "model.onnx"}
    assert described["target"] == report.target == name
    assert described["sha256"] == {"model.onnx": report.export.sha256}
    assert not list(report.folder.glob("*.engine")), "an engine fits one GPU only"
    assert os.access(report.folder / "runner.py", os.X_OK)
    json.dumps(report.to_dict())
    assert report.export.path == report.folder / "model.onnx" and "verified here" in str(report)


@pytest.mark.parametrize("name", TARGETS)
def test_the_readme_says_what_to_install_and_that_no_board_was_used(kits: dict[str, KitReport], name: str) -> None:
    text = (kits[name].folder / "README.md").read_text("utf-8")
    assert not re.search(r"@[A-Z_]+@", text), "a name of the template was left"
    assert "not run on a board" in text and "20 of 20 frames equal" in text and "equals PyTorch over 16 steps" in text
    assert all(f"`{file}`" in text for file in kits[name].files)
    if name == "onnx":
        assert "pip install numpy opencv-python onnxruntime" in text and "TensorRT\n" not in text
    else:
        assert "GStreamer" in text and "not `pip install opencv-python`" in text and "--source csi://0" in text
        assert "./build_engine.sh" in text and "Predicted for" in text


def test_a_kit_says_nothing_about_the_machine_that_wrote_it(kits: dict[str, KitReport]) -> None:
    for report in kits.values():
        for path in report.folder.iterdir():
            data = path.read_bytes()
            assert str(report.folder.parent).encode() not in data and os.getcwd().encode() not in data, path.name


def test_the_same_model_gives_the_same_kit(kits: dict[str, KitReport], tmp_path: Path) -> None:
    again = small_model().export_kit("jp62", tmp_path / "again")
    for name in again.files:
        assert (again.folder / name).read_bytes() == (kits["jp62"].folder / name).read_bytes(), name


def test_the_golden_numbers_are_those_of_a_session(kits: dict[str, KitReport]) -> None:
    with np.load(kits["onnx"].folder / "golden.npz", allow_pickle=False) as file:
        golden = dict(file)
    assert golden["frames"].shape[0] == STEPS and golden["reset"].sum() == 2 and golden["reset"][0]
    model = small_model()
    session = model.session()
    for frame, reset, logits, chosen in zip(
        golden["frames"], golden["reset"], golden["output"], golden["chosen"], strict=True
    ):
        if reset:
            session = model.session()
        result: Any = session.update(frame)
        np.testing.assert_allclose(result.logits, logits, rtol=0, atol=1e-5)
        assert result.chosen == chosen


def test_frames_of_the_users_own_become_the_golden_ones(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    report = small_model().export_kit("onnx", tmp_path / "kit", frames=list(frames))
    with np.load(report.folder / "golden.npz", allow_pickle=False) as file:
        shown = file["frames"]
    assert shown.shape == (STEPS, 50, 67, 3)  # a quarter more than the 40 pixels the network is shown
    np.testing.assert_array_equal(shown[0], shrink(frames[0], {"short_side": 40, "size": [32, 32]}))
    np.testing.assert_array_equal(shown[3], shown[0])


def test_no_family_is_named_in_what_every_kit_is_made_of() -> None:
    here = Path(kit.__file__).parent
    families = {card.family for card in list_cards()}
    for path in [*(here / "kit_files").glob("*.*"), here / "kit.py", here / "kit_readme.py", here / "golden.py"]:
        words = set(re.findall(r"[a-z]+", path.read_text("utf-8").lower()))
        assert not words & families, path.name


# --- it runs ----------------------------------------------------------------------------------------------------------------


def test_a_kit_verifies_itself(kits: dict[str, KitReport]) -> None:
    for name in ("jetson-nano", "onnx"):
        done = call_kit(kits[name].folder, "--verify", "golden.npz", "--provider", "cpu")
        assert done.returncode == 0, done.stderr
        assert "20 of 20 frames equal" in done.stderr and "20 steps, 1 reset" in done.stderr
        assert "verified on CPUExecutionProvider" in done.stderr and "WARNING" not in done.stderr


def effvision_answers(folder: Path, video: Path) -> list[dict[str, Any]]:
    return [result.to_dict() for result in TSM.from_pretrained(folder / "model.onnx").stream(video, images=False)]


@pytest.fixture(scope="module")
def labelled(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The sample of the default card, and what this package answers to it."""
    sample = TSM.write_sample(tmp_path_factory.mktemp("sample") / "sample.mp4", card=CARD)
    return sample, effvision_answers(bundled, sample)


def check_answers(printed: str, wanted: list[dict[str, Any]]) -> None:
    """The same label, clock and resets in every frame, and the same score but for rounding."""
    got = [json.loads(line) for line in printed.splitlines()]
    assert len(got) == len(wanted)
    for mine, theirs in zip(got, wanted, strict=True):
        for name in ("index", "timestamp", "label", "settled", "fresh", "reset_reason"):
            assert mine[name] == theirs[name], (mine["index"], name)
        assert abs(mine["score"] - theirs["score"]) < 1e-4


def test_the_runner_labels_the_sample_exactly_as_effvision_does(
    bundled: Path, labelled: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    sample, wanted = labelled
    assert len({answer["label"] for answer in wanted}) >= 6, "the sample has to go through many labels"
    done = call_kit(
        bundled, "--source", str(sample), "--json", "--save", str(tmp_path / "out.mp4"), "--provider", "cpu"
    )
    assert done.returncode == 0, done.stderr
    check_answers(done.stdout, wanted)
    with open_source(tmp_path / "out.mp4") as source:
        assert source.count == len(wanted)


@pytest.mark.slow
def test_a_kit_runs_where_there_is_only_numpy_onnxruntime_and_opencv(
    bundled: Path, labelled: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    python = str(clean_environment(tmp_path / "venv", ["numpy", "onnxruntime", "opencv-python"]))
    moved = shutil.copytree(bundled, tmp_path / "kit")
    program = "import importlib.util as u; print([n for n in ('effvision', 'torch', 'onnx') if u.find_spec(n)])"
    (moved / "probe.py").write_text(program)
    clean = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    sample, wanted = labelled
    verified = run_kit(moved, "--verify", "golden.npz", python=python, **clean)
    assert verified.returncode == 0, verified.stderr
    done = run_kit(moved, "--source", str(sample), "--json", python=python, **clean)
    assert done.returncode == 0, done.stderr
    check_answers(done.stdout, wanted)
    (moved / "runner.py").write_text(program)
    assert run_kit(moved, python=python, **clean).stdout.strip() == "[]"


# --- it notices -------------------------------------------------------------------------------------------------------------


def tampered(kit: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kit, tmp_path / "tampered")


def test_other_weights_in_the_model_fail_the_check(kits: dict[str, KitReport], tmp_path: Path) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    model = onnx.load(folder / "model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(largest.raw_data, np.float32)
    largest.raw_data = (values * 1.05).astype(np.float32).tobytes()
    onnx.save(model, folder / "model.onnx")
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and "BAD  network" in done.stderr and "NOT VERIFIED" in done.stderr


def test_a_state_that_is_lost_exceeds_the_limits_of_half_precision_too(
    kits: dict[str, KitReport], tmp_path: Path
) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    text = (folder / "runner.py").read_text("utf-8")
    forgetful = text.replace('found[s["output"]] for s', '0 * found[s["output"]] for s')
    (folder / "runner.py").write_text(forgetful.replace('"fp32": (1e-3, 1e-4)', '"fp32": (5e-2, 2e-2)'), "utf-8")
    assert forgetful != text
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and "BAD  network" in done.stderr and "ok   preparation" in done.stderr


def test_another_preparation_or_rule_fails_the_check(kits: dict[str, KitReport], tmp_path: Path) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    text = (folder / "stream.py").read_text("utf-8")
    changed = text.replace("np.floor(middle + 0.5)", "middle").replace("[-self.window :]", "[-1:]")
    (folder / "stream.py").write_text(changed, "utf-8")
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and "BAD  preparation" in done.stderr and "BAD  labels" in done.stderr


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("golden.npz", b"", "no golden file"),
        ("golden.npz", None, "No such file"),
        ("model.onnx", b"nonsense", "cannot open"),
        ("model.onnx", None, "No such file"),
    ],
)
def test_a_damaged_kit_is_an_error_in_words(
    kits: dict[str, KitReport], tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_golden_numbers_of_other_weights_are_refused(kits: dict[str, KitReport], bundled: Path, tmp_path: Path) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    shutil.copy(bundled / "golden.npz", folder)
    done = call_kit(folder, "--verify", "golden.npz", "--provider", "cpu")
    assert done.returncode == 1 and "other weights" in done.stderr


def test_an_onnx_file_that_is_not_ours_is_refused(kits: dict[str, KitReport], tmp_path: Path) -> None:
    folder = tampered(kits["onnx"].folder, tmp_path)
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    done = call_kit(folder, "--bench", "1", "--provider", "cpu")
    assert done.returncode == 1 and "not written by effvision" in done.stderr


# --- a failure leaves nothing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "folder", "error", "said"),
    [
        ("jetson", "kit", InputError, "jetson-nano"),
        ("jp62", "kit.onnx", InputError, "a kit is a folder"),
        ("jp62", "no/such/kit", SourceError, "mkdir -p"),
        ("jp62", "file", SourceError, "in the way"),
        ("jp62", "other", SourceError, "holds notes.txt"),
    ],
)
def test_what_cannot_become_a_kit_is_refused_before_any_work(
    target: str, folder: str, error: type, said: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=said):
        small_model().export_kit(target, tmp_path / folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_exported_model_is_not_exported_again(kits: dict[str, KitReport], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written from PyTorch.*\nhint: .*runtime='torch'"):
        TSM.from_pretrained(kits["onnx"].folder / "model.onnx").export_kit("onnx", tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_needs_whole_clips_has_no_kit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frame by frame.*\nhint: `export` without a target"):
        small_model(shift="bidirectional").export_kit("jp62", tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_kit_is_replaced_with_what_it_made_but_never_a_file_of_the_users(
    kits: dict[str, KitReport], tmp_path: Path
) -> None:
    place = shutil.copytree(kits["onnx"].folder, tmp_path / "kit")
    (place / "model.engine").write_bytes(b"of the old model")
    (place / "engine_cache").mkdir()
    report = small_model().export_kit("jp51", place)
    assert {path.name for path in place.iterdir()} == set(report.files) and report.target == "jp51"
    (place / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(SourceError, match=r"holds holiday\.mp4"):
        small_model().export_kit("jp51", place)
    assert (place / "holiday.mp4").exists() and [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_an_empty_folder_is_filled_and_a_foreign_readme_is_not_taken_for_a_kit(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    assert small_model().export_kit("onnx", tmp_path / "kit").folder == tmp_path / "kit"
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(SourceError, match="no kit that effvision wrote"):
        small_model().export_kit("onnx", tmp_path / "project")


@pytest.mark.parametrize("full_at", ["model.onnx", "model.json", "golden.npz", "video.py", "README.md"])
def test_a_disk_that_fills_up_leaves_the_earlier_kit_and_nothing_else(
    full_at: str, kits: dict[str, KitReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(kits["jp62"].folder, tmp_path / "kit")
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        if path.name == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(data)

    monkeypatch.setattr(kit, "write", full)
    if full_at == "model.onnx":
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: full_disk())
    with pytest.raises(SourceError, match=r"cannot write the kit .*kit: No space left"):
        small_model().export_kit("jp62", place)
    monkeypatch.undo()
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_kit_that_fails_its_own_check_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Any, frames: Any) -> dict[str, np.ndarray]:
        golden = record(model, frames)
        return {**golden, "output": golden["output"] * 1.01}

    monkeypatch.setattr(kit, "record", wrong)
    with pytest.raises(ExportError, match=r"own check failed.*BAD\s+network"):
        small_model().export_kit("onnx", tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_a_kit_that_its_target_would_compute_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(path: Path, target: Any) -> DeviceReport:
        finding = Finding(
            "node_1", "ScatterElements", SILENT, reason="`reduction` is not read", hint="do it on the host"
        )
        return DeviceReport("model.onnx", target.name, target.title, (finding,), {SILENT: 1}, "1")

    monkeypatch.setattr(kit, "check_device", warned)
    with pytest.raises(ExportError, match=r"would give wrong numbers\n.*\n.*1 ScatterElements"):
        small_model().export_kit("jp51", tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


# --- the command line ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_kit_and_reports_it(command: tuple[Path, str]) -> None:
    place, printed = command
    (line,) = printed.splitlines()
    report = json.loads(line)
    assert report["folder"] == str(place) and report["target"] == "jetson-nano"
    assert report["export"]["opset"] == 13 and report["device"]["predicted"] is True
    assert set(report["files"]) == {path.name for path in place.iterdir()}


@pytest.mark.parametrize(
    "more", [["--target", "jp99"], ["--target", "jp62", "--batch", "2"], ["--target", "jp62", "--opset", "17"]]
)
def test_wrong_use_is_refused_before_the_model_is_loaded(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", CARD, "--out", str(tmp_path / "kit"), *more]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("effvision: ") and list(tmp_path.iterdir()) == []
