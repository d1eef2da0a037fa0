"""Live sources: never behind, back after a loss, and a reason for whatever cannot be opened.

Cameras are played by objects with the methods of `cv2.VideoCapture`; network streams are real ones, from `servers.py`, read by
OpenCV's own FFmpeg.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pytest

from effvision.errors import EffvisionError, InputError, MissingDependencyError, SourceError
from effvision.sources import Frame, LiveSource, VideoWriter, devices, network, open_source, reader
from waiting import best_of_three, wait_until

_spec = importlib.util.spec_from_file_location("live_servers", Path(__file__).with_name("servers.py"))
assert _spec is not None and _spec.loader is not None
servers: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(servers)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    wait_until(lambda: not [t for t in threading.enumerate() if t not in before])


def bgr(number: int) -> np.ndarray:
    return cv2.cvtColor(servers.numbered(number), cv2.COLOR_RGB2BGR)


class Camera:
    """Numbered pictures at a rate. Each time it is opened it lives for the next number of pictures in `lives`, then dies.

    `end` says how: "gone" fails at once, "hang" blocks in the driver until `thaw` is set. With `stepped` it gives a picture
    for each `step.release()`. After its death it can be opened again when `seen` says that frames of this life have arrived.
    """

    def __init__(self, *lives: int, fps: float = 100.0, end: str = "gone", stepped: bool = False) -> None:
        self.lives = list(lives)
        self.fps = fps
        self.end = end
        self.thaw = threading.Event()
        self.step = threading.Semaphore(0 if stepped else 10**9)
        self.seen: Callable[[int], bool] = lambda life: True
        self.opened = self.released = self.given = 0
        self.odd: list[object] = []

    def __call__(self) -> Camera:
        if self.opened:
            wait_until(lambda: self.seen(self.opened), seconds=20)
        self.opened += 1
        if self.opened > 1 and not self.lives:
            raise SourceError("camera 0: there is no camera any more")
        self.left = self.lives.pop(0) if self.lives else 10**9
        return self

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        if self.left == 0:
            if self.end == "hang":
                self.thaw.wait(60)
            return False, None
        self.step.acquire(timeout=60)
        time.sleep(1 / self.fps)
        if self.odd:
            return True, self.odd.pop(0)
        self.left -= 1
        self.given += 1
        return True, bgr(self.given - 1)

    def release(self) -> None:
        self.released += 1

    def get(self, prop: int) -> float:
        return self.fps if prop == cv2.CAP_PROP_FPS else -1.0

    def set(self, prop: int, value: float) -> bool:
        return False


def first(source: Any, count: int) -> list[Frame]:
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == count:
            break
    return frames


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_come_as_rgb_with_their_arrival_time_and_place() -> None:
    camera = Camera()
    with LiveSource(0, opener=camera) as source:
        assert (source.name, source.fps, source.count, source.live) == ("camera 0", 100.0, None, True)
        frames = first(source, 5)
    wait_until(lambda: camera.released == 1)
    assert frames[0].image[-3, 3].tolist() == [220, 20, 20] and frames[0].image.flags.c_contiguous
    assert [servers.number_of(frame.image) for frame in frames] == [frame.index for frame in frames]
    assert all(later.timestamp > sooner.timestamp >= 0 for sooner, later in pairwise(frames))
    assert {(frame.source, frame.clocked) for frame in frames} == {("camera 0", True)}


def check_lag(read: Generator[tuple[float, float]], *, seconds: float, pause_s: float) -> None:
    """A consumer that takes `pause_s` for each of the pairs (age when given in s, behind in s): neither may grow."""
    ages, behind = [], []
    end = time.monotonic() + seconds
    with contextlib.closing(read):
        for age, late in read:
            ages.append(age)
            behind.append(late)
            if time.monotonic() > end:
                break
            time.sleep(pause_s)
    third = len(ages) // 3
    assert third >= 5
    for lag in (ages, behind):
        assert median(lag[-third:]) < median(lag[:third]) + 0.1
        assert median(lag) < 0.3  # a queue would be seconds behind by now


@pytest.mark.alone
def test_a_slow_consumer_stays_close_behind_and_what_it_missed_is_counted() -> None:
    camera = Camera(fps=30)
    frames = []
    with LiveSource(0, opener=camera) as source:

        def read() -> Generator[tuple[float, float]]:
            for frame in source:
                frames.append(frame)
                yield source.age(frame), (camera.given - 1 - servers.number_of(frame.image)) / camera.fps

        best_of_three(lambda: check_lag(read(), seconds=2.5, pause_s=0.1))
        given = len(frames)
        before, age, after = (source.age(x) for x in (frames[0], frames[0].timestamp, frames[0]))
        assert before <= age <= after
    read_in_all = source._reader.read
    assert read_in_all > 1.5 * given
    assert source.dropped == read_in_all - given
    assert sum(frame.dropped for frame in frames) == frames[-1].index + 1 - given
    assert all(later.dropped == later.index - sooner.index - 1 for sooner, later in pairwise(frames))


LAG_S = float(os.environ.get("EFFVISION_LAG_S", "9"))


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(120 + 4 * LAG_S)
def test_slow_consumers_of_network_streams_do_not_fall_behind() -> None:
    """Two at once, for nine seconds or for as many as EFFVISION_LAG_S says: a queue would be six seconds long by then."""

    def check(kind: str) -> None:
        with getattr(servers, kind)(fps=30) as server, open_source(server.address) as source:

            def read() -> Generator[tuple[float, float]]:
                for frame in source:
                    # the number says which picture it is, whatever waited in sockets and decoders
                    late = server.sent - 1 - servers.number_of(frame.image)
                    yield source.age(frame), max(0, late) / server.fps  # it may be here before it is counted

            best_of_three(lambda: check_lag(read(), seconds=LAG_S, pause_s=0.1))

    with ThreadPoolExecutor(2) as both:
        list(both.map(check, ["RtspServer", "MjpegServer"]))


def test_a_second_loop_goes_on_with_what_is_newest_and_two_at_once_are_refused() -> None:
    with LiveSource(0, opener=Camera()) as source:
        earlier = first(source, 3)[-1]
        wait_until(lambda: source._reader.read > earlier.index + 3)
        loop = iter(source)
        later = next(loop)
        assert later.index > earlier.index + 1 and later.dropped == later.index - earlier.index - 1
        with pytest.raises(InputError, match="being read by another loop"):
            next(iter(source))
        loop.close()  # type: ignore[attr-defined]
        assert next(iter(source)).index > later.index


def test_grey_and_alpha_become_rgb_and_a_change_of_size_is_passed_on() -> None:
    camera = Camera(stepped=True)  # so that none is dropped
    grey = np.full((8, 6), 90, np.uint8)
    camera.odd = [grey, grey[..., None], np.dstack([bgr(1), bgr(1)[..., 0]]), np.full((20, 30, 3), 7, np.uint8)]
    with LiveSource(0, opener=camera) as source:
        frames = []
        for _ in range(5):
            camera.step.release()
            frames += first(source, 1)
        assert source.connections == 1
        camera.step.release(1000)  # closing waits for a read that is under way
    assert [frame.image.shape for frame in frames] == [(8, 6, 3)] * 2 + [(96, 256, 3), (20, 30, 3), (96, 256, 3)]
    assert frames[0].image[3, 3].tolist() == [90, 90, 90] and frames[2].image[-3, 3].tolist() == [220, 20, 20]


@pytest.mark.parametrize("odd", [None, "no picture", np.zeros((0, 0, 3), np.uint8), np.zeros((8, 6, 2), np.uint8)])
def test_a_few_reads_that_fail_are_passed_over(odd: object) -> None:
    camera = Camera()
    with LiveSource(0, opener=camera) as source:
        before = first(source, 2)[-1]
        camera.odd = [odd] * 3
        wait_until(lambda: not camera.odd)
        after = first(source, 20)[-1]
        assert source.connections == 1 and after.source == before.source


# -- loss and return ---------------------------------------------------------------------------------------------------


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(reader, "_GRACE_S", 0.2)
    monkeypatch.setattr(reader, "_OPENING_S", 0.5)


def test_a_camera_that_dies_is_opened_again_and_its_frames_have_another_identity(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quickly(monkeypatch)
    camera = Camera(20, 20, 10**9)
    frames: list[Frame] = []
    camera.seen = lambda life: bool(frames) and (life == 1 or frames[-1].source.endswith(f"#{life}"))
    with LiveSource(0, opener=camera) as source:
        for frame in source:
            frames.append(frame)
            if frame.source.endswith("#3"):
                break
        assert source.connections == 3
    assert list(dict.fromkeys(frame.source for frame in frames)) == ["camera 0", "camera 0 #2", "camera 0 #3"]
    assert all(later.timestamp > sooner.timestamp for sooner, later in pairwise(frames))
    assert all(later.index > sooner.index for sooner, later in pairwise(frames))
    wait_until(lambda: camera.released == camera.opened == 3)
    assert "camera 0 was lost (no frame could be read); trying again in" in caplog.text


def test_a_session_starts_afresh_when_its_camera_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    reasons: list[str | None] = []
    camera = Camera(30, 10**9)
    camera.seen = lambda life: bool(reasons)
    results = model().stream(LiveSource(0, opener=camera), images=False)
    for result in results:
        reasons.append(result.reset_reason)
        if "source" in reasons and len(reasons) > reasons.index("source") + 3:
            break
    results.close()  # type: ignore[attr-defined]
    assert [reason for reason in reasons if reason not in (None, "gap")] == ["source"]  # a busy machine makes gaps


def test_a_driver_that_hangs_is_left_behind_and_the_camera_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    camera = Camera(5, 10**9, end="hang")
    with LiveSource(0, opener=camera, timeout_s=1.5) as source:
        frames = []
        for frame in source:
            frames.append(frame)
            if frame.source == "camera 0 #2":
                break
        read = source._reader.read
        camera.thaw.set()  # what the forgotten thread brings home is not taken for a frame of this connection
        wait_until(lambda: camera.released == 1)
        assert source._reader.read >= read and source.connections == 2
    wait_until(lambda: camera.released == 2)


def test_threads_left_in_a_driver_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    monkeypatch.setattr(reader, "_OPENING_S", 0.1)
    monkeypatch.setattr(reader, "_LONGEST_WAIT_S", 0.1)
    thaw, hung = threading.Event(), []
    camera = Camera(5, end="hang")
    camera.thaw = thaw

    def opener() -> Camera:
        if camera.opened:
            hung.append(threading.current_thread())
            thaw.wait(60)
        return camera()

    with LiveSource(0, opener=opener, timeout_s=0.5, retry_s=4) as source:
        with pytest.raises(SourceError, match="has given no frame for"):
            list(source)
        assert 1 <= len(hung) <= 3
        thaw.set()


def test_a_camera_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    camera = Camera(5)
    with LiveSource(0, opener=camera, retry_s=1) as source:
        started = time.monotonic()
        with pytest.raises(SourceError) as caught:
            list(source)
        assert time.monotonic() - started >= 1
        with pytest.raises(SourceError, match="has given no frame"):
            list(source)
    found = re.search(
        r"camera 0 has given no frame for (\d+) s; it was lost \(there is no camera any more\) after 5 frames and tried again "
        r"(\d+) times\nhint: check its cable",
        str(caught.value),
    )
    assert found is not None and int(found[1]) >= 1, caught.value
    assert 0 < int(found[2]) <= camera.opened - 1 <= int(found[2]) + 1  # one may have begun as the message was written


def test_attempts_become_rarer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(reader, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(reader, "_LONGEST_WAIT_S", 0.2)
    with LiveSource(0, opener=Camera(5), retry_s=2) as source, pytest.raises(SourceError):
        list(source)
    waits = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    assert waits[:4] == [0.05, 0.1, 0.2, 0.2]


def test_without_retries_a_loss_is_the_end() -> None:
    camera = Camera(5, 10**9)
    with LiveSource(0, opener=camera, retry_s=0) as source, pytest.raises(SourceError, match="after 5 frames"):
        list(source)


def test_what_never_gave_a_frame_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    camera = Camera(0)
    with (
        LiveSource(0, opener=camera) as source,
        pytest.raises(SourceError, match=r"gave not one frame: no frame could be read\nhint: check its cable"),
    ):
        list(source)
    assert camera.opened == 1
    silent = Camera(0, end="hang")
    with (
        LiveSource(0, opener=silent, timeout_s=0.3) as source,
        pytest.raises(SourceError, match="not one frame: no frame"),
    ):
        list(source)
    silent.thaw.set()
    wait_until(lambda: silent.released == 1)


def test_a_first_attempt_to_open_that_fails_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)
    calls: list[str] = []
    thaw = threading.Event()

    def refuses() -> Any:
        calls.append("refuses")
        raise SourceError("camera 0: taken")

    def breaks() -> Any:
        calls.append("breaks")
        raise RuntimeError("from a foreign library")

    def closed() -> Any:
        calls.append("closed")
        return cv2.VideoCapture()

    def hangs() -> Any:
        calls.append("hangs")
        thaw.wait(60)
        raise SourceError("too late")

    for opener, message, timeout_s in (
        (refuses, "camera 0: taken", 20),
        (breaks, "RuntimeError: from a foreign library", 20),
        (closed, "camera 0 could not be opened", 20),
        (hangs, r"no frame for \d+ s", 0.3),
    ):
        with pytest.raises(SourceError, match=message):
            LiveSource(0, opener=opener, timeout_s=timeout_s)
    thaw.set()
    assert calls == ["refuses", "breaks", "closed", "hangs"]


def test_frames_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera()
    camera.odd = [np.zeros((8, 6), np.uint16)] * 10**4
    with (
        LiveSource(0, opener=camera) as source,
        pytest.raises(SourceError, match=r"its frames cannot be used: uint16 \(8, 6\)"),
    ):
        list(source)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_from_another_thread_ends_a_loop_that_waits() -> None:
    camera = Camera(5, end="hang")
    source = LiveSource(0, opener=camera)
    threading.Timer(0.5, source.close).start()
    threading.Timer(1.0, camera.thaw.set).start()
    started = time.monotonic()
    assert len(list(source)) <= 5
    assert time.monotonic() - started < 20  # it would try for a minute to open the camera again
    wait_until(lambda: camera.released == 1)
    source.close()
    with pytest.raises(SourceError, match="camera 0 is closed"):
        iter(source)


def test_a_source_that_is_forgotten_lets_its_camera_go() -> None:
    camera = Camera()
    source = LiveSource(0, opener=camera)
    first(source, 2)
    del source
    gc.collect()
    wait_until(lambda: camera.released == 1)


def test_ctrl_c_leaves_nothing_hanging() -> None:
    """In a process of its own, that neither catches the interrupt nor closes the source."""
    program = (
        "import sys; from effvision.sources import open_source\n"
        "for frame in open_source(sys.argv[1]): print(frame.index, flush=True)\n"
    )
    with servers.MjpegServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", program, server.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline().strip().isdecimal()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in complaints and "Fatal" not in complaints


# -- real streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RtspServer", "MjpegServer"])
def test_a_network_stream_gives_its_pictures_and_is_found_again_after_a_restart(kind: str) -> None:
    with getattr(servers, kind)() as server, open_source(server.address) as source:
        frames = first(source, 20)
        assert source.name == server.address and source.live
        server.stop()
        server.start()
        for frame in source:
            frames.append(frame)
            if frame.source != source.name:
                break
        more = first(source, 5)
    numbers = [servers.number_of(frame.image) for frame in frames + more]
    assert all(later > sooner for sooner, later in pairwise(numbers))
    assert frames[3].image[-3, 3] == pytest.approx([220, 20, 20], abs=12)
    assert {frame.source for frame in more} == {f"{server.address} #2"}
    assert all(later.timestamp > sooner.timestamp for sooner, later in pairwise(frames + more))


def test_a_session_on_a_restarted_server_says_source() -> None:
    with servers.RtspServer() as server:
        results = model().stream(server.address, images=False)
        reasons = [next(results).reset_reason for _ in range(10)]
        server.stop()
        server.start()
        while "source" not in reasons:
            reasons.append(next(results).reset_reason)
            assert len(reasons) < 2000
        results.close()  # type: ignore[attr-defined]


def test_a_stream_that_stalls_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    def go_on() -> None:
        wait_until(lambda: "was lost" in caplog.text)
        server.frozen.clear()

    with servers.MjpegServer() as server, LiveSource(server.address, timeout_s=2) as source:
        first(source, 5)
        server.frozen.set()
        helper = threading.Thread(target=go_on)
        helper.start()
        for frame in source:
            if frame.source != source.name:
                break
        helper.join()
        assert f"{source.name} #{source.connections}" == frame.source


def test_an_address_that_is_a_recording_gives_every_frame_and_ends(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=25, size=(96, 256)) as video:
        for number in range(40):
            video.write(servers.numbered(number))
    with (
        servers.FileServer({"/a.mp4": (tmp_path / "a.mp4").read_bytes()}) as server,
        open_source(f"{server.address}/a.mp4") as source,
    ):
        assert (source.fps, source.count) == (25, 40) and not source.live  # type: ignore[attr-defined]
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.01)
        with pytest.raises(SourceError, match="read to its end"):
            list(source)
        with pytest.raises(InputError, match="is a recording"):
            source.age(frames[0])  # type: ignore[attr-defined]
    assert [servers.number_of(frame.image) for frame in frames] == list(range(40))
    assert [frame.timestamp for frame in frames] == pytest.approx([number / 25 for number in range(40)], abs=1e-3)
    assert {frame.dropped for frame in frames} == {0}


def test_a_recording_that_is_cut_short_says_so(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.avi", fps=25, size=(96, 256)) as video:
        for number in range(60):
            video.write(servers.numbered(number))
    data = (tmp_path / "a.avi").read_bytes()
    with (
        servers.FileServer({"/a.avi": data[: len(data) // 2]}) as server,
        pytest.raises(SourceError, match="states 60 frames, but ended after"),
    ):
        list(open_source(f"{server.address}/a.avi"))


def test_an_address_that_is_a_picture_gives_one_frame() -> None:
    with servers.FileServer({"/a.jpg": servers.jpeg(servers.numbered(5))}) as server:
        (frame,) = open_source(f"{server.address}/a.jpg")
    assert servers.number_of(frame.image) == 5


# -- what cannot be opened ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["rtsp", "http", "https", "rtmp", "tcp"])
def test_a_dead_port_is_told_at_once_without_the_password(scheme: str) -> None:
    started = time.monotonic()
    with servers.dead_port() as port, pytest.raises(SourceError) as caught:
        open_source(f"{scheme}://admin:hunter2@127.0.0.1:{port}/live")
    assert time.monotonic() - started < 9  # FFmpeg alone would wait for ten seconds and more
    assert "127.0.0.1 refused the connection, nothing listens at port" in str(caught.value)
    assert "admin:***@" in str(caught.value) and "hunter2" not in everything_said(caught.value)


def everything_said(error: BaseException | None) -> str:
    text = ""
    while error is not None:
        text += f"{error!s} {error!r} "
        error = error.__cause__
    return text


def test_a_host_that_does_not_answer_or_is_unknown_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(network.socket, "getaddrinfo", unknown)
    with pytest.raises(SourceError, match=r"the name nobody\.invalid is not known"):
        open_source("rtsp://nobody.invalid/live")
    monkeypatch.setattr(network.socket, "create_connection", silent)
    with pytest.raises(SourceError, match="did not answer at port 554 within 3 s"):
        open_source("rtsp://127.0.0.1/live")


def test_a_server_is_asked_why_it_gives_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    with servers.RtspServer(login="admin:hunter2") as server:
        inner = server.address.removeprefix("rtsp://")
        with pytest.raises(
            SourceError, match=r"asks for a user and a password \(401 Unauthorized\)\nhint: rtsp://USER"
        ):
            open_source(server.address)
        with pytest.raises(SourceError, match=r"refused the user or the password in the address \(401") as caught:
            open_source(f"rtsp://admin:hunter3@{inner}")
        assert "hunter" not in everything_said(caught.value)
        with LiveSource(f"rtsp://admin:hunter2@{inner}") as source:
            frames = first(source, 2)
            server.stop()
            wait_until(lambda: "was lost" in caplog.text)
        said = " ".join([source.name, repr(source), frames[0].source, caplog.text, source._reader._thread.name])
        assert "admin:***@" in said and "hunter" not in said
    with servers.MjpegServer() as server, pytest.raises(SourceError, match=r"no stream at this path \(404 Not Found\)"):
        open_source(f"{server.address}/other")
    with (
        servers.FileServer({"/page": b"<html></html>"}) as web,
        pytest.raises(SourceError, match="answers, but gives no"),
    ):
        open_source(f"{web.address}/page")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://host:554/live", "rtsp://host:554/live"),
        ("rtsp://user:secret@host/live", "rtsp://user:***@host/live"),
        ("rtsp://user:secret@more@host/a@b", "rtsp://user:***@host/a@b"),
        ("rtsp://user:sec/ret#x?@host/live", "rtsp://user:***@host/live"),
        ("http://secret@host/", "http://***@host/"),
        ("http://host/v?user=me&password=secret&n=1", "http://host/v?user=me&password=***&n=1"),
        ("rtsp://host/user=admin_password=secret", "rtsp://host/user=admin_password=***"),
        ("rtspsrc location='rtsp://u:secret@h/' user-pw=secret !", "rtspsrc location='rtsp://u:***@h/' user-pw=*** !"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert network.masked(text) == shown


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rtsp:///live", "names no host"),
        ("rtsp://host:port/live", "host or port cannot be read$"),
        ("rtsp://me:hun/ter2@host/live", r"host or port cannot be read\nhint: in a password write / as %2F"),
        ("tcp://host", "names no port"),
        ("http://ho st/", "blank or a control"),
        ("file:///a.mp4", "give the path alone"),
        ("ftp://host/a.mp4", "addresses of ftp:// are not known"),
        ("csi://0?fps=fast", "a number is missing or none"),
        ("csi://x", "a number is missing or none"),
        ("csi://0?depth=3", "unknown depth"),
        ("csi://0?flip=9", "out of range"),
        ("videotestsrc ! fakesink", "no `appsink`"),
        (-1, "numbered from 0"),
    ],
)
def test_what_cannot_be_right_is_refused(address: int | str, message: str) -> None:
    with pytest.raises(EffvisionError, match=message) as caught:
        open_source(address)
    assert "ter2" not in everything_said(caught.value)


def test_a_pipeline_without_gstreamer_says_where_there_is_one() -> None:
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    for text in ("csi://0", "videotestsrc ! appsink"):
        with pytest.raises(MissingDependencyError, match=r"built without it[\s\S]*on a Jetson use the system's OpenCV"):
            open_source(text)


def test_a_csi_camera_becomes_jetsons_pipeline() -> None:
    pipeline = devices._csi_pipeline("csi://1?width=1920&height=1080&fps=29.97&flip=2")
    assert "nvarguscamerasrc sensor-id=1 ! " in pipeline and "flip-method=2" in pipeline
    assert "width=1920, height=1080, framerate=2997/100 ! " in pipeline
    assert pipeline.endswith("format=BGR ! appsink drop=true max-buffers=1 sync=false")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/video* is Linux")
def test_a_camera_that_is_not_there_is_told_from_one_that_may_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    level = cv2.utils.logging.getLogLevel()
    with pytest.raises(SourceError, match=r"camera 0: there is no .*/video0; this machine has no camera"):
        open_source(0)
    (tmp_path / "video61").touch()
    with pytest.raises(SourceError, match=r"there is no .*/video0; this machine has .*/video61"):
        open_source(np.int64(0))
    with pytest.raises(SourceError, match=r"camera 61 is there, but could not be opened[\s\S]*fuser -v"):
        open_source(61)
    monkeypatch.setattr(devices.os, "access", lambda *_: False)
    with pytest.raises(SourceError, match=r"this user may not open .*/video61\nhint: `sudo usermod -aG video"):
        open_source(61)
    with pytest.raises(SourceError, match="camera /dev/video62: there is no /dev/video62"):
        open_source(Path("/dev/video62"))
    assert capfd.readouterr().err == "" and cv2.utils.logging.getLogLevel() == level


def test_a_string_of_digits_is_a_file_and_the_way_to_the_camera_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"0 does not exist: .*\nhint: camera 0 is the number 0"):
        open_source("0")
    Path("0").write_bytes(servers.jpeg(servers.numbered(3)))
    assert len(list(open_source("0"))) == 1


def test_options_that_cannot_be_are_refused() -> None:
    for given in ({"fps": 30}, {"color": "bgr"}):
        with pytest.raises(InputError, match="live"):
            open_source(0, **given)  # type: ignore[arg-type]
    for options in ({"timeout_s": 0}, {"timeout_s": "5"}, {"retry_s": -1}, {"retry_s": float("nan")}, {"threads": 0}):
        with pytest.raises(InputError, match=f"`{next(iter(options))}` must be"):
            LiveSource(0, opener=Camera(), **options)  # type: ignore[arg-type]
    for x in ("a.mp4", None, True, "0", 1.5):
        with pytest.raises(InputError, match="is no live source"):
            LiveSource(x)  # type: ignore[arg-type]


def model() -> Any:
    pytest.importorskip("onnxruntime")
    from effvision import TSM

    return TSM.from_pretrained("tsm-mobilenetv2-motion", runtime="onnx", threads=1)
