"""One visitor's connection: frames in, answers out, over a WebSocket; everything a visitor holds is freed when it closes.

A camera lives in the browser: the page sends one JPEG per frame with the time it was taken, at most two without an answer, so
that a slow machine drops frames instead of falling behind. A file lives here: it was uploaded, is played at its own pace, and
each of its frames goes to the page with its answer. No frame is ever written to disk.

To the server:  bytes  float64 seconds, uint32 number, JPEG        (little endian)
                text   {"do": "reset" | "play" | "stop" | "seen" | what the tab adds, ...}
To the page:    text   {"kind": "hello" | "answer" | "state" | "error", ...}
                bytes  uint32 length, answer as JSON of that length, JPEG

What belongs to a file carries the `turn` its "play" came with, so that the page knows the last words of a clip it has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from effvision.demos.desk import behind
from effvision.demos.pictures import decode_frame, encode_frame
from effvision.demos.sharing import Pace
from effvision.demos.uploads import release
from effvision.errors import EffvisionError, InputError
from effvision.loading import RuntimeName
from effvision.predictor import Predictor
from effvision.sources import Frame, open_source
from effvision.sources.sniff import looks_like_image

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BROKEN", "Gone", "Limits", "Models", "Visitor"]

_HEADER = struct.Struct("<dI")
_UNSEEN = 2
_SHOWN_WIDTH = 640
_LATE_S = 0.25  # what a clip may make up for by playing faster
BROKEN = "The server failed, which is its fault, not yours; what happened is written where it was started."
_log = logging.getLogger(__name__)


class Gone(Exception):
    """The page has left, or reads nothing any more."""


@dataclass(frozen=True)
class Limits:
    """What one visitor, and all of them together, may take.

    Attributes:
        visitors: Connections at once, to each tab.
        message_bytes: Of one frame or command.
        messages_per_s: Frames and commands of one connection; it is not read from while it is faster.
        bytes_per_s: Likewise.
        pixels: Of one frame from the page.
        idle_s: Silence after which a connection is closed.
        unread_s: Time a page may take to make room for a message to it.
        upload_bytes: Of one file.
        upload_s: Seconds that sending one may take.
        stored_bytes: Of all uploaded files that are not deleted yet.
        ping_s: Seconds after which a page is asked whether it is still there, and again until it must have answered.
        file_s: Seconds of a file that are played.
        points: Of one cloud.
        unpacked_bytes: Of one cloud's file, as it says itself, once it is unpacked.
        labelling_s: Seconds of work on one cloud, while the others wait, or on one call of the programming interface.
        shown_points: Of a cloud, in the browser; the rest is labelled and downloaded all the same.
        kept_s: Silence after which a labelled cloud is deleted.
        objects: That are followed at once.
        detector_s: Seconds that a visitor's own detector may take to open, and for each frame.
        updates_s: Changes of an edited picture in a second; whoever sends more waits.
        strokes: Changes of an edited picture that can be undone.
        journal_mb: Megabytes for the last states of an edited picture; older ones are undone by computing them anew.
    """

    visitors: int = 24
    message_bytes: int = 2 * 2**20
    messages_per_s: float = 200.0
    bytes_per_s: float = 32 * 2**20
    pixels: int = 1920 * 1080
    idle_s: float = 300.0
    unread_s: float = 20.0
    upload_bytes: int = 100 * 2**20
    upload_s: float = 900.0
    stored_bytes: int = 2 * 2**30
    ping_s: float = 20.0
    file_s: float = 120.0
    points: int = 5_000_000
    unpacked_bytes: int = 2**30
    labelling_s: float = 600.0
    shown_points: int = 500_000
    kept_s: float = 1800.0
    objects: int = 24
    detector_s: float = 10.0
    updates_s: float = 40.0
    strokes: int = 100
    journal_mb: float = 64.0


class Models:
    """One card in each runtime, loaded once, when somebody first asks for it, and shared by all visitors.

    Args:
        card: Its name.
        runtimes: That may be asked for.
        threads: Of ONNX Runtime. One for live frames: more of them wait in a busy loop between frames, on the cores the
            browser needs. None takes all cores, of which all but one with what live frames leave.
    """

    def __init__(self, card: str, runtimes: Sequence[str], *, threads: int | None = 1) -> None:
        self.card = card
        self.runtimes = tuple(runtimes)
        self._threads = threads
        self._loaded: dict[str, Predictor] = {}
        self._lock = threading.Lock()

    def get(self, runtime: str) -> Predictor:
        """Return the model in this runtime.

        Raises:
            InputError: this server does not offer it.
            EffvisionError: it cannot be loaded.
        """
        if runtime not in self.runtimes:
            raise InputError(f"this server runs the model in {' or '.join(self.runtimes)}; got {str(runtime)[:40]!r}")
        if (loaded := self._loaded.get(runtime)) is not None:  # nobody waits while another runtime is loaded
            return loaded
        with self._lock:
            if runtime not in self._loaded:
                threads = self._threads if runtime == "onnx" else None
                chosen = cast(RuntimeName, runtime)
                load = partial(Predictor.from_pretrained, self.card, runtime=chosen, threads=threads)
                self._loaded[runtime] = behind(load) if self._threads is None else load()
            return self._loaded[runtime]


class Visitor:
    """One connection: a session of its own, the file it plays, and the answers on their way.

    A tab's own kind of visitor says how its session begins (`_begin`), what is told of a frame (`_answer`) and what else may be
    asked for (`_other`).

    Args:
        socket: A Starlette WebSocket that was accepted.
        models: Where the networks come from.
        hello: What the page is told first, besides what this class knows itself.
        uploads: Folder that uploaded files lie in; a path outside is refused.
        samples: Files the page may ask for by name; made when first played.
        limits: See `Limits`.
        workers: Runs a function in a thread when it is this visitor's turn; see `effvision.demos.sharing`.

    Attributes:
        files: What was uploaded for this visitor and is not deleted yet.
    """

    def __init__(
        self,
        socket: Any,
        *,
        models: Models,
        hello: Mapping[str, Any],
        uploads: Path,
        samples: Mapping[str, Callable[[], Path]],
        limits: Limits,
        workers: Callable[..., Any],
    ) -> None:
        self._socket, self._models, self._hello = socket, models, hello
        self._uploads, self._samples, self._limits, self._in_thread = uploads, samples, limits, workers
        self._pace = Pace(limits.messages_per_s, limits.bytes_per_s)
        self._runtime = models.runtimes[0]
        self._session: Any = None
        self._playing: asyncio.Task[None] | None = None
        self.files: set[Path] = set()
        self._unseen = 0
        self._held = False  # the file stands still
        self._busy = asyncio.Lock()  # a session is one stream: one update at a time

    async def run(self) -> None:
        """Talk to the page until it leaves or falls silent."""
        try:
            with contextlib.suppress(Gone):
                await self._talk()
        finally:
            await self._stop()
            self._session = None
            self._forget_files()

    async def _talk(self) -> None:
        try:
            await self._welcome()
            while True:
                try:
                    message = await asyncio.wait_for(self._socket.receive(), self._limits.idle_s)
                except asyncio.TimeoutError:
                    if self._playing is not None and not self._held:
                        continue  # somebody watches
                    raise
                if message["type"] == "websocket.disconnect":
                    return
                await self._pace.take(len(message.get("bytes") or message.get("text") or ""))
                try:
                    if message.get("bytes") is not None:
                        await self._frame(message["bytes"])
                    else:
                        await self._command(message.get("text") or "")
                except EffvisionError as error:
                    await self._tell("error", text=str(error))
        except asyncio.TimeoutError:
            text = "Nothing came for a while, so the place was given to others. Start again whenever you like."
            await self._tell("error", text=text, ended=True)
        except EffvisionError as error:  # the model cannot be loaded
            await self._tell("error", text=str(error), ended=True)
        except Gone:
            raise
        except Exception:
            _log.exception("a visitor's connection failed")
            await self._tell("error", text=BROKEN, ended=True)

    async def _welcome(self) -> None:
        """Load the model, begin a session, greet the page."""
        # what only waits or loads is not run by `workers`: it must not stop the others' frames
        model: Any = await asyncio.to_thread(self._models.get, self._runtime)
        told = self._begin(model)
        await self._tell("hello", **self._hello, **told, runtime=self._runtime)

    # -- what a tab fills in ---------------------------------------------------------------------------------------------------

    def _begin(self, model: Any) -> dict[str, Any]:
        """Begin a session in `self._session`; return what the page is told of the model."""
        raise NotImplementedError

    def _answer(self, image: np.ndarray, **given: Any) -> dict[str, Any]:
        """Take a frame and return what the page is told of it, as plain data; run in a thread."""
        raise NotImplementedError

    async def _other(self, what: object, asked: Mapping[str, Any]) -> None:
        """Do what only this tab's page asks for."""
        raise InputError(f"unknown command {str(what)[:40]!r}")

    async def _rest(self, frame: Frame, turn: int | None, shown: bool) -> float:
        """Stand still at this frame of a file if that is wished; return the seconds it took."""
        return 0.0

    # -- a camera's frames -----------------------------------------------------------------------------------------------------

    async def _frame(self, message: bytes) -> None:
        if self._playing is not None:
            return  # a last camera frame that was on its way when the file began
        if len(message) <= _HEADER.size:
            raise InputError(
                f"a frame is a header of {_HEADER.size} bytes and a JPEG picture; got {len(message)} bytes"
            )
        taken_s, number = _HEADER.unpack_from(message)
        try:
            async with self._busy:
                answer = await self._work(self._answer_jpeg, message[_HEADER.size :], taken_s)
        except EffvisionError as error:
            return await self._tell("error", text=str(error), id=number)
        await self._tell("answer", id=number, **answer)

    def _answer_jpeg(self, jpeg: bytes, taken_s: float) -> dict[str, Any]:
        started = time.perf_counter()
        image = decode_frame(jpeg, max_pixels=self._limits.pixels)
        decoded_ms = (time.perf_counter() - started) * 1e3
        return {**self._answer(image, timestamp=taken_s, source="camera"), "decode_ms": round(decoded_ms, 2)}

    # -- commands --------------------------------------------------------------------------------------------------------------

    async def _command(self, text: str) -> None:
        try:
            asked = json.loads(text)
            what = asked["do"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"a command is a JSON object with `do`; got {text[:80]!r}") from error
        if what == "seen":
            self._unseen = max(0, self._unseen - 1)
        elif what == "reset":
            await self._restart("reset")
        elif what == "stop":
            await self._stop()
        elif what == "play":
            await self._stop()
            self._playing = asyncio.create_task(self._play(asked))
        else:
            await self._other(what, asked)

    async def _file(self, asked: Mapping[str, Any]) -> Path:
        if (name := asked.get("sample")) is not None:
            if not isinstance(name, str) or name not in self._samples:
                raise InputError(f"there is no sample {str(name)[:40]!r}; there are: {', '.join(self._samples)}")
            self._forget_files()
            return Path(await asyncio.to_thread(self._samples[name]))
        path = self._uploaded(asked)
        self._forget_files(but=path)
        self.files.add(path)
        if looks_like_image(path):  # also keeps a picture of a few kilobytes from filling the memory
            raise InputError(f"{path.name} is a picture, which shows no motion; open a video")
        return path

    def _uploaded(self, asked: Mapping[str, Any]) -> Path:
        try:
            path = Path(os.path.realpath(str(asked.get("path", ""))))
            here = path.is_relative_to(os.path.realpath(self._uploads)) and path.is_file()
        except (ValueError, OSError):  # a NUL or half a character in it, a name too long
            here = False
        if not here:
            raise InputError("only a file that was uploaded here can be played")
        return path

    # -- a file's frames -------------------------------------------------------------------------------------------------------

    async def _play(self, asked: Mapping[str, Any]) -> None:
        turn = asked.get("turn") if isinstance(asked.get("turn"), int) else None
        name: Path | None = None
        try:
            with contextlib.suppress(Gone):
                try:
                    name = await self._file(asked)
                    await self._send_file(name, turn)
                    await self._tell("state", ended=True, turn=turn)
                except EffvisionError as error:
                    text = str(error) if name is None else str(error).replace(str(name), name.name)
                    await self._tell("error", text=text, stopped=True, turn=turn)
                except Gone:
                    raise
                except Exception:
                    _log.exception("a file could not be played")
                    await self._tell("error", text=BROKEN, stopped=True, turn=turn)
        finally:
            if self._playing is asyncio.current_task():
                self._playing = None  # the camera's turn again

    async def _send_file(self, path: Path, turn: int | None) -> None:
        """Send every frame at its own time with its answer; a page that is slow to show them skips some."""
        await self._restart("source")
        self._unseen = 0
        with await self._work(open_source, path) as source:
            frames = iter(source)
            begun: float | None = None
            while (frame := await self._work(next, frames, None)) is not None:
                if frame.timestamp > self._limits.file_s:
                    note = f"only the first {self._limits.file_s:g} seconds are played"
                    return await self._tell("state", note=note, turn=turn)
                begun = begun if begun is not None else time.monotonic() - frame.timestamp
                begun = max(begun, time.monotonic() - frame.timestamp - _LATE_S)
                await asyncio.sleep(max(0.0, begun + frame.timestamp - time.monotonic()))
                shown = await self._show(frame, turn, seen=self._unseen < _UNSEEN)
                begun += await self._rest(frame, turn, shown)

    async def _show(self, frame: Frame, turn: int | None, *, seen: bool = True) -> bool:
        """Answer a frame of a file, and send it unless the page has too many already."""
        async with self._busy:
            packed = await self._work(self._answer_frame, frame, seen, turn)
        if packed is not None:
            self._unseen += 1
            await self._send(packed)
        return packed is not None

    def _answer_frame(self, frame: Frame, seen: bool, turn: int | None) -> bytes | None:
        said = self._answer(frame.image, timestamp=frame.timestamp, source=frame.source)
        if not seen:
            return None
        told = {"kind": "answer", "id": frame.index, "turn": turn, **said, "at_s": frame.timestamp}
        answer = json.dumps(told).encode()
        return struct.pack("<I", len(answer)) + answer + encode_frame(frame.image, width=_SHOWN_WIDTH)

    async def _restart(self, reason: str) -> None:
        async with self._busy:
            self._session.reset(reason)

    async def _stop(self) -> None:
        task, self._playing = self._playing, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    # -- threads, messages, files ----------------------------------------------------------------------------------------------

    async def _work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run it in a thread, to its end: a task that is cancelled must not leave one behind that still changes the session."""
        work = asyncio.ensure_future(self._in_thread(function, *arguments))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            raise

    async def _tell(self, kind: str, **content: Any) -> None:
        await self._send(json.dumps({"kind": kind, **content}))

    async def _send(self, message: str | bytes) -> None:
        """Send it.

        Raises:
            Gone: nobody takes it.
        """
        send = self._socket.send_text if isinstance(message, str) else self._socket.send_bytes
        try:
            await asyncio.wait_for(send(message), self._limits.unread_s)
        except Exception as error:  # every state of a closing socket has a kind of its own
            raise Gone from error

    def _forget_files(self, *, but: Path | None = None) -> None:
        for path in self.files - {but}:
            self._forget(path)

    def _forget(self, path: Path) -> None:
        """Let go of an uploaded file; it is removed unless somebody else sent the same."""
        release(path)
        self.files.discard(path)
