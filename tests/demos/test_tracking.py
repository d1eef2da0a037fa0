"""What the tracking tab and the server say to each other: boxes, key frames, limits, and that visitors do not mix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_socket import FakeSocket
from websockets.sync.client import ClientConnection

from detector_files import finds_square
from effvision import PatchNet
from effvision.demos import detecting
from effvision.demos.channel import Limits, Models
from effvision.demos.detecting import ColourDetector, OwnDetector
from effvision.demos.pictures import decode_frame, encode_frame
from effvision.demos.tracking import DEFAULTS, TrackVisitor
from effvision.detections import Detections
from effvision.errors import DetectorError, InputError
from effvision.host.boxes import box_iou
from effvision.models.patchnet.sample import FIRST_BOXES, render
from page_server import TRACKER, Page, frame_message, read, unpacked
from waiting import wait_until

BOXES = [[float(place) for place in box] for box in FIRST_BOXES]
TAB = "tracking"


class Talk:
    """A page that draws on what it is shown."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.hello = read(socket, "hello")
        self.said: list[dict[str, Any]] = []  # besides frames

    def tell(self, what: str, **more: Any) -> None:
        self.socket.send(json.dumps({"do": what, **more}))

    def frame(self, *, timeout: float = 60.0) -> dict[str, Any]:
        """Return what is said of the next frame of a file."""
        while True:
            message = self.socket.recv(timeout=timeout)
            if isinstance(message, bytes):
                self.tell("seen")
                return unpacked(message)[0]
            self.said.append(json.loads(message))
            assert self.said[-1]["kind"] != "error", self.said[-1]

    def frames(self, count: int) -> list[dict[str, Any]]:
        return [self.frame() for _ in range(count)]

    def camera(self, image: np.ndarray, number: int) -> dict[str, Any]:
        """Send a camera's frame and return its answer."""
        self.socket.send(frame_message(image, number / 25, number))
        answer = read(self.socket, "answer")
        assert answer["id"] == number
        return answer


@pytest.fixture
def talk(page: Page) -> Iterator[Talk]:
    with page.talk(TAB) as socket:
        yield Talk(socket)
    assert page.visitors(0, tab=TAB) == 0, "leaving frees the session"


@pytest.fixture(scope="module")
def sky() -> list[np.ndarray]:
    return [image for image, _ in render(12)]


def boxes(answer: dict[str, Any]) -> np.ndarray:
    return np.array([one["box"] for one in answer["objects"]]).reshape(-1, 4)


def ids(answer: dict[str, Any]) -> list[int]:
    return [one["id"] for one in answer["objects"]]


# --- boxes --------------------------------------------------------------------------------------------------------------


def test_boxes_drawn_on_the_first_frame_are_followed_at_the_clips_own_pace(talk: Talk) -> None:
    assert talk.hello["card"] == TRACKER and talk.hello["settings"] == DEFAULTS
    talk.tell("play", sample="generated", turn=1, hold=True)
    first = talk.frame()
    assert first["id"] == 0 and first["size"] == [480, 360] and not first["objects"]
    talk.tell("add", boxes=BOXES[:1])
    talk.tell("add", boxes=BOXES[1:])
    while len((drawn := talk.frame())["objects"]) < 3:
        pass
    assert drawn["id"] == 0 and ids(drawn) == [1, 2, 3] and boxes(drawn) == pytest.approx(np.array(BOXES), abs=0.01)
    talk.tell("go")
    began = time.monotonic()
    truth = dict(enumerate(box for _, box in render(60)))
    while (answer := talk.frame())["id"] < 20:
        overlap = box_iou(boxes(answer), truth[answer["id"]]).diagonal()
        assert overlap[0] > 0.4, (answer["id"], overlap)
    assert time.monotonic() - began >= answer["at_s"] - 0.35, "not faster than it was made"
    assert answer["turn"] == 1 and answer["took_ms"] > 0
    # one is taken away, and one comes, while it runs
    talk.tell("remove", ids=[2])
    talk.tell("add", boxes=[[200, 20, 260, 90]])
    wait_until(lambda: ids(talk.frame()) == [1, 3, 4])
    # it stands still when it is told to
    talk.tell("hold")
    seen = [talk.frame()]
    with contextlib.suppress(TimeoutError):
        while len(seen) < 5:
            seen += [talk.frame(timeout=1.0)]
    assert len(seen) < 5, "only what was on its way"
    talk.tell("reset")
    cleared = talk.frame()
    assert cleared["id"] == seen[-1]["id"] and not cleared["objects"]


def test_a_clip_is_restarted_with_the_boxes_of_its_first_frame(talk: Talk) -> None:
    talk.tell("play", sample="generated", turn=1)
    talk.frames(3)
    talk.tell("play", sample="generated", turn=2, boxes=BOXES[:2])
    while (answer := talk.frame())["turn"] == 1:
        assert not answer["objects"]
    assert answer["id"] == 0 and ids(answer) == [1, 2]


def test_answers_for_a_camera_are_those_of_a_session(page: Page, talk: Talk, sky: list[np.ndarray]) -> None:
    """Two visitors at once, with other boxes in the same pictures."""
    model = PatchNet.from_pretrained(runtime="onnx", threads=1)
    with page.talk(TAB) as socket:
        other = Talk(socket)
        assert page.visitors(2, tab=TAB) == 2
        pairs = [(talk, model.session(), BOXES[:1]), (other, model.session(), BOXES[1:])]
        for number, image in enumerate(sky[:6]):
            seen = decode_frame(encode_frame(image, width=4096), max_pixels=10**6)
            for one, session, drawn in pairs:
                given = {"boxes": drawn} if number == 1 else {}
                if given:
                    one.tell("add", **given)
                wanted = session.update(seen, timestamp=number / 25, **given)
                answer = one.camera(image, number)
                assert boxes(answer) == pytest.approx(wanted.boxes, abs=0.02) and ids(answer) == wanted.ids.tolist()
    assert page.visitors(1, tab=TAB) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[[10, 10, NaN, 50]]", "finite"),
        ("[[10, 10, Infinity, 50]]", "finite"),
        ("[[10, 10, 10, 50]]", "x1 < x2"),
        ("[[50, 50, 10, 10]]", "x1 < x2"),
        ("[[1000, 1000, 1100, 1100]]", "outside the frame"),
        ("[[1e300, 1e300, 1.1e300, 1.1e300]]", "outside the frame"),
        ('[["a", 1, 2, 3]]', "numbers"),
        ("[[1, 2, 3]]", "(M, 4)"),
        ("[[[[1]]]]", "(M, 4)"),
        ("[{}]", "numbers"),
        ("[[1, 2, 3, 1" + "0" * 400 + "]]", "numbers"),
    ],
)
def test_a_box_that_cannot_be_is_refused_in_the_sessions_words(
    talk: Talk, sky: list[np.ndarray], wrong: str, said: str
) -> None:
    talk.tell("add", boxes=BOXES[:1])
    talk.camera(sky[0], 0)
    talk.socket.send('{"do": "add", "boxes": ' + wrong + "}")
    answer = talk.camera(sky[1], 1)
    assert said in answer["refused"] and ids(answer) == [1], answer
    assert ids(talk.camera(sky[2], 2)) == [1], "the session goes on"


def test_commands_that_make_no_sense_are_refused_and_change_nothing(talk: Talk, sky: list[np.ndarray]) -> None:
    talk.tell("add", boxes=BOXES[:1])
    talk.camera(sky[0], 0)
    most = talk.hello["most"]["objects"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"do": "add"}, "must be a list"),
        ({"do": "add", "boxes": "10 10 20 20"}, "must be a list"),
        ({"do": "add", "boxes": [BOXES[0]] * (most + 1)}, "the most"),
        ({"do": "add", "boxes": [BOXES[0]] * most}, "the most"),
        ({"do": "remove", "ids": 5}, "must be a list"),
        ({"do": "settings", "by": "magic"}, "no such choice"),
        ({"do": "settings", "by": []}, "no such choice"),
        ({"do": "settings", "detector": "own"}, "open an ONNX file"),
        ({"do": "settings", "by": "detector", "every": 0}, "at least 1"),
        ({"do": "settings", "by": "detector", "every": 31}, "up to 30"),
        ({"do": "settings", "by": "detector", "every": 2.5}, "whole number"),
        ({"do": "settings", "by": "detector", "every": True}, "must be a number"),
        ({"do": "settings", "confidence": 2}, "up to 1"),
        ({"do": "settings", "wait_ms": 1e9}, "up to 300"),
        ({"do": "settings", "wait_ms": float("nan")}, "wait_ms"),
        ({"do": "detector", "path": "/etc/passwd"}, "uploaded"),
        ({"do": "runtime", "name": "abacus"}, "this server runs"),
        ({"do": "fly"}, "unknown command"),
        ({"do": "play", "sample": "generated", "boxes": 3}, "must be a list"),
    ]
    for command, said in cases:
        talk.socket.send(json.dumps(command))
        error = read(talk.socket, "error")
        assert said in error["text"], (command, error)
    talk.tell("remove", ids=[77])
    answer = talk.camera(sky[1], 1)
    assert "77, which is not followed" in answer["refused"] and ids(answer) == [1]
    talk.socket.send(struct.pack("<dI", float("nan"), 9) + encode_frame(sky[2], width=4096))
    assert "timestamp" in read(talk.socket, "error")["text"]
    assert ids(talk.camera(sky[2], 2)) == [1]


def test_a_clip_that_stands_still_does_not_keep_a_place(tmp_path: Path) -> None:
    clip = PatchNet.write_sample(tmp_path / "clip.mp4", card=TRACKER)

    async def watch(hold: bool) -> FakeSocket:
        socket = FakeSocket()
        visitor = TrackVisitor(
            socket,
            models=Models(TRACKER, ("onnx",)),
            hello={},
            uploads=tmp_path,
            samples={"clip": lambda: clip},
            limits=Limits(idle_s=0.4, file_s=1.0),
            workers=asyncio.to_thread,
        )
        running = asyncio.create_task(visitor.run())
        await socket.wait_for("hello")
        socket.say({"do": "play", "sample": "clip", "hold": hold})
        await asyncio.wait_for(running, 60)
        return socket

    for hold in (True, False):
        heard = asyncio.run(watch(hold)).heard
        assert heard[-1]["kind"] == "error" and "place" in heard[-1]["text"]
        assert (hold, not hold) == (heard[-2]["kind"] == "frame", heard[-2].get("ended", False)), "one plays to its end"


# --- a detector on key frames ---------------------------------------------------------------------------------------------


def test_the_share_of_the_detector_follows_the_settings_and_numbers_stay(talk: Talk) -> None:
    talk.tell("settings", by="detector", every=10, wait_ms=250)
    assert read(talk.socket, "state")["settings"]["every"] == 10
    talk.tell("play", sample="generated", turn=1)
    answers = talk.frames(25)
    keys = [answer["id"] for answer in answers if answer["key"]]
    assert keys == [0, 10, 20] and ids(answers[0]) == [1, 2, 3] == ids(answers[20])
    assert {one["label"] for one in answers[0]["objects"]} == {"patch"}
    assert answers[-1]["share"]["keys"] == 3 and answers[-1]["share"]["of_frames"] == pytest.approx(3 / 25, abs=1e-3)
    assert all((answer["detector_ms"] >= 250) == answer["key"] for answer in answers)
    assert answers[-1]["share"]["speedup"] > 1
    # a new setting is seen at once, in the same numbers
    talk.tell("settings", every=2, wait_ms=30)
    wait_until(lambda: talk.frame() and talk.said)
    answers = talk.frames(8)
    assert answers[-1]["share"]["frames"] < 12 and answers[-1]["share"]["of_frames"] == pytest.approx(0.5, abs=0.1)
    assert ids(answers[-1]) == [1, 2, 3]
    talk.tell("add", boxes=BOXES[:1])
    while isinstance(message := talk.socket.recv(timeout=60), bytes):
        pass
    assert "detector says what is followed" in json.loads(message)["text"]


def test_the_colour_detector_finds_the_balloons_and_waits_as_long_as_it_is_told() -> None:
    for image, truth in render(30):
        found = ColourDetector()(image)
        overlap = box_iou(truth, found.boxes.astype(np.float64)).max(axis=1)
        assert len(found) == 3 and (overlap > 0.55).all(), overlap
    large = ColourDetector()(image.repeat(3, 0).repeat(3, 1))
    assert np.sort(large.boxes, 0) / 3 == pytest.approx(np.sort(found.boxes, 0), abs=3)
    assert len(ColourDetector()(np.zeros((5, 7, 3), np.uint8))) == 0
    began = time.perf_counter()
    ColourDetector(50)(image)
    assert time.perf_counter() - began >= 0.05


def test_an_own_detector_is_opened_used_and_deleted(page: Page, talk: Talk, tmp_path: Path) -> None:
    path = page.upload("mine.onnx", finds_square(tmp_path / "mine.onnx").read_bytes())
    talk.tell("detector", path=path)
    assert read(talk.socket, "state")["settings"] == {**DEFAULTS, "by": "detector", "detector": "own"}
    assert read(talk.socket, "state")["detector"] == "mine.onnx"
    assert not Path(path).exists(), "it is not needed once it is loaded"
    image = np.full((64, 96, 3), 20, np.uint8)
    image[20:44, 30:60] = 255
    answer = talk.camera(image, 0)
    assert answer["key"] and [one["label"] for one in answer["objects"]] == ["circle"]
    assert boxes(answer)[0] == pytest.approx([30, 20, 60, 44], abs=2)


@pytest.mark.parametrize("data", [b"no graph at all" * 20, b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.", b""])
def test_a_file_that_is_no_detector_is_said_so(page: Page, talk: Talk, sky: list[np.ndarray], data: bytes) -> None:
    talk.tell("detector", path=page.upload("wrong.onnx", data))
    text = read(talk.socket, "error")["text"]
    assert "wrong.onnx" in text and str(page.folder) not in text
    talk.tell("add", boxes=BOXES[:1])
    assert ids(talk.camera(sky[0], 0)) == [1], "the session goes on"


def test_a_detector_that_never_comes_back_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = threading.Event()

    def slow(path: Path, *, threads: int) -> Any:
        def detect(image: np.ndarray) -> Detections:
            done.wait(60)
            return Detections.empty()

        return detect

    monkeypatch.setattr(detecting, "OnnxDetector", slow)
    monkeypatch.setattr(detecting, "_stuck", set())
    image = np.zeros((4, 4, 3), np.uint8)
    own = [OwnDetector(tmp_path / "x.onnx", limit_s=0.05) for _ in range(5)]
    for one in own[:4]:
        with pytest.raises(DetectorError, match=r"more than 0\.05 s for one frame"):
            one(image)
    with pytest.raises(InputError, match="busy"):
        own[4](image)
    done.set()
    wait_until(lambda: not any(thread.is_alive() for thread in detecting._stuck))
    assert len(own[4](image)) == 0
