"""One visitor's connection without a server: races, failures inside, and a page that does not read."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_socket import FakeSocket

from effvision import TSM
from effvision.demos.channel import Limits, Models
from effvision.demos.gestures import GestureVisitor
from effvision.demos.server import remove_old
from effvision.demos.uploads import came, release
from effvision.models.tsm.clips import render_segments
from effvision.sources import VideoWriter
from page_server import CARD, frame_message

FRAME = np.zeros((48, 64, 3), np.uint8)


class SlowModel:
    """A model whose updates take a while and notice when two of one session overlap."""

    def __init__(self, took_s: float = 0.0, failure: Exception | None = None) -> None:
        self._model = TSM.from_pretrained(CARD, runtime="onnx", threads=1)
        self.labels, self.fps = self._model.labels, self._model.fps
        self.took_s, self.failure = took_s, failure
        self.inside, self.overlapped, self.lock = 0, False, threading.Lock()

    def session(self) -> Any:
        session = self._model.session()
        update = session.update

        def slowly(image: Any, **given: Any) -> Any:
            with self.lock:
                self.inside += 1
                self.overlapped |= self.inside > 1
            try:
                time.sleep(self.took_s)
                if self.failure is not None:
                    raise self.failure
                return update(image, **given)
            finally:
                with self.lock:
                    self.inside -= 1

        session.update = slowly  # type: ignore[method-assign]
        return session


class OneModel(Models):
    def __init__(self, model: SlowModel) -> None:
        super().__init__(CARD, ("onnx",))
        self._loaded["onnx"] = model  # type: ignore[assignment]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "up.mp4"
    with VideoWriter(path, fps=30, size=(96, 128)) as video:
        for frame in render_segments((("up", 2.0),), size=(96, 128), fps=30, seed=15)[0]:
            video.write(frame)
    return path


def run(
    model: SlowModel, clip: Path, talk: Callable[[FakeSocket], Awaitable[None]], *, limits: Limits, deaf: bool = False
) -> list[Any]:
    """Let `talk` speak for the page; return what it heard by the time the visitor had gone."""

    async def both() -> list[Any]:
        socket = FakeSocket(deaf=deaf)
        visitor = GestureVisitor(
            socket,
            models=OneModel(model),
            hello={},
            uploads=clip.parent,
            samples={"clip": lambda: clip},
            limits=limits,
            workers=asyncio.to_thread,
        )
        running = asyncio.create_task(visitor.run())
        await talk(socket)
        await asyncio.wait_for(running, 60)
        return socket.heard

    return asyncio.run(both())


def test_stopping_a_clip_waits_for_the_thread_that_works_on_it(clip: Path) -> None:
    """A task can be cancelled, its thread cannot: it would write the old clip's state over the camera's."""
    model = SlowModel(took_s=0.15)

    async def talk(socket: FakeSocket) -> None:
        for number in range(4):
            frames = socket.count("frame")
            socket.say({"do": "play", "sample": "clip", "turn": number})
            await socket.wait_for("frame", frames + 1)
            await asyncio.sleep(0.05)  # the next update is under way
            socket.say({"do": "stop"})
            socket.say(frame_message(FRAME, number, number))
            await socket.wait_for("answer", number + 1)
        socket.leave()

    run(model, clip, talk, limits=Limits())
    assert not model.overlapped


@pytest.mark.parametrize("way", ["camera", "file"])
def test_a_failure_inside_is_told_and_frees_the_place(clip: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    async def talk(socket: FakeSocket) -> None:
        socket.say(frame_message(FRAME, 0, 0) if way == "camera" else {"do": "play", "sample": "clip", "turn": 1})
        await socket.wait_for("error")
        if way == "file":
            socket.leave()

    heard = run(SlowModel(failure=ZeroDivisionError("inside")), clip, talk, limits=Limits())
    error = heard[-1]
    assert "its fault" in error["text"] and error["ended" if way == "camera" else "stopped"]
    assert "ZeroDivisionError" in caplog.text


def test_a_page_that_does_not_read_is_left(clip: Path) -> None:
    async def talk(socket: FakeSocket) -> None:
        pass

    model, started = SlowModel(), time.monotonic()
    run(model, clip, talk, limits=Limits(unread_s=0.2), deaf=True)
    assert time.monotonic() - started < Limits().unread_s


def test_only_old_files_that_nobody_plays_are_removed(tmp_path: Path) -> None:
    for name in ("old/a.mp4", "played/b.mp4", "new/c.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path / "old/a.mp4", tmp_path / "old", tmp_path / "played/b.mp4", tmp_path / "played"):
        os.utime(path, (0, 0))
    remove_old(tmp_path, older_than_s=300, but={tmp_path / "played/b.mp4"})
    remove_old(tmp_path / "nowhere", older_than_s=300, but=set())
    assert sorted(path.name for path in tmp_path.rglob("*.mp4")) == ["b.mp4", "c.mp4"]


def test_an_upload_nobody_came_for_is_forgotten_and_a_folder_in_use_stays(tmp_path: Path) -> None:
    for name in ("sent", "answers"):  # an answer will be written to the empty one, when its turn has come
        (tmp_path / name).mkdir()
    sent = tmp_path / "sent" / "clip.mp4"
    sent.write_bytes(b"x")
    came(sent)
    for path in (sent, sent.parent, tmp_path / "answers"):
        os.utime(path, (0, 0))
    remove_old(tmp_path, older_than_s=300, but={tmp_path / "answers"})
    assert [path.name for path in tmp_path.iterdir() if path.name != "sent"] == ["answers"] and not sent.exists()
    sent.parent.mkdir(exist_ok=True)
    sent.write_bytes(b"x")
    came(sent)
    release(sent)  # one came, one let go; the old claim does not keep it
    assert not sent.exists()
