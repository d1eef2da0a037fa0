"""What travels between the page and the server: answers, limits, and that visitors do not mix."""

from __future__ import annotations

import json
import socket as socketlib
import struct
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from effvision import TSM
from effvision.demos.gestures import mirrored
from effvision.demos.pictures import decode_frame, encode_frame, jpeg_size
from effvision.errors import InputError
from effvision.models.tsm.clips import render_segments
from effvision.sources import VideoWriter
from page_server import CARD, Page, frame_message, read, unpacked

FPS = 12.0


def motion(name: str, seconds: float = 2.0) -> np.ndarray:
    frames, _ = render_segments(((name, seconds),), size=(240, 320), fps=FPS, seed=15)
    return np.asarray(frames)


@pytest.fixture(scope="module")
def left() -> np.ndarray:
    return motion("left")


@pytest.fixture(scope="module")
def up() -> np.ndarray:
    return motion("up")


def alone(frames: np.ndarray) -> Iterator[list[float]]:
    """What a session of this clip answers, from the pictures the server sees: after JPEG."""
    session = TSM.from_pretrained(CARD, runtime="onnx", threads=1).session()
    for number, frame in enumerate(frames):
        seen = decode_frame(encode_frame(frame, width=4096), max_pixels=10**6)
        yield [round(float(score), 4) for score in session.update(seen, timestamp=number / FPS).scores]


# --- answers ------------------------------------------------------------------------------------------------------------


def test_the_page_is_told_names_and_limits(page: Page) -> None:
    assert page.url.startswith("http://localhost:")
    with page.talk() as socket:
        hello = read(socket, "hello")
    model = TSM.from_pretrained(CARD, runtime="onnx")
    assert hello["labels"] == list(model.labels) and hello["rate"] == model.fps and hello["card"] == CARD
    assert [hello["labels"][index] for index in hello["mirrored"][:2]] == ["right", "left"]
    assert hello["runtimes"][0] == {"name": "onnx", "title": "ONNX Runtime"}
    assert hello["samples"][0]["name"] == "generated" and hello["upload_bytes"] > 2**20


def test_answers_are_those_of_a_session(page: Page, left: np.ndarray) -> None:
    with page.talk() as socket:
        labels = read(socket, "hello")["labels"]
        for number, (frame, scores) in enumerate(zip(left, alone(left), strict=True)):
            socket.send(frame_message(frame, number / FPS, number))
            answer = read(socket, "answer")
            assert answer["id"] == number and answer["scores"] == pytest.approx(scores, abs=2e-4)
            assert answer["settled"] == (number >= 2) and answer["timing"]["run_ms"] > 0 and answer["decode_ms"] > 0
    assert labels[answer["chosen"]] == "left"


def test_two_visitors_do_not_mix(page: Page, left: np.ndarray, up: np.ndarray) -> None:
    with page.talk() as first, page.talk() as second:
        assert page.visitors(2) == 2
        read(first, "hello"), read(second, "hello")
        wanted = zip(alone(left), alone(up), strict=True)
        for number, (one, other, (ours, theirs)) in enumerate(zip(left, up, wanted, strict=True)):
            first.send(frame_message(one, number / FPS, number))  # both on their way at once
            second.send(frame_message(other, number / FPS, 1000 + number))
            assert read(second, "answer")["scores"] == pytest.approx(theirs, abs=2e-4)
            assert read(first, "answer")["scores"] == pytest.approx(ours, abs=2e-4)
    assert page.visitors(0) == 0, "closing a connection frees its session"


def test_reset_and_a_jump_in_time_begin_anew_and_say_so(page: Page, left: np.ndarray) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        reasons = []
        for number, seconds in enumerate((0.0, 0.1, 0.2, 0.3, 30.0, 1.0)):
            if number == 2:
                socket.send('{"do": "reset"}')
            socket.send(frame_message(left[number], seconds, number))
            reasons.append(read(socket, "answer")["reset"])
    assert reasons == [None, None, "reset", None, "gap", "seek"]


def test_the_runtimes_agree(page: Page, left: np.ndarray) -> None:
    pytest.importorskip("torch")
    answers = {}
    with page.talk() as socket:
        offered = [item["name"] for item in read(socket, "hello")["runtimes"]]
        assert offered == ["onnx", "torch"]
        for runtime in offered:
            socket.send(json.dumps({"do": "runtime", "name": runtime}))
            assert read(socket, "state")["runtime"] == runtime
            for number, frame in enumerate(left[:8]):
                socket.send(frame_message(frame, number / FPS, number))
                answers[runtime] = read(socket, "answer")["scores"]
    assert answers["onnx"] == pytest.approx(answers["torch"], abs=3e-4)


def test_quick_answers_are_those_of_each_frame_by_itself(page: Page, left: np.ndarray) -> None:
    session = TSM.from_pretrained(CARD, runtime="onnx", threads=1).session(smoothing=None)
    with page.talk() as socket:
        read(socket, "hello")
        for quick in (True, False):
            socket.send(json.dumps({"do": "runtime", "name": "onnx", "quick": quick}))
            read(socket, "state")
            same = []
            for number, frame in enumerate(left[:10]):
                socket.send(frame_message(frame, number / FPS, number))
                seen = decode_frame(encode_frame(frame, width=4096), max_pixels=10**6)
                wanted = session.update(seen, timestamp=number / FPS).scores if quick else None
                answer = read(socket, "answer")
                same.append(wanted is None or answer["scores"] == pytest.approx(wanted.tolist(), abs=2e-4))
            assert all(same) and answer["reset"] is None


# --- files --------------------------------------------------------------------------------------------------------------


def played(socket: ClientConnection, command: dict[str, str], *, until: int) -> list[dict[str, Any]]:
    """Play a file and return the answers of its frames; every message is checked to carry a picture."""
    socket.send(json.dumps(command))
    answers = []
    while len(answers) < until:
        message = socket.recv(timeout=60)
        assert isinstance(message, bytes), message
        answer, jpeg = unpacked(message)
        answers.append(answer)
        assert jpeg_size(jpeg) == (480, 360)
        socket.send('{"do": "seen"}')
    return answers


def test_a_sample_plays_at_its_own_pace_with_its_answers(page: Page) -> None:
    with page.talk() as socket:
        hello = read(socket, "hello")
        started = time.monotonic()
        answers = played(socket, {"do": "play", "sample": "generated"}, until=50)
        took = time.monotonic() - started
        socket.send('{"do": "stop"}')
    assert took >= answers[-1]["at_s"] - 0.2
    said = [hello["labels"][answer["chosen"]] for answer in answers if answer["settled"]]
    assert "still" in said and "left" in said
    assert page.visitors(0) == 0


def test_a_page_that_shows_nothing_gets_no_more_than_two_frames(page: Page) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        socket.send('{"do": "play", "sample": "generated"}')
        for _ in range(2):
            assert isinstance(socket.recv(timeout=60), bytes)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=1.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "up.mp4"
    with VideoWriter(path, fps=FPS, size=(360, 480)) as video:
        for frame in render_segments((("up", 2.5),), size=(360, 480), fps=FPS, seed=15)[0]:
            video.write(frame)
    return path


def test_an_uploaded_file_is_played_and_deleted_afterwards(page: Page, clip: Path) -> None:
    with page.talk() as socket:
        labels = read(socket, "hello")["labels"]
        path = page.upload(clip.name, clip.read_bytes())
        assert Path(path).is_file()
        answers = played(socket, {"do": "play", "path": path}, until=12)
    assert labels[answers[-1]["chosen"]] == "up"
    assert page.visitors(0) == 0
    assert not Path(path).exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "", "."])
def test_only_uploaded_files_are_played(page: Page, path: str) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        socket.send(json.dumps({"do": "play", "path": path}))
        assert "uploaded" in read(socket, "error")["text"]


def test_an_upload_that_is_no_video_is_said_so(page: Page) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        socket.send(json.dumps({"do": "play", "path": page.upload("notes.mp4", b"no video at all" * 100)}))
        error = read(socket, "error")
        assert error["stopped"] and "notes.mp4" in error["text"] and str(page.folder) not in error["text"]
        socket.send(frame_message(motion("still", 0.2)[0], 0.0, 7))  # the connection goes on
        assert read(socket, "answer")["id"] == 7


def test_a_picture_is_refused(page: Page) -> None:
    """It shows no motion, and a few kilobytes of PNG can be gigabytes in memory."""
    picture = bytes(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1])
    with page.talk() as socket:
        read(socket, "hello")
        socket.send(json.dumps({"do": "play", "path": page.upload("bomb.png", picture), "turn": 3}))
        error = read(socket, "error")
    assert error["stopped"] and error["turn"] == 3 and "picture" in error["text"]


def test_a_visitor_has_one_uploaded_file_at_a_time(page: Page, clip: Path) -> None:
    data = clip.read_bytes()
    with page.talk() as socket:
        read(socket, "hello")
        first = page.upload("first.mp4", data)
        assert played(socket, {"do": "play", "path": first, "turn": 1}, until=1)[0]["turn"] == 1
        second = page.upload("second.mp4", data)
        socket.send(json.dumps({"do": "play", "path": second, "turn": 2}))
        while not (isinstance(said := socket.recv(timeout=60), bytes) and b'"turn": 2' in said):
            pass
        assert not Path(first).exists() and Path(second).is_file()
    assert page.visitors(0) == 0
    assert not Path(second).exists()


def test_leaving_while_answers_are_on_their_way_is_no_failure(page: Page, left: np.ndarray) -> None:
    for abruptly in (True, False, True, False):
        with page.talk() as socket:
            read(socket, "hello")
            for number in range(4):
                socket.send(frame_message(left[number], number / FPS, number))
            if abruptly:
                socket.socket.shutdown(socketlib.SHUT_RDWR)
    assert page.visitors(0) == 0
    assert "Traceback" not in page.log.read_text()


def test_a_page_closed_while_it_sends_a_file_is_no_failure(page: Page) -> None:
    host, port = page.url.split("/")[2].split(":")
    with socketlib.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
            b"Content-Length: 9000000\r\n\r\n--cut\r\n"
            b'Content-Disposition: form-data; name="files"; filename="half.mp4"\r\n\r\n' + bytes(1_000_000)
        )
        time.sleep(0.5)
    time.sleep(0.5)
    page.status()  # it has had its turn since
    assert "Traceback" not in page.log.read_text()


def exchange(socket: ClientConnection, message: bytes) -> bytes | str:
    socket.send(message)
    return socket.recv(timeout=60)


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"short",
        struct.pack("<dI", 0.0, 1) + b"no picture",
        struct.pack("<dI", 0.0, 1) + b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(20),  # 65535 x 65535
        struct.pack("<dI", float("nan"), 1) + encode_frame(np.zeros((48, 64, 3), np.uint8), width=64),
        "not JSON",
        "[]",
        '{"do": "dance"}',
        '{"do": "runtime", "name": "jax"}',
        '{"do": "runtime"}',
        '{"do": "play", "sample": "../x"}',
        '{"do": "play", "sample": ["generated"]}',
        '{"do": "play", "path": {"a": 1}}',
        '{"do": "play", "path": "a\\u0000b"}',
        '{"do": "play", "path": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_nonsense_is_answered_and_the_connection_goes_on(page: Page, message: bytes | str, left: np.ndarray) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        socket.send(message)
        assert len(read(socket, "error")["text"]) > 10
        socket.send(frame_message(left[0], 0.0, 3))
        assert read(socket, "answer")["id"] == 3


def test_a_message_that_is_too_long_ends_the_connection(page: Page) -> None:
    with page.talk() as socket:
        read(socket, "hello")
        with pytest.raises(ConnectionClosed):
            exchange(socket, bytes(5 * 2**20))
    assert page.visitors(0) == 0


def test_pages_of_other_servers_are_refused(page: Page) -> None:
    with pytest.raises(InvalidStatus), page.talk(origin="https://elsewhere.example"):
        pass
    with page.talk(origin=page.url.rstrip("/")) as socket:
        read(socket, "hello")


def test_limits_are_kept(small_page: Page) -> None:
    assert small_page.visitors(0) == 0  # whoever was there before has left
    with small_page.talk() as socket:
        read(socket, "hello")
        with small_page.talk() as late:
            refused = read(late, "error")
            assert "1 places" in refused["text"] and refused["ended"]
        # one second of a file
        socket.send('{"do": "play", "sample": "generated"}')
        kinds = []
        while not kinds or kinds[-1] != "ended":
            message = socket.recv(timeout=60)
            if isinstance(message, bytes):
                socket.send('{"do": "seen"}')
                continue
            said = json.loads(message)
            kinds.append("ended" if said.get("ended") else said["note"])
        assert kinds == ["only the first 1 seconds are played", "ended"]
        # then silence
        assert read(socket, "error")["ended"]
    assert small_page.visitors(0) == 0
    with pytest.raises(urllib.error.HTTPError):
        small_page.upload("long.mp4", bytes(200_000))


# --- small parts ----------------------------------------------------------------------------------------------------------


def test_mirrored_exchanges_what_a_mirror_exchanges() -> None:
    labels = TSM.from_pretrained(CARD, runtime="onnx").labels
    seen = [labels[index] for index in mirrored(labels)]
    wanted = {"left": "right", "right": "left", "clockwise": "counter-clockwise", "counter-clockwise": "clockwise"}
    assert seen == [wanted.get(label, label) for label in labels]


@given(
    st.permutations(
        ["Swiping Left", "Swiping Right", "Turning Hand Counterclockwise", "Turning Hand Clockwise", "Stop"]
    )
)
def test_mirrored_is_its_own_inverse_and_knows_the_jester_names(labels: list[str]) -> None:
    places = mirrored(labels)
    assert [places[index] for index in places] == list(range(len(labels)))
    assert labels[places[labels.index("Swiping Left")]] == "Swiping Right"
    assert labels[places[labels.index("Turning Hand Clockwise")]] == "Turning Hand Counterclockwise"


def test_a_class_without_its_mirror_image_keeps_its_name() -> None:
    assert mirrored(["left", "up"]) == [0, 1]


@given(st.binary(max_size=300))
def test_garbage_is_an_input_error(data: bytes) -> None:
    for garbage in (data, b"\xff\xd8" + data, b"\xff\xd8\xff" + data):
        with pytest.raises(InputError):
            decode_frame(garbage, max_pixels=1000)


def test_the_size_is_read_from_the_header_of_every_kind_of_jpeg() -> None:
    picture = np.zeros((37, 53, 3), np.uint8)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]):
        assert jpeg_size(bytes(cv2.imencode(".jpg", picture, options)[1])) == (53, 37)
    assert decode_frame(bytes(cv2.imencode(".jpg", picture)[1]), max_pixels=2000).shape == (37, 53, 3)


def test_frames_are_rgb_and_no_wider_than_asked() -> None:
    red = np.zeros((100, 400, 3), np.uint8)
    red[..., 0] = 255
    again = decode_frame(encode_frame(red, width=200), max_pixels=10**6)
    assert again.shape == (50, 200, 3) and abs(again.mean(axis=(0, 1)) - [254, 0, 0]).max() < 3
