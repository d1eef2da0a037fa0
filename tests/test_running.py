"""`effvision run` over several sources, with a window, saving, and stopped by Ctrl-C."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from effvision import running
from effvision.cli import main
from effvision.errors import RuntimeFailure, SourceError
from effvision.results import Classification
from effvision.sources import Source, VideoWriter, open_source
from waiting import best_of_three, wait_until

_spec = importlib.util.spec_from_file_location("run_servers", Path(__file__).parent / "sources" / "servers.py")
assert _spec is not None and _spec.loader is not None
servers: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(servers)

CARD = "tsm-mobilenetv2-motion"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="runs the bundled ONNX file")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy, no screen, and no thread that outlives its run."""
    for name in ("http_proxy", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "-8")  # `run` sets it; monkeypatch takes it back
    monkeypatch.setenv("QT_LOGGING_RULES", "default.warning=false")
    before = running_threads()
    yield
    wait_until(lambda: running_threads() <= before)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two videos: 24 frames at 12 a second, 10 frames at 24 a second; their channels differ."""
    folder = tmp_path_factory.mktemp("clips")
    return str(write(folder / "a.mp4", 24, 12)), str(write(folder / "b.avi", 10, 24))


def running_threads() -> set[threading.Thread]:
    """All but the one with which tqdm looks after its bars."""
    return {thread for thread in threading.enumerate() if type(thread).__name__ != "TMonitor"}


def write(path: Path, frames: int, fps: float) -> Path:
    with VideoWriter(path, fps=fps, size=(96, 128)) as video:
        for index in range(frames):
            picture = np.full((96, 128, 3), (200, 90, 10), np.uint8)
            picture[:, 4 * index : 4 * index + 20] = 255
            video.write(picture)
    return path


def count(path: Path) -> int:
    """Frames OpenCV reads back, which is what a player would show."""
    capture, frames = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    return frames


def numbers(text: str) -> int:
    """Frames of the line that sums a run up."""
    return int(next(line for line in text.splitlines() if "steps of the network" in line).split()[0])


# -- several sources -----------------------------------------------------------------------------------------------------


def test_lines_of_several_sources_carry_their_names(clips: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", CARD, *clips]) == 0
    told = capsys.readouterr()
    starts = {line[: running._NAME_WIDTH] for line in told.out.splitlines()}
    assert {start.strip()[-5:] for start in starts} == {"a.mp4", "b.avi"}
    assert numbers(told.err) == 34 and "dropped" not in told.err


def test_with_json_every_line_says_its_source_and_one_source_alone_does_not(
    clips: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", CARD, *clips, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for clip, frames in zip(clips, (24, 10), strict=True):
        assert [line["index"] for line in lines if line["source"] == clip] == list(range(frames))
    assert main(["run", CARD, clips[1], "--json"]) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    together = [line for line in lines if line["source"] == clips[1]]
    assert [line["label"] for line in alone] == [line["label"] for line in together]
    assert all("source" not in line for line in alone)


def test_save_writes_a_video_of_each_source_into_a_folder(
    clips: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", CARD, *clips, "--save", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-a.mp4", "2-b.mp4"]
    assert [count(tmp_path / name) for name in ("1-a.mp4", "2-b.mp4")] == [24, 10]
    for name, fps in (("1-a.mp4", 12), ("2-b.mp4", 24)):
        assert f"wrote {tmp_path / name}\n" in told
        with open_source(tmp_path / name) as video:
            assert video.fps == pytest.approx(fps, rel=0.01)
            assert next(iter(video)).image[-4, -4].tolist() == pytest.approx([200, 90, 10], abs=12)


def test_the_same_source_twice_makes_two_files(clips: Any, tmp_path: Path) -> None:
    assert main(["run", CARD, clips[1], clips[1], "--save", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-b.mp4", "2-b.mp4"]


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "absent/"])
def test_one_file_for_two_sources_is_wrong_use_and_told_before_the_model_loads(
    clips: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("effvision.cli._load", lambda options: pytest.fail("the model was loaded"))
    assert main(["run", CARD, *clips, "--save", str(tmp_path / name)]) == 2
    assert "takes a folder that exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_cannot_be_opened_ends_the_run_at_once_and_the_others_are_closed(
    clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = []
    monkeypatch.setattr(Source, "close", lambda self: closed.append(self.name))
    assert main(["run", CARD, *clips, str(tmp_path / "absent.mp4"), "--save", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "absent.mp4 does not exist" in told.err and told.out == ""
    assert set(clips) <= set(closed) and list(tmp_path.iterdir()) == []


def test_a_source_that_fails_later_costs_the_exit_code_and_nothing_else(
    clips: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, out = tmp_path / "cut.avi", tmp_path / "out"
    whole = write(tmp_path / "whole.avi", 40, 12).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    out.mkdir()
    assert main(["run", CARD, str(cut), clips[0], "--save", str(out), "--json"]) == 1
    told = capsys.readouterr()
    lines = [json.loads(line)["source"] for line in told.out.splitlines()]
    assert lines.count(clips[0]) == 24 and 5 < lines.count(str(cut)) < 40
    assert told.err.count("effvision: ") == 1 and "cut short" in told.err
    assert numbers(told.err) == len(lines)
    assert count(out / "1-cut.mp4") == lines.count(str(cut)) and count(out / "2-a.mp4") == 24


def test_a_file_that_cannot_be_finished_does_not_cost_the_others(
    clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    close = VideoWriter.close

    def full(self: VideoWriter) -> None:
        if self.path.name.startswith("1-"):
            self.discard()
            raise SourceError(f"{self.path} could not be finished: no space left on device")
        close(self)

    monkeypatch.setattr(VideoWriter, "close", full)
    assert main(["run", CARD, *clips, "--save", str(tmp_path)]) == 1
    assert "no space left" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["2-b.mp4"] and count(tmp_path / "2-b.mp4") == 10


@pytest.mark.parametrize("error", [RuntimeFailure("no memory left on the device"), BrokenPipeError()], ids=type)
def test_a_model_that_fails_or_a_reader_that_leaves_keeps_what_was_saved(
    clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shown: list[int] = []

    def show(self: Any, place: int, result: Any, **_: Any) -> None:
        shown.append(place)
        if len(shown) == 7:
            raise error

    monkeypatch.setattr(running._Tally, "show", show)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `main` replaces it where a pipe breaks
    assert main(["run", CARD, clips[0], "--save", str(tmp_path / "out.mp4")]) == 1
    assert count(tmp_path / "out.mp4") == 7
    if isinstance(error, BrokenPipeError):
        sys.stdout.close()


def test_pictures_of_different_sizes_become_a_video_of_one_size(clips: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(96, 128), (48, 64), (200, 100)]):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), np.full((*size, 3), 90, np.uint8))
    assert main(["run", CARD, str(tmp_path / "in"), "--save", str(tmp_path / "out.avi")]) == 0
    with open_source(tmp_path / "out.avi") as video:
        assert [frame.image.shape for frame in video] == [(96, 128, 3)] * 3


# -- names ---------------------------------------------------------------------------------------------------------------


def test_digits_are_a_camera_unless_there_is_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [running.as_source(text) for text in ("0", "12", "-1", "1234", "0.mp4", "rtsp://a/1")] == [
        0,
        12,
        "-1",
        "1234",
        "0.mp4",
        "rtsp://a/1",
    ]
    (tmp_path / "0").write_bytes(b"x")
    assert running.as_source("0") == "0" and running.as_source("1") == 1


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("clips/Day one.mp4", "Day-one"),
        ("camera 0", "camera-0"),
        ("rtsp://admin:***@10.0.0.7:554/live?a=1", "admin-10.0.0.7-554-live-a-1"),
        ("clips/*.mp4", "source"),
        ("../..", "source"),
        ("x" * 200 + ".mp4", "x" * 60),
    ],
)
def test_a_name_becomes_a_file_name(name: str, plain: str) -> None:
    assert running._plain_name(name) == plain


# -- Ctrl-C --------------------------------------------------------------------------------------------------------------


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "effvision", "run", CARD, *arguments, "--threads", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def read(process: subprocess.Popen[str], lines: int) -> None:
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline(), process.communicate()[1]


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_ctrl_c_ends_a_camera_without_failure_and_its_file_plays_as_long_as_it_ran(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    with servers.MjpegServer(fps=50) as server:
        process = started(server.address, "--json", "--save", str(out))
        read(process, 20)
        process.send_signal(signal.SIGSTOP)  # what the network holds meanwhile comes all at once
        time.sleep(0.6)
        process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        read(process, 60)
        took = time.monotonic() - began + 0.6
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert f"wrote {out}\n" in told and "Traceback" not in told and "ms after the frame came" in told
    assert f"{server.address}: " in told and "frames dropped to keep up" in told
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with open_source(out) as video:
        assert len(list(video)) / (video.fps or 0.0) > 0.7 * took


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_ctrl_c_ends_two_cameras_one_of_them_silent(tmp_path: Path) -> None:
    with servers.MjpegServer() as one, servers.MjpegServer() as other:
        process = started(one.address, other.address, "--json", "--save", str(tmp_path))
        read(process, 10)
        other.frozen.set()
        read(process, 10)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert told.count("wrote ") == 2 and "Traceback" not in told
    assert all(count(path) > 0 for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("sources", [1, 2])
def test_ctrl_c_on_a_recording_is_a_job_that_was_not_done_and_what_was_saved_plays(
    tmp_path: Path, sources: int
) -> None:
    clip = write(tmp_path / "long.mp4", 3000, 30)

    def interrupt() -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        out = folder / "out.mp4" if sources == 1 else folder
        process = started(*[str(clip)] * sources, "--json", "--save", str(out))
        read(process, 30)
        process.send_signal(signal.SIGINT)
        lines, told = process.communicate(timeout=120)
        assert process.returncode == 1, told
        assert "up to there" in told and told.endswith("stopped\n") and "Traceback" not in told
        files = sorted(folder.iterdir())
        assert len(files) == sources and abs(sum(map(count, files)) - 30 - len(lines.splitlines())) <= 1

    best_of_three(interrupt)  # one that comes in the middle of a finalizer is lost, which no program can help


def test_a_recording_of_live_pictures_takes_as_long_as_they_did(tmp_path: Path) -> None:
    """At any rate, with pictures dropped, and a long silence left out."""

    class Live(Source):
        live = True
        _frames = None  # type: ignore[assignment]

    for fps, rate in ((None, 12.0), (25.0, 50.0), (90_000.0, 30.0)):
        recording = running._Recording(tmp_path / "out.avi", Live("camera", fps=fps, count=None))
        for index in range(60):
            late = 100.0 if index >= 30 else 0.0
            recording.add(answer(np.zeros((48, 64, 3), np.uint8), 5.0 + index / rate + late))
        assert recording.finish(True) == tmp_path / "out.avi"
        with open_source(tmp_path / "out.avi") as video:
            assert len(list(video)) / (video.fps or 0.0) == pytest.approx(60 / rate, abs=0.15)


# -- the window ----------------------------------------------------------------------------------------------------------


def answer(image: np.ndarray, timestamp: float | None) -> Classification:
    scores = np.array([0.9, 0.1], np.float32)
    return Classification(("left", "right"), scores, scores, 0, timestamp=timestamp, image=image)


class Windows:
    """OpenCV's windows, without a screen: what was shown, when, and what the user does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.shown: list[tuple[str, np.ndarray, float]] = []
        self.key_after: dict[int, int] = {}
        self.closed_after: int | None = None
        self.destroyed = 0
        patch.setenv("DISPLAY", ":0")
        patch.setattr(running, "_opens_windows", lambda: True)
        patch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    QT5")
        patch.setattr(cv2, "imshow", lambda title, image: self.shown.append((title, image, time.monotonic())))
        patch.setattr(cv2, "waitKey", self.wait_key)
        patch.setattr(cv2, "getWindowProperty", self.is_open)
        patch.setattr(cv2, "destroyAllWindows", self.destroy)

    def wait_key(self, milliseconds: int) -> int:
        assert isinstance(milliseconds, int) and milliseconds > 0, "0 waits for ever"
        if (key := self.key_after.pop(len(self.shown), None)) is not None:
            return key
        time.sleep(milliseconds / 1000)
        return -1

    def is_open(self, title: str, prop: int) -> float:
        assert prop == cv2.WND_PROP_VISIBLE
        if self.closed_after is not None and len(self.shown) >= self.closed_after:
            raise cv2.error("NULL guiReceiver")  # Qt's, once its last window is gone
        return 1.0

    def destroy(self) -> None:
        self.destroyed += 1


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    return Windows(monkeypatch)


def test_without_a_screen_show_is_wrong_use_and_says_what_to_do(
    clips: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("effvision.cli._load", lambda options: pytest.fail("the model was loaded"))
    assert main(["run", CARD, clips[0], "--show"]) == 2
    told = capsys.readouterr().err
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set" in told and "hint: --save FILE" in told


@pytest.mark.skipif(sys.platform != "linux", reason="names a screen of X11")
def test_a_screen_that_cannot_be_reached_is_told_and_does_not_abort_the_process(
    clips: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISPLAY", ":987")
    assert main(["run", CARD, clips[0], "--show"]) == 2
    assert "--show needs" in capsys.readouterr().err


def test_an_opencv_without_windows_is_told(
    windows: Windows, clips: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert main(["run", CARD, clips[0], "--show"]) == 2
    assert "hint: pip install opencv-python" in capsys.readouterr().err


@pytest.mark.alone
def test_a_window_shows_every_frame_as_bgr_at_the_pace_of_the_file(
    windows: Windows, clips: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", CARD, clips[0], "--show"]) == 0
    assert len(windows.shown) == numbers(capsys.readouterr().err) == 24
    for title, image, _ in windows.shown:
        assert title == f"effvision - {clips[0]}" and image.shape == (96, 128, 3)
        assert image[-4, -4].tolist() == pytest.approx([10, 90, 200], abs=12)
    assert windows.destroyed == 1
    best_of_three(lambda: assert_pace(windows, clips[:1], 23 / 12))


def assert_pace(windows: Windows, sources: Any, seconds: float) -> None:
    """Show them again; from the first to the last frame it must take so long."""
    windows.shown.clear()
    assert main(["run", CARD, *sources, "--show"]) == 0
    took = windows.shown[-1][2] - windows.shown[0][2]
    assert took == pytest.approx(seconds, abs=0.3)


@pytest.mark.parametrize("key", [ord("q"), 27, ord("q") | 0x100000], ids=["q", "Esc", "q with flags"])
def test_a_key_ends_the_run_which_is_no_failure(
    windows: Windows, clips: Any, tmp_path: Path, key: int, capsys: pytest.CaptureFixture[str]
) -> None:
    windows.key_after = {2: ord("x"), 5: key}
    assert main(["run", CARD, clips[0], "--show", "--save", str(tmp_path / "out.mp4")]) == 0
    assert len(windows.shown) == numbers(capsys.readouterr().err) == 5 == count(tmp_path / "out.mp4")
    assert windows.destroyed == 1


def test_closing_the_window_ends_the_run(windows: Windows, clips: Any) -> None:
    windows.closed_after = 3
    assert main(["run", CARD, clips[0], "--show"]) == 0
    assert len(windows.shown) == 3 and windows.destroyed == 1


def test_a_window_that_is_hidden_counts_as_closed(
    windows: Windows, clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, prop: 0.0 if len(windows.shown) >= 2 else 1.0)
    assert main(["run", CARD, clips[0], "--show"]) == 0
    assert len(windows.shown) == 2


def test_a_single_picture_stays_until_a_key_is_pressed(
    windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), np.full((48, 64, 3), 90, np.uint8))
    waits: list[int] = []

    def wait_key(milliseconds: int) -> int:
        waits.append(milliseconds)
        return ord("q") if len(waits) == 20 else -1

    monkeypatch.setattr(cv2, "waitKey", wait_key)
    assert main(["run", CARD, str(tmp_path / "p.png"), "--show"]) == 0
    assert len(waits) == 20 and max(waits) <= 100


def test_frames_far_apart_are_waited_for_in_full() -> None:
    """A time lapse of one frame in three seconds, with a window that is asked all the while whether it was closed."""
    with pytest.MonkeyPatch.context() as patch:
        windows = Windows(patch)
        clock, asked = [100.0], []
        patch.setattr(running.time, "monotonic", lambda: clock[0])

        def wait_key(milliseconds: int) -> int:
            asked.append(milliseconds)
            clock[0] += milliseconds / 1000
            return -1

        patch.setattr(cv2, "waitKey", wait_key)
        window = running._Window(True, [open_source(np.zeros((4, 48, 64, 3), np.uint8), fps=1 / 3)])
        for index in range(4):
            assert window.show(0, answer(np.zeros((48, 64, 3), np.uint8), 3.0 * index))
        assert clock[0] == pytest.approx(109.0, abs=0.01) and max(asked) <= 100
    assert len(windows.shown) == 4


@pytest.mark.alone
def test_several_sources_have_a_window_each_even_of_one_name(windows: Windows, clips: Any) -> None:
    assert main(["run", CARD, clips[1], clips[1], "--show"]) == 0
    assert sorted({title for title, _, _ in windows.shown}) == [
        f"effvision 1 - {clips[1]}",
        f"effvision 2 - {clips[1]}",
    ]
    best_of_three(lambda: assert_pace(windows, [clips[1], clips[1]], 9 / 24))


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="there is no Xvfb here")
def test_a_real_window_opens_on_a_real_screen(clips: Any) -> None:
    command = ["xvfb-run", "-a", sys.executable, "-m", "effvision", "run", CARD, clips[1], "--show"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert numbers(done.stderr) == 10
