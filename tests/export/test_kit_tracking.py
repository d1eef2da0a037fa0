"""A kit for tracking follows on a device what the predictor follows here: without this package, and on an old Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from effvision import PatchNet
from effvision.errors import ExportError, InputError, SourceError
from effvision.export import KitReport, kit_tracking
from effvision.export.targets import TARGETS
from effvision.models.patchnet.sample import FIRST_BOXES, render
from effvision.sources import VideoWriter, open_source
from kits import call_kit, run_kit

FRAMES = 16
BOXES = [word for box in FIRST_BOXES for word in ("--box", *map(str, box))]
CPU = ("--provider", "cpu")


def track(folder: Path, *arguments: str, **options: Any) -> Any:
    run = run_kit if options else call_kit  # another Python needs a process
    return run(folder, *arguments, program="track.py", **options)


@pytest.fixture(scope="module")
def model() -> PatchNet:
    return PatchNet.untrained("patchnet-synthetic")


@pytest.fixture(scope="module")
def kits(model: PatchNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, KitReport]:
    """For any number of objects in a call, and for a fixed one."""
    folder = tmp_path_factory.mktemp("kits")
    return {target: model.export_kit(target, folder / target) for target in ("onnx", "jp51")}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    with VideoWriter(path, fps=25.0, size=(360, 480)) as video:
        for image, _ in render(FRAMES):
            video.write(image)
    return path


@pytest.fixture
def ready_export(kits: dict[str, KitReport], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `export` copy what the fixture exported, and take its golden numbers: they need not be made again for every text."""

    def export(self: PatchNet, path: Path, *, batch: Any, **options: Any) -> Any:
        report = kits["onnx" if batch == "dynamic" else "jp51"]
        shutil.copyfile(report.folder / "model.onnx", path)
        return report.at(path.parent).export

    with np.load(kits["onnx"].folder / "golden.npz", allow_pickle=False) as file:
        recorded = {name: file[name] for name in file.files}
    record = kit_tracking._golden
    monkeypatch.setattr(kit_tracking, "_golden", lambda model, real: record(model, real) if real else dict(recorded))
    monkeypatch.setattr(PatchNet, "export", export)


# --- what is in it ----------------------------------------------------------------------------------------------------


def check_whole(report: KitReport, name: str) -> None:
    target, folder = TARGETS[name], report.folder
    there = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert there == report.files
    described = json.loads((folder / "model.json").read_text("utf-8"))
    assert described["target"] == name and described["sha256"] == {"model.onnx": report.export.sha256}
    file = onnx.load(folder / "model.onnx")
    assert file.opset_import[0].version == target.opset and file.ir_version <= target.ir
    axis = file.graph.input[0].type.tensor_type.shape.dim[0]
    assert axis.dim_value == 8 if target.tensorrt else axis.dim_param == "batch"
    text = (folder / "README.md").read_text("utf-8")
    assert "@" not in text and target.title in text and report.verified in text and "track.py --check" in str(report)
    assert ("groups of 8" in text) is ("sudo apt-get" in text) is (target.tensorrt is not None)
    assert all((folder / line.split("`")[1]).exists() for line in text.splitlines() if line.startswith("| `"))


@pytest.mark.parametrize("name", ["onnx", "jp51"])
def test_a_kit_is_whole_and_fits_its_target(kits: dict[str, KitReport], name: str) -> None:
    check_whole(kits[name], name)
    assert kits[name].device.verdict == "ok"


@pytest.mark.parametrize("name", ["jp62", "jp72"])
def test_other_boards_get_the_same_file(
    ready_export: None, model: PatchNet, kits: dict[str, KitReport], name: str, tmp_path: Path
) -> None:
    report = model.export_kit(name, tmp_path / "kit")
    check_whole(report, name)
    assert report.device.verdict == "ok"
    assert (report.folder / "golden.npz").read_bytes() == (kits["jp51"].folder / "golden.npz").read_bytes()


def test_frames_of_the_users_own_become_the_golden_ones(ready_export: None, model: PatchNet, tmp_path: Path) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 600, 400, 3), np.uint8))
    folder = model.export_kit("onnx", tmp_path / "kit", frames=frames).folder
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        assert file["frames"].shape == (20, 360, 240, 3) and file["track"].shape == (20, 2, 4)


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx", "jp51"])
def test_a_kit_follows_what_the_predictor_follows(
    model: PatchNet, kits: dict[str, KitReport], clip: Path, name: str, tmp_path: Path
) -> None:
    many = [
        *FIRST_BOXES,
        *(tuple(np.add(box, 3)) for box in FIRST_BOXES),
        *(tuple(np.add(box, -4)) for box in FIRST_BOXES),
    ]
    arguments = [word for box in many for word in ("--box", *map(str, box))]
    wanted = list(model.stream(clip, boxes=many))  # nine: more than a fixed file takes at once
    done = track(kits[name].folder, str(clip), *arguments, "--json", "--save", str(tmp_path / "out.avi"), *CPU)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["index"] for row in rows] == list(range(FRAMES)) and len(wanted) == FRAMES
    for row, result in zip(rows, wanted, strict=True):
        assert [one["id"] for one in row["objects"]] == result.ids.tolist()
        np.testing.assert_allclose([one["box"] for one in row["objects"]], result.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose([one["score"] for one in row["objects"]], result.scores, atol=1e-3)
        assert [one["lost"] for one in row["objects"]] == result.lost.tolist()
    drawn, plain = (next(iter(pictures(path))) for path in (tmp_path / "out.avi", clip))
    assert drawn.shape == plain.shape and np.abs(drawn.astype(int) - plain).max() > 100


def pictures(path: Path) -> Iterator[np.ndarray]:
    with open_source(path) as source:
        yield from (frame.image for frame in source)


def test_boxes_may_be_given_by_corner_and_size_and_people_are_told_who_is_there(
    kits: dict[str, KitReport], clip: Path
) -> None:
    x1, y1, x2, y2 = FIRST_BOXES[0]
    done = track(kits["onnx"].folder, str(clip), "--box-xywh", *map(str, (x1, y1, x2 - x1, y2 - y1)), *CPU)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "    0.00 s  1", done.stderr
    assert f"{FRAMES} frames, " in done.stderr


def test_a_kit_checks_itself_and_needs_neither_this_package_nor_pytorch_nor_opencv(kits: dict[str, KitReport]) -> None:
    program = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name.partition('.')[0] in ('effvision', 'torch', 'tqdm', 'cv2'):\n"
        "            raise ImportError('not on a board: ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.path.insert(0, '.')\n"
        "sys.argv = ['track.py', '--check', '--provider', 'cpu']\n"
        "runpy.run_path('track.py', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=kits["jp51"].folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "verified on CPUExecutionProvider" in done.stderr, done.stderr
    assert "crops: 0.0e+00 grey levels" in done.stderr


def test_python_3_8_runs_it(kits: dict[str, KitReport]) -> None:
    python = shutil.which("python3.8")
    needed = "import numpy, onnxruntime"
    works = python and subprocess.run([python, "-c", needed], capture_output=True, check=False).returncode == 0
    if not works:
        pytest.skip(
            "there is no Python 3.8 with numpy and onnxruntime here: its syntax was checked when the kit was written"
        )
    done = track(kits["onnx"].folder, "--check", python=str(python))
    assert done.returncode == 0 and "verified on" in done.stderr, done.stderr


def test_a_camera_that_came_back_starts_anew_and_another_size_is_refused(kits: dict[str, KitReport]) -> None:
    program = (
        "import numpy as np\n"
        "from session import KitError\n"
        "from track import Follower, Network\n"
        "frames = np.random.RandomState(0).randint(0, 256, (4, 90, 120, 3)).astype(np.uint8)\n"
        "follower = Follower(Network('model.onnx', 'cpu'), [[30, 20, 60, 70]])\n"
        "found = [follower.update(frame, 0.0, source)[0] for frame, source in zip(frames, (1, 1, 2, 2))]\n"
        "assert [one['reset_reason'] for one in found] == [None, None, 'source', None]\n"
        "assert found[2]['objects'] == found[0]['objects'] and found[1]['objects'][0]['box'] != [30, 20, 60, 70]\n"
        "try:\n"
        "    follower.update(frames[0][:80], 0.0, 2)\n"
        "except KitError as error:\n"
        "    assert 'changed their size' in str(error)\n"
        "else:\n"
        "    raise SystemExit('nothing was said')\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=kits["onnx"].folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bench_prints_milliseconds(kits: dict[str, KitReport]) -> None:
    done = track(kits["onnx"].folder, "--bench", "3", *CPU)
    assert done.returncode == 0 and done.stdout.count(" p50 ") == 2, done.stderr


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give a source"),
        (["CLIP"], 2, "give --box"),
        (["CLIP", "--check", *BOXES], 2, "give a source, or --check"),
        (["--bench", "0"], 2, "1 or more"),
        (["CLIP", "--box", "1", "2", "3", "x"], 2, "invalid float"),
        (["CLIP", "--box", "60", "50", "20", "90"], 1, "x1 < x2"),
        (["CLIP", "--box", "900", "50", "990", "90"], 1, "lies outside the frame"),
        (["CLIP", *BOXES, "--save", "CLIP"], 1, "would write over"),
        (["absent.mp4", *BOXES], 1, "there is no file"),
        (["--check", "--golden", "model.json"], 1, "is damaged"),
        (["--check", "--provider", "cuda"], 1, "has no cuda"),
    ],
)
def test_wrong_use_is_told_in_words(
    kits: dict[str, KitReport], clip: Path, arguments: list[str], code: int, said: str
) -> None:
    given = [str(clip) if word == "CLIP" else word for word in arguments]
    done = track(kits["onnx"].folder, *given)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_wrong_weights_and_wrong_numbers_do_not_verify(kits: dict[str, KitReport], tmp_path: Path) -> None:
    with np.load(kits["onnx"].folder / "golden.npz", allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    wrong = {
        "BAD  network": {"out_offsets": golden["out_offsets"] * 1.01},  # small beside the other outputs
        "BAD  boxes": {"boxes": golden["boxes"] + 3},
        "recorded from other weights": {"weights": np.array("others")},
    }
    for words, changed in wrong.items():
        np.savez(tmp_path / "golden.npz", **{**golden, **changed})
        done = track(kits["onnx"].folder, "--check", "--golden", str(tmp_path / "golden.npz"), *CPU)
        assert done.returncode == 1 and words in done.stderr, done.stderr


def test_what_a_kit_cannot_be_is_refused_and_leaves_nothing(
    model: PatchNet, kits: dict[str, KitReport], ready_export: None, tmp_path: Path
) -> None:
    for options, words in (
        ({"target": "jetson-nano"}, r"tracking need Python 3\.8, and JetPack 4\.6 has 3\.6\nhint: .*--opset 13"),
        ({"target": "jp51", "int8": "tensorrt"}, "no int8 of tracking"),
        ({"target": "jp51", "half": True}, "sums of squares go beyond float16"),
        ({"target": "jp51", "frames": []}, "gave no frame"),
    ):
        with pytest.raises(InputError, match=words):
            model.export_kit(folder=tmp_path / "kit", **options)  # type: ignore[arg-type]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").write_text("mine")
    with pytest.raises(SourceError, match=r"holds mine\.txt"):
        model.export_kit("onnx", tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    again = shutil.copytree(kits["onnx"].folder, tmp_path / "kit")
    assert model.export_kit("onnx", again).folder == again  # an earlier kit is replaced


def test_a_kit_whose_numbers_are_wrong_never_appears(
    model: PatchNet, ready_export: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = kit_tracking._golden

    def golden(*given: Any) -> dict[str, np.ndarray]:
        found = right(*given)
        return {**found, "track": found["track"] + 1}

    monkeypatch.setattr(kit_tracking, "_golden", golden)
    with pytest.raises(ExportError, match=r"own check failed: .*BAD  boxes"):
        model.export_kit("onnx", tmp_path / "kit")
    assert not list(tmp_path.iterdir())
