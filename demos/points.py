"""The tab of point clouds: a file or a generated sample, its points in the colours of their classes, turned by hand.

A WebSocket a visitor. Nothing is loaded before somebody asks for a labelling, and one labelling runs at a time.

To the server:  text   {"do": "label", "turn": n, "card": ..., "runtime": ..., "sample": seed}
                text   {"do": "label", "turn": n, "card": ..., "runtime": ..., "name": ..., "bytes": n}, then the file:
                bytes  its next piece
                text   {"do": "cancel"}
To the page:    text   {"kind": "hello" | "progress" | "result" | "error", ...}
                bytes  pieces of the points of the last "result", see `effvision.demos.labelling`

What belongs to a labelling carries its `turn`. The labelled cloud can be fetched while its visitor stays:
GET /effvision/points/TOKEN.ply
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from effvision.cards import Card, default_card, get_card, list_cards, predictor_class
from effvision.demos.channel import BROKEN, Gone, Limits, Models
from effvision.demos.desk import Desk
from effvision.demos.labelling import Job, Stopped, check_name
from effvision.demos.places import Visitors, Workers, live_route
from effvision.demos.sharing import Pace, Turns
from effvision.demos.tabs import RUNTIME_TITLES, about_card, page_file
from effvision.errors import EffvisionError, InputError
from effvision.scans import CloudPredictor
from effvision.sources.clouds import CLOUD_SUFFIXES
from effvision.viz import class_colors

__all__ = ["FAMILIES", "NAME", "TITLE", "CloudVisitor", "PointsTab", "cards", "hello"]

NAME = "points"
TITLE = "Point clouds"
FAMILIES = ("pvcnn", "minkunet")  # the first one's default card is chosen where none is named

_PIECE = 2**19
_SAMPLES = 1000  # different ones
_LOOK_S = 0.2
_log = logging.getLogger(__name__)


def cards(chosen: Card | None) -> list[Card]:
    """Return the cards a visitor may choose from: the chosen one and those whose weights are part of the package."""
    bundled = [card for family in FAMILIES for card in list_cards(family) if card.bundled]
    return bundled if chosen is None or chosen in bundled else [chosen, *bundled]


def hello(chosen: Card | None, runtimes: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Return what the page is told first: names, colours, choices and limits."""
    return {
        "card": (chosen or default_card(FAMILIES[0])).name,
        "cards": [_told(card) for card in cards(chosen)],
        "runtimes": [{"name": name, "title": RUNTIME_TITLES[name]} for name in runtimes],
        "suffixes": list(CLOUD_SUFFIXES),
        "upload_bytes": limits.upload_bytes,
        "piece": min(_PIECE, limits.message_bytes),
        "samples": _SAMPLES,
    }


def _told(card: Card) -> dict[str, Any]:
    seen = {"scene": "a village", "room": "a room", "object": "an object", "scan": "a street"}
    return {
        "name": card.name,
        "summary": card.summary,
        "sees": seen[str(card.preprocess["kind"])],
        "fields": list(_predictor(card).fields_of(card)),
        "labels": list(card.class_names),
        "colours": class_colors(card.class_names).tolist(),
    }


def _predictor(card: Card) -> type[CloudPredictor]:
    return cast("type[CloudPredictor]", predictor_class(card.family))


@dataclass
class _Asked:
    """What a visitor wants labelled."""

    turn: int
    models: Models
    runtime: str
    name: str
    path: Path
    file: BinaryIO | None = None
    bytes: int = 0
    begun: float = field(default_factory=time.perf_counter)
    received: int = 0


class CloudVisitor:
    """One connection: the file it sends, the labelling it waits for, and the labelled cloud that it may fetch.

    Args:
        socket: A Starlette WebSocket that was accepted.
        models: By their cards.
        desk: Of all visitors.
        greeting: What the page is told first.
        folder: Of this visitor alone; removed when it leaves.
        results: Where a labelled cloud lies, by its token and with its name; of all visitors.
        limits: See `Limits`.
    """

    def __init__(
        self,
        socket: Any,
        *,
        models: Mapping[str, Models],
        desk: Desk,
        greeting: Mapping[str, Any],
        folder: Path,
        results: dict[str, tuple[Path, str]],
        limits: Limits,
    ) -> None:
        self._socket, self._models, self._desk, self._greeting = socket, models, desk, greeting
        self._folder, self._results, self._limits = folder, results, limits
        self._pace = Pace(limits.messages_per_s, limits.bytes_per_s)
        self._sending: _Asked | None = None
        self._working: asyncio.Task[None] | None = None
        self._token = ""
        self.files: set[Path] = set()  # its file does not come through Gradio

    async def run(self) -> None:
        """Talk to the page until it leaves or falls silent for long."""
        try:
            with contextlib.suppress(Gone):
                await self._talk()
        finally:
            await self._drop()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _talk(self) -> None:
        try:
            await self._tell("hello", **self._greeting)
            while True:
                patience = self._limits.kept_s if self._sending is None else self._limits.idle_s
                try:
                    message = await asyncio.wait_for(self._socket.receive(), patience)
                except asyncio.TimeoutError:
                    if self._working is not None and not self._working.done():
                        continue  # somebody waits
                    return
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    await self._pace.take(len(message.get("bytes") or message.get("text") or ""))
                except InputError as error:
                    return await self._tell("error", text=str(error))
                turn = self._sending.turn if self._sending else None
                try:
                    if message.get("bytes") is not None:
                        await self._piece(message["bytes"])
                    else:
                        text = message.get("text") or ""
                        turn = _turn(text)
                        await self._command(text)
                except EffvisionError as error:
                    await self._drop()
                    await self._tell("error", text=str(error), turn=turn)
        except Gone:
            raise
        except Exception:
            _log.exception("a visitor's connection failed")
            await self._tell("error", text=BROKEN)

    async def _command(self, text: str) -> None:
        try:
            asked = json.loads(text)
            what = asked["do"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"a command is a JSON object with `do`; got {text[:80]!r}") from error
        if what not in ("label", "cancel"):
            raise InputError(f"unknown command {str(what)[:40]!r}")
        await self._drop()
        if what == "label":
            await self._begin(asked)

    async def _begin(self, asked: Mapping[str, Any]) -> None:
        card = asked.get("card")
        if not isinstance(card, str) or card not in self._models:
            raise InputError(f"there is no model {str(card)[:60]!r} here; there are: {', '.join(self._models)}")
        turn, runtime = asked.get("turn"), asked.get("runtime")
        turn = turn if isinstance(turn, int) else 0
        self._folder.mkdir(parents=True, exist_ok=True)
        if "sample" in asked:
            seed = asked["sample"]
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SAMPLES:
                raise InputError(f"a sample's number is 0 to {_SAMPLES - 1}; got {str(seed)[:40]!r}")
            path = self._folder / "sample.ply"
            wanted = _Asked(turn, self._models[card], str(runtime), "the sample", path)
            write = _predictor(get_card(card)).write_sample
            self._start(wanted, lambda: write(path, card=card, seed=seed))
            return
        name, size = check_name(asked.get("name")), asked.get("bytes")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InputError(f"`bytes` is the size of the file; got {str(size)[:40]!r}")
        if size > self._limits.upload_bytes:
            raise InputError(
                f"{name} has {-(-size // 2**20)} MB; the limit here is {self._limits.upload_bytes // 2**20} MB\n"
                f"hint: the command line has none: effvision run {card} FILE --save labelled.ply"
            )
        path = self._folder / f"upload{Path(name).suffix.lower()}"
        self._sending = _Asked(turn, self._models[card], str(runtime), name, path, path.open("wb"), size)
        await self._piece(b"")

    async def _piece(self, data: bytes) -> None:
        sending = self._sending
        if sending is None or sending.file is None:
            return  # of a file that was refused or cancelled meanwhile
        sending.received += len(data)
        if sending.received > sending.bytes:
            raise InputError(f"{sending.name} is longer than it was said to be ({sending.bytes} bytes)")
        if time.perf_counter() - sending.begun > self._limits.upload_s:
            raise InputError(
                f"{sending.name} took more than {self._limits.upload_s:g} s to send, which is the limit here"
            )
        sending.file.write(data)
        await self._tell_progress(sending, "receive", sending.received, sending.bytes)
        if sending.received == sending.bytes:
            sending.file.close()
            self._sending = None
            self._start(sending)

    def _start(self, asked: _Asked, make: Callable[[], object] | None = None) -> None:
        self._working = asyncio.create_task(self._label(asked, make))

    async def _label(self, asked: _Asked, make: Callable[[], object] | None) -> None:
        sent = (time.perf_counter() - asked.begun) * 1e3

        async def before(count: int) -> None:
            await self._tell_progress(asked, "wait", count, 0)

        with contextlib.suppress(Gone):
            try:
                token = secrets.token_urlsafe(24)
                target = self._folder / f"{token}.ply"
                job = Job(
                    asked.models,
                    asked.runtime,
                    asked.path,
                    asked.name,
                    target,
                    self._limits,
                    make=make,
                    breathe=self._desk.breathe,
                )
                try:
                    async with self._desk.turn(before):
                        said, points = await self._watch(job, asked)
                finally:
                    asked.path.unlink(missing_ok=True)
                self._token = token
                self._results[token] = (target, f"{Path(asked.name).stem}-labelled.ply")
                times = {**({} if make else {"receive": sent}), **said.pop("times")}
                await self._tell("result", turn=asked.turn, token=token, bytes=len(points), times=times, **said)
                for at in range(0, len(points), _PIECE):
                    await self._send(points[at : at + _PIECE])
            except EffvisionError as error:
                await self._tell("error", text=str(error), turn=asked.turn)
            except (Gone, Stopped):
                raise Gone from None
            except Exception:
                _log.exception("a cloud could not be labelled")
                await self._tell("error", text=BROKEN, turn=asked.turn)

    async def _watch(self, job: Job, asked: _Asked) -> tuple[dict[str, Any], bytes]:
        """Run it in a thread, to its end, and tell how far it is: the next in the line must not begin beside it."""
        work = asyncio.get_running_loop().run_in_executor(self._desk.thread, job.run)
        try:
            told: object = None
            while not work.done():
                if (now := job.progress) != told:
                    told = now
                    await self._tell_progress(asked, *now)
                await asyncio.wait({work}, timeout=_LOOK_S)
        except (asyncio.CancelledError, Gone):
            job.stop()
            await asyncio.gather(work, return_exceptions=True)
            raise
        return work.result()

    async def _drop(self) -> None:
        """Stop what goes on, and delete the file and the labelled cloud."""
        sending, self._sending = self._sending, None
        if sending is not None and sending.file is not None:
            sending.file.close()
            sending.path.unlink(missing_ok=True)
        task, self._working = self._working, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            path.unlink(missing_ok=True)
        self._results.pop(self._token, None)

    async def _tell_progress(self, asked: _Asked, stage: str, done: int, total: int) -> None:
        await self._tell("progress", turn=asked.turn, stage=stage, done=done, total=total)

    async def _tell(self, kind: str, **content: Any) -> None:
        await self._send(json.dumps({"kind": kind, **content}))

    async def _send(self, message: str | bytes) -> None:
        send = self._socket.send_text if isinstance(message, str) else self._socket.send_bytes
        try:
            await asyncio.wait_for(send(message), self._limits.unread_s)
        except Exception as error:  # every state of a closing socket has a kind of its own
            raise Gone from error


def _turn(text: str) -> int | None:
    """The turn a command carries, so that an error can be told of it."""
    try:
        turn = json.loads(text)["turn"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return turn if isinstance(turn, int) else None


class PointsTab:
    """The tab, as `effvision.demos.tabs.Tab` describes it.

    Args:
        card: The one that is chosen first, None for the family's default.
        runtimes: That the visitor may choose from.
        limits: What a visitor may take.
        folder: For files of visitors; made when the first one comes, removed by the server.
        turns: Of the live frames on other tabs.

    Attributes:
        models: By their cards.
        desk: Where all labellings run.
    """

    name = NAME
    title = TITLE

    def __init__(
        self, card: Card | None, runtimes: Sequence[str], limits: Limits, folder: Path, turns: Sequence[Turns] = ()
    ) -> None:
        self._card, self._runtimes, self._limits, self._folder = card, tuple(runtimes), limits, folder
        # all threads: a labelling is short, and only one runs at a time
        self.models = {one.name: Models(one.name, runtimes, threads=None) for one in cards(card)}
        self._results: dict[str, tuple[Path, str]] = {}
        self.visitors = Visitors(limits)
        self.desk = Desk(turns)

    def load(self) -> None:
        """Load the chosen model.

        Raises:
            EffvisionError: it cannot be loaded.
        """
        self.models[self.first].get(self._runtimes[0])

    @property
    def first(self) -> str:
        """Name of the card that is chosen first."""
        return (self._card or default_card(FAMILIES[0])).name

    def labels(self) -> dict[str, list[str]]:
        """Return the class names of each card that a visitor may choose."""
        return {name: list(get_card(name).class_names) for name in self.models}

    def prepare(self) -> None:
        """Nothing takes long here."""

    def build(self) -> None:
        """Put the tab's contents into the open `gradio.Blocks`."""
        import gradio as gr

        gr.HTML(
            html_template=page_file("cloud.html"),
            css_template=page_file("live.css") + page_file("cloud.css"),
            js_on_load=page_file("cloud.js"),
            elem_id=NAME,
            padding=False,
        )
        gr.HTML(_about([get_card(name) for name in self.models], self._limits), elem_classes="about")

    def routes(self) -> list[Any]:
        """Return the tab's WebSocket, and the address of a labelled cloud."""
        from starlette.responses import FileResponse, PlainTextResponse
        from starlette.routing import Route

        greeting = hello(self._card, self._runtimes, self._limits)

        def make(socket: Any, workers: Workers) -> CloudVisitor:
            self._folder.mkdir(parents=True, exist_ok=True)
            return CloudVisitor(
                socket,
                models=self.models,
                desk=self.desk,
                greeting=greeting,
                folder=Path(tempfile.mkdtemp(dir=self._folder)),
                results=self._results,
                limits=self._limits,
            )

        async def labelled(request: Any) -> Any:
            path, name = self._results.get(request.path_params["token"], (None, ""))
            if path is None or not path.is_file():
                return PlainTextResponse("This labelled cloud is gone: its page was closed, or labelled another.", 404)
            return FileResponse(path, filename=name, media_type="application/octet-stream")

        return [
            live_route(NAME, self.visitors, make),
            Route(f"/effvision/{NAME}/{{token}}.ply", labelled),
        ]


def _about(shown: Sequence[Card], limits: Limits) -> str:
    answers = "<p><b>What answers here.</b></p>" + "".join(f"<p>{about_card(card)}</p>" for card in shown)
    return (
        f"{answers}<p><b>Files</b> of up to {limits.points:,} points and {limits.upload_bytes // 2**20} MB: "
        f"{', '.join(CLOUD_SUFFIXES)}; coordinates in metres, z up. Of more than {limits.shown_points:,} points the browser "
        "gets an even selection; all are labelled and downloaded.</p>"
        "<p><b>Your clouds</b> go to the machine this page came from and nowhere else. A file is deleted when it has been "
        "labelled, the labelled cloud when you open another, leave, or do nothing for "
        f"{round(limits.kept_s / 60)} minutes. Samples are generated there.</p>"
    )
