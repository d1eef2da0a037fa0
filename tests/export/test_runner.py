"""A kit's programs: they suit an old Python, compute what effvision computes, and say which hardware is really used."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision.host.image import resize_crop
from effvision.models.tsm.clock import FrameClock
from effvision.models.tsm.smoothing import JESTER_DEMO, Smoothing
from kits import C_CUDART, Cudart, call_kit, loaded, small_model, tensorrt
from waiting import wait_until

FILES = Path(__file__).resolve().parents[2] / "effvision" / "export" / "kit_files"
PROGRAMS = sorted(FILES.glob("*.py"))
EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model().export_kit("jp62", tmp_path_factory.mktemp("kit") / "kit").folder


@pytest.fixture(scope="module")
def programs(kit: Path) -> Iterator[SimpleNamespace]:
    with loaded(kit) as modules:
        yield modules


# --- an old Python ------------------------------------------------------------------------------------------------------------

# What came after Python 3.6, numpy 1.13, ONNX Runtime 1.11 and OpenCV 4.1: names after a dot or imported, and keywords.
TOO_NEW = {
    # Python
    "removeprefix", "removesuffix", "nullcontext", "cache", "cached_property", "perf_counter_ns", "time_ns", "monotonic_ns",
    "reconfigure", "fromisoformat", "isqrt", "dist", "comb", "dataclass", "annotations", "readlink", "is_relative_to",
    "with_stem", "randbytes", "singledispatchmethod", "bit_count", "excepthook", "get_native_id",
    # numpy
    "default_rng", "take_along_axis", "put_along_axis", "quantile", "nanquantile", "broadcast_shapes", "from_dlpack",
    "sliding_window_view", "concat", "permute_dims", "isdtype", "matrix_transpose", "trapezoid", "cumulative_sum",
    # onnxruntime
    "preload_dlls", "get_ep_devices", "register_execution_provider_library", "set_provider_selection_policy",
    "OrtEpDevice", "LoraAdapter",
    # OpenCV
    "videoio_registry", "CAP_PROP_ORIENTATION_AUTO", "CAP_PROP_N_THREADS", "CAP_PROP_OPEN_TIMEOUT_MSEC",
    "CAP_PROP_READ_TIMEOUT_MSEC", "setLogLevel", "imcount", "INTER_NEAREST_EXACT",
}  # fmt: skip
TOO_NEW_KEYWORDS = {"capture_output", "dirs_exist_ok", "missing_ok", "strict", "exit_on_error", "slots", "kw_only"}
LIBRARIES = {"numpy", "onnxruntime", "cv2", "tensorrt", *(path.stem for path in PROGRAMS)}
LIBRARIES |= {"tritonclient.grpc", "tritonclient.utils"}
LIBRARIES |= {"points", "tracking"}  # modules of ours in kits for clouds and for tracking, of Python 3.8
STANDARD = {
    "argparse",
    "contextlib",
    "ctypes",
    "functools",
    "hashlib",
    "json",
    "os",
    "random",
    "re",
    "sys",
    "threading",
    "time",
}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_programs_are_written_for_python_3_6(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text, feature_version=(3, 6))
    assert not re.search(r"\{[^{}\"']*[^=!<>{}]=\}", text), "f'{x=}' is of Python 3.8"
    for node in ast.walk(tree):
        names: set[str] = set()
        if isinstance(node, ast.Attribute):
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom):
            names = {item.name for item in node.names}
            assert node.module != "__future__" and node.level == 0
            assert node.module in STANDARD | LIBRARIES
        elif isinstance(node, ast.Import):
            assert {item.name for item in node.names} <= STANDARD | LIBRARIES
        elif isinstance(node, ast.Call):
            assert not {keyword.arg for keyword in node.keywords} & TOO_NEW_KEYWORDS, ast.unparse(node)
        elif isinstance(node, (ast.NamedExpr, ast.AnnAssign, ast.AsyncFunctionDef)):
            pytest.fail(f"line {node.lineno}: {ast.unparse(node)}")
        assert not names & TOO_NEW, f"line {getattr(node, 'lineno', '?')}: {names & TOO_NEW}"


def test_the_programs_pass_vermin() -> None:
    """A tool that knows when each name of the standard library came; `pip install vermin`."""
    if find_spec("vermin") is None:
        pytest.skip("vermin is not installed: the syntax was checked by Python's own parser and by a list of names")
    command = [sys.executable, "-c", "from vermin import main; main()", "--no-tips", "-t=3.6-", *map(str, PROGRAMS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_opencv_is_imported_where_it_is_used(kit: Path) -> None:
    """`--verify`, `--bench` and an engine work on a board whose OpenCV is broken."""
    program = "import sys; sys.modules['cv2'] = None; import runner; sys.exit(runner.main())"
    command = [sys.executable, "-B", "-c", program, "--verify", "golden.npz", "--provider", "cpu"]
    done = subprocess.run(command, cwd=kit, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the same numbers ---------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(
    height=st.integers(20, 200),
    width=st.integers(20, 200),
    short_side=st.one_of(st.none(), st.integers(16, 90)),
    size=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    seed=st.integers(0, 99),
)
def test_frames_are_resized_bit_for_bit_as_effvision_does(
    programs: SimpleNamespace, height: int, width: int, short_side: int | None, size: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mode = "stretch" if short_side is None else "center"
    wanted = resize_crop(image, short_side=short_side, size=size, mode=mode)
    np.testing.assert_array_equal(programs.stream.resize_crop(image, short_side, size), wanted)


@pytest.mark.parametrize(
    ("frame", "short_side", "size"),
    [
        ((480, 640), 96, (96, 96)),
        ((720, 1280), 256, (224, 224)),
        ((1280, 720), 256, (224, 224)),
        ((1080, 1920), 256, (224, 224)),
        ((97, 131), 256, (224, 224)),
        ((480, 641), None, (224, 224)),
    ],
)
def test_camera_frames_too(
    programs: SimpleNamespace, frame: tuple[int, int], short_side: int | None, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*frame, 3), dtype=np.uint8)
    mode = "stretch" if short_side is None else "center"
    wanted = resize_crop(image, short_side=short_side, size=size, mode=mode)
    np.testing.assert_array_equal(programs.stream.resize_crop(image, short_side, size), wanted)


def test_a_crop_larger_than_the_frame_is_an_error_in_words(programs: SimpleNamespace) -> None:
    with pytest.raises(programs.stream.KitError, match="cannot cut"):
        programs.stream.resize_crop(np.zeros((40, 50, 3), np.uint8), 20, (30, 30))


@st.composite
def rules(draw: st.DrawFn) -> Smoothing:
    threshold = draw(st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.99]))
    return Smoothing(
        window=draw(st.integers(1, 5)),
        masked=draw(st.lists(st.integers(3, 5), max_size=3, unique=True).map(tuple)),
        merged=draw(st.dictionaries(st.integers(0, 5), st.integers(0, 2), max_size=2)),
        confirm=draw(st.booleans()),
        start=draw(st.one_of(st.none(), st.integers(0, 2))),
        threshold=threshold,
        rest=draw(st.one_of(st.none(), st.integers(0, 2))),
        hold=draw(st.sampled_from([None, 0.0, 0.6 * threshold, threshold])),
    )


@EXAMPLES
@given(rule=rules(), seed=st.integers(0, 999))
def test_labels_are_steadied_as_effvision_does(programs: SimpleNamespace, rule: Smoothing, seed: int) -> None:
    check_rule(programs, rule, np.random.default_rng(seed).normal(0, 1, (40, 6)).astype(np.float32))


def test_the_rule_of_the_reference_demo_too(programs: SimpleNamespace) -> None:
    check_rule(programs, JESTER_DEMO, np.random.default_rng(0).normal(0, 3, (200, 27)).astype(np.float32))


def check_rule(programs: SimpleNamespace, rule: Smoothing, logits: np.ndarray) -> None:
    """Through JSON, as the metadata carries it."""
    memory, mine = rule.begin(), programs.stream.Smoothing(json.loads(json.dumps(rule.to_dict())))
    for row in logits:
        chosen, mean = rule.update(row, memory)
        got, averaged = mine.update(row)
        assert got == chosen
        np.testing.assert_array_equal(averaged, mean)


def test_every_field_of_the_rule_is_known_and_a_newer_one_is_refused(programs: SimpleNamespace) -> None:
    programs.stream.Smoothing(Smoothing().to_dict())
    with pytest.raises(programs.stream.KitError, match="older than the model"):
        programs.stream.Smoothing({"window": 3, "momentum": 0.5})


@EXAMPLES
@given(
    fps=st.one_of(st.none(), st.sampled_from([5.0, 10.0, 12.0, 30.0])),
    steps=st.lists(st.sampled_from([0.0, 0.016, 0.033, 0.04, 0.1, 0.5, 3.0, -0.01, -2.0]), min_size=1, max_size=60),
)
def test_frames_are_chosen_by_their_times_as_effvision_does(
    programs: SimpleNamespace, fps: float | None, steps: list[float]
) -> None:
    def fresh() -> FrameClock:
        period = None if fps is None else 1 / fps
        return FrameClock(period, max(1.0, 4 * (period or 0.0)))

    theirs, mine, now = fresh(), programs.stream.FrameClock(fps), 0.0
    for step in steps:
        now += step
        assert mine.interruption(now) == theirs.interruption(now)
        if theirs.interruption(now):
            theirs, mine = fresh(), programs.stream.FrameClock(fps)
        assert mine.tick(now) == theirs.tick(now)


class Counting:
    """A network that counts: its state is in its answer."""

    def __init__(self) -> None:
        self.steps = self.resets = 0
        self.block = {
            "labels": ["a", "b"],
            "preprocess": {"size": [4, 4], "short_side": None},
            "options": {"fps": 10.0, "settle": 1, "smoothing": {"window": 2}},
        }

    def reset(self) -> None:
        self.steps, self.resets = 0, self.resets + 1

    def step(self, pixels: np.ndarray) -> np.ndarray:
        self.steps += 1
        return np.array([[0.0, self.steps]], np.float32)


def test_a_gap_a_jump_back_and_another_source_begin_anew(programs: SimpleNamespace) -> None:
    network = Counting()
    stream, frame = programs.stream.Stream(network), np.zeros((8, 8, 3), np.uint8)
    told = [
        (answer["reset_reason"], answer["index"], answer["fresh"], answer["settled"])
        for when, source in ((0.0, 1), (0.02, 1), (0.1, 1), (0.2, 1), (5.0, 1), (5.1, 2), (1.0, 2))
        for answer in [stream.update(frame, when, source)]
    ]
    assert told == [
        (None, 0, True, False),
        (None, 1, False, False),
        (None, 2, True, True),
        (None, 3, True, True),
        ("gap", 0, True, False),
        ("source", 0, True, False),
        ("seek", 0, True, False),
    ]
    assert network.resets == 4


# --- which hardware -----------------------------------------------------------------------------------------------------------

TRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


def onnxruntime(kit: Path, offered: list[str], started: list[str]) -> Any:
    """A stand-in whose sessions say they run on `started`; it keeps how it was asked."""
    import onnxruntime as real

    asked: list[Any] = []

    def open_session(path: str, options: Any, providers: list[Any]) -> Any:
        asked.append(providers)
        session = real.InferenceSession(path, providers=[CPU])
        return SimpleNamespace(get_modelmeta=session.get_modelmeta, run=session.run, get_providers=lambda: started)

    module = ModuleType("onnxruntime")
    vars(module).update(
        __version__="1.23.0",
        asked=asked,
        get_available_providers=lambda: offered,
        SessionOptions=SimpleNamespace,
        InferenceSession=open_session,
    )
    return module


def run_with(kit: Path, module: Any, *arguments: str) -> int:
    with loaded(kit, onnxruntime=module) as programs:
        return int(programs.runner.main(["--verify", str(kit / "golden.npz"), *arguments]))


def test_providers_are_asked_for_in_order_and_the_one_used_is_printed(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(kit, tmp_path / "kit")
    module = onnxruntime(folder, [CPU, TRT, CUDA], [TRT, CUDA, CPU])
    assert run_with(folder, module) == 0
    ((name, options), *others) = module.asked[0]
    assert (name, *others) == (TRT, CUDA, CPU)
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    cache = str(
        folder / "engine_cache" / digest[:12]
    )  # ONNX Runtime would take an engine of other weights for this one's
    switches = {"trt_engine_cache_enable": "True", "trt_fp16_enable": "True", "trt_int8_enable": "False"}
    assert options == {**switches, "trt_engine_cache_path": cache}
    assert Path(cache).is_dir()
    told = capsys.readouterr().err
    assert f"onnxruntime 1.23.0 offers: {CPU}, {TRT}, {CUDA}" in told and f"used: {TRT}" in told
    assert "WARNING" not in told and "fp16)" in told and f"verified on {TRT}" in told
    assert run_with(folder, module, "--fp32", "--provider", "tensorrt") == 0
    assert module.asked[1][0][1]["trt_fp16_enable"] == "False"
    assert run_with(folder, onnxruntime(folder, [TRT, CUDA, CPU], [CUDA, CPU]), "--provider", "cuda") == 0


def test_falling_back_to_the_cpu_is_said_loudly(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(kit, onnxruntime(kit, [CUDA, CPU], [CPU])) == 0
    told = capsys.readouterr().err
    assert "WARNING: running on the CPU" in told and "*" * 40 in told and f"used: {CPU}" in told and "fp32)" in told
    assert run_with(kit, onnxruntime(kit, [CPU], [CPU]), "--provider", "cpu") == 0
    assert "WARNING" not in capsys.readouterr().err


def test_falling_back_from_tensorrt_to_cuda_is_said(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(kit, tmp_path / "kit")
    assert run_with(folder, onnxruntime(folder, [TRT, CUDA, CPU], [CUDA, CPU])) == 0
    assert f"WARNING: {TRT} is offered but could not be started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("offered", "started", "said"),
    [([CPU], [CPU], "has no cuda"), ([CUDA, CPU], [CPU], "cuda was asked for and could not be started")],
)
def test_a_provider_asked_for_is_had_or_it_is_an_error(
    kit: Path, offered: list[str], started: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(kit, onnxruntime(kit, offered, started), "--provider", "cuda") == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--source", "0", "--verify", "golden.npz"],
        ["--bench", "0"],
        ["--provider", "npu", "--bench", "1"],
        ["--engine", "model.engine", "--provider", "cuda", "--bench", "1"],
    ],
)
def test_wrong_use_is_two(kit: Path, arguments: list[str]) -> None:
    assert call_kit(kit, *arguments).returncode == 2


def test_bench_prints_milliseconds_and_a_model_of_another_kind_is_refused(kit: Path, tmp_path: Path) -> None:
    done = call_kit(kit, "--bench", "5", "--provider", "cpu")
    assert done.returncode == 0 and re.search(r"prepare_ms +p50 .*\nrun_ms +p50", done.stdout)
    block = json.loads((kit / "model.json").read_text("utf-8"))["effvision"]
    with loaded(kit) as programs, pytest.raises(programs.stream.KitError, match="its own kit"):
        programs.runner.read_block(json.dumps({**block, "schema": 2}), "model.onnx")
    with loaded(kit) as programs, pytest.raises(programs.stream.KitError, match="damaged"):
        programs.runner.read_block('{"schema": 1}', "model.onnx")


# --- frames -------------------------------------------------------------------------------------------------------------------


class Capture:
    """A camera that gives `count` numbered pictures, one every 10 ms, and then fails."""

    def __init__(self, count: int, level: int) -> None:
        self.left, self.level = count, level

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.01)
        self.left -= 1
        return (True, np.full((8, 8, 3), self.level, np.uint8)) if self.left >= 0 else (False, None)

    def get(self, prop: int) -> float:
        return 30.0

    def release(self) -> None:
        pass


def opencv(captures: list[Any], opened: list[Any], *, gstreamer: str = "YES (1.20)") -> Any:
    module = types.ModuleType("cv2")

    def capture(what: Any, backend: Any = None) -> Any:
        opened.append((what, backend))
        return captures.pop(0) if captures else SimpleNamespace(isOpened=lambda: False)

    vars(module).update(
        __file__="/usr/lib/cv2.so", __version__="4.1.1", CAP_GSTREAMER=1800, CAP_V4L2=200, CAP_ANY=0, CAP_PROP_FPS=5,
        VideoCapture=capture, getBuildInformation=lambda: f"  GStreamer:                   {gstreamer}\n",
    )  # fmt: skip
    return module


class Stack:
    """Keeps what is to be closed."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def callback(self, function: Any) -> None:
        self.callbacks.append(function)


def test_a_camera_gives_its_newest_picture_and_is_opened_again_when_it_is_lost(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []
    with loaded(kit, cv2=opencv([Capture(30, 1), Capture(1000, 2)], opened)) as programs:
        stack = Stack()
        live, fps, frames = programs.video.frames_of("csi://1?width=640&height=480&flip=2", stack)
        assert live and fps == 30.0
        camera, seen = frames, []
        for picture, seconds, source in camera:
            seen.append((int(picture[0, 0, 0]), source, seconds))
            time.sleep(0.05)
            if source > 1 and len([item for item in seen if item[1] == source]) >= 3:
                break
        stack.callbacks[0]()
        wait_until(lambda: not camera.thread.is_alive())
    assert "sensor-id=1" in opened[0][0] and "width=640, height=480, framerate=30/1" in opened[0][0]
    assert "flip-method=2" in opened[0][0] and opened[0][1] == 1800 and len(opened) == 2
    assert {level for level, _, _ in seen} == {1, 2} and len({source for _, source, _ in seen}) == 2
    assert [seconds for *_, seconds in seen] == sorted(seconds for *_, seconds in seen)
    assert camera.dropped > 5, "a slow reader has to miss pictures"
    assert "was lost; trying again in 0.5 s" in capsys.readouterr().err


def test_a_camera_that_stays_silent_is_given_up(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(kit, cv2=opencv([Capture(0, 1)], [])) as programs:
        monkeypatch.setattr(programs.video, "RETRY_S", 0.2)
        stack = Stack()
        _, _, frames = programs.video.frames_of("rtsp://camera", stack)
        with pytest.raises(programs.stream.KitError, match="gave no frame for 0 s"):  # 0.2 s, rounded
            next(iter(frames))
        stack.callbacks[0]()


def test_a_csi_camera_needs_jetpacks_opencv_and_says_so(kit: Path) -> None:
    with loaded(kit, cv2=opencv([], [], gstreamer="NO")) as programs:
        with pytest.raises(programs.stream.KitError, match=r"use JetPack's.*`pip uninstall opencv-python`"):
            programs.video.open_capture("csi://0")
        for wrong in ("csi://", "csi://a", "csi://0?exposure=3", "csi://0?width=-1"):
            with pytest.raises(programs.stream.KitError, match="should look like"):
                programs.video.csi_pipeline(wrong)


def test_numbers_name_cameras_and_the_rest_is_told_apart(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    given = ["0", "rtsp://host/1", "/dev/video2", "videotestsrc ! appsink", "clip.mp4"]
    with loaded(kit, cv2=opencv([Capture(1, 0) for _ in given], opened)) as programs:
        assert [programs.video.open_capture(text)[1] for text in given] == [True, True, True, True, False]
        with pytest.raises(programs.stream.KitError, match=r"no file absent\.mp4"):
            programs.video.open_capture("absent.mp4")
        with pytest.raises(programs.stream.KitError, match="camera 7 could not be opened"):
            programs.video.open_capture("7")
    assert [what for what, _ in opened] == [0, *given[1:], 7] and opened[0][1] in (0, 200)


def test_a_recording_of_a_camera_takes_as_long_as_it_did(kit: Path, tmp_path: Path) -> None:
    import cv2

    picture = np.zeros((48, 64, 3), np.uint8)
    with loaded(kit) as programs:
        recording = programs.video.Recording(str(tmp_path / "out.avi"), 10.0, True)
        for seconds in (3.0, 3.1, 3.9, 4.0):  # slow in between
            recording.add(programs.video.draw(picture, {"label": "left", "score": 0.9, "settled": True}), seconds)
        assert not (tmp_path / "out.avi").exists()
        recording.close()
        with pytest.raises(programs.stream.KitError, match=r"writes \.mp4 or \.avi"):
            programs.video.Recording("out.gif", 10.0, True)
    capture = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 11
    assert capture.read()[1].max() > 100, "nothing was drawn"
    capture.release()


def test_a_file_that_holds_no_frame_and_labels_no_terminal_can_show(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    done = call_kit(kit, "--source", str(tmp_path / "clip.mp4"), "--provider", "cpu")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    with loaded(kit) as programs:
        stream = SimpleNamespace(encoding="ascii", written=[], flush=lambda: None)
        stream.write = stream.written.append
        programs.session.write(stream, "\u00fcber")
    assert stream.written == ["?ber\n"]


# --- TensorRT without ONNX Runtime --------------------------------------------------------------------------------------------


def compiled_cudart(folder: Path) -> Any:
    """The stand-in in C: what the prototypes in `tensorrt_engine.py` are wrong about, a compiler's ABI shows."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: the prototypes of CUDA's functions were not tried")
    (folder / "cudart.c").write_text(C_CUDART)
    library = folder / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "cudart.c")], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("cudart", ["python", "c"])
@pytest.mark.parametrize(
    ("version", "api"),
    [("8.2.1.8", "numbered"), ("8.4.1", "numbered"), ("8.5.2", "named"), ("8.6.2", "named"), ("10.3.0", "named")],
)
def test_an_engine_gives_the_golden_numbers_through_both_interfaces(
    kit: Path, version: str, api: str, cudart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    library = Cudart() if cudart == "python" else compiled_cudart(tmp_path)
    (tmp_path / "model.engine").write_bytes(b"engine")
    with loaded(kit, tensorrt=tensorrt(kit / "model.onnx", version), onnxruntime=None) as programs:
        monkeypatch.setattr(programs.tensorrt_engine.ctypes, "CDLL", lambda name: library)
        engine = str(tmp_path / "model.engine")
        assert programs.runner.main(["--verify", str(kit / "golden.npz"), "--engine", engine]) == 0
    told = capsys.readouterr().err
    assert f"used: TensorRT {version} directly ({api}" in told and "20 steps, 1 reset" in told and "verified on" in told


@pytest.mark.parametrize(
    ("version", "options", "failing", "said"),
    [
        ("10.3.0", {"refuses": True}, "", "refused to run"),
        ("8.2.1", {"refuses": True}, "", "refused to run"),
        ("10.3.0", {"dtype": "float16"}, "", "other numbers than float32"),
        ("8.2.1", {}, "Malloc", "cudaMalloc failed: out of memory (CUDA error 2)"),
    ],
)
def test_an_engine_that_cannot_run_is_an_error_in_words(
    kit: Path, version: str, options: dict[str, Any], failing: str, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "model.engine").write_bytes(b"engine")
    with loaded(kit, tensorrt=tensorrt(kit / "model.onnx", version, **options)) as programs:
        monkeypatch.setattr(programs.tensorrt_engine.ctypes, "CDLL", lambda name: Cudart(fails=failing))
        assert programs.runner.main(["--bench", "1", "--engine", str(tmp_path / "model.engine")]) == 1
    assert said in capsys.readouterr().err


def test_what_an_engine_needs_is_named_when_it_is_absent(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(engine: str, **stand_ins: Any) -> str:
        with loaded(kit, **stand_ins) as programs:
            monkeypatch.setattr(programs.tensorrt_engine.ctypes, "CDLL", no_library)
            assert programs.runner.main(["--bench", "1", "--engine", engine]) == 1
        return str(capsys.readouterr().err)

    def no_library(name: str) -> None:
        raise OSError(name)

    good, empty = tmp_path / "model.engine", tmp_path / "empty.engine"
    good.write_bytes(b"engine")
    empty.touch()
    there = tensorrt(kit / "model.onnx", "10.3.0")
    assert "python3-libnvinfer" in run(str(good), tensorrt=None)
    assert "No such file" in run("absent.engine", tensorrt=there)
    assert "make it again on this machine" in run(str(empty), tensorrt=there)
    assert "LD_LIBRARY_PATH" in run(str(good), tensorrt=there)


def test_an_engine_of_another_model_is_refused(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(kit, tmp_path / "kit")
    described = json.loads((folder / "model.json").read_text("utf-8"))
    described["effvision"]["graphs"]["step"]["states"][0]["shape"][0] += 1
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "model.engine").write_bytes(b"engine")
    with loaded(folder, tensorrt=tensorrt(kit / "model.onnx", "10.3.0")) as programs:
        monkeypatch.setattr(programs.tensorrt_engine.ctypes, "CDLL", lambda name: Cudart())
        assert programs.runner.main(["--bench", "1", "--engine", str(folder / "model.engine")]) == 1
        assert "made from another model" in capsys.readouterr().err
        (folder / "model.engine.from").write_text("0" * 64 + "\n")  # left by build_engine.sh, of yesterday's kit
        assert programs.runner.main(["--bench", "1", "--engine", str(folder / "model.engine")]) == 1
    assert "built from another model.onnx" in capsys.readouterr().err


def test_no_thread_is_left_behind() -> None:
    def of_a_kit(thread: threading.Thread) -> bool:
        return getattr(getattr(thread, "_target", None), "__module__", "") == "video"

    wait_until(lambda: not [thread for thread in threading.enumerate() if of_a_kit(thread)])
