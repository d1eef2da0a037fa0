"""SIGE's tab: a label map is painted on, and the picture follows, computed anew only where the map changed.

To the server:  bytes  1, uint32 number, uint32 stroke, uint16 left, top, width, height, then uint8 labels, row by row
                bytes  2, uint32 number, uint32 stroke, then a PNG file: another label map
                text   {"do": "undo" | "redo" | "measure", "id": number}
                text   {"do": "scene", "id": number, "stroke": n, "seed": n}
                text   {"do": "mode" | "runtime", "id": number, "name": ...}
To the page:    text   {"kind": "hello" | "measured" | "error", ...}
                bytes  uint32 length, {"kind": "drawn" | "refused", "id": number, ...} as JSON of that length, then
                       the pixels of the box `picture`, RGB; the mask of the box `area`, eight pixels a byte; the labels of
                       the box `labels`

Numbers are little endian, a box is [left, top, width, height]. Everything asked for is answered once, with its number, and in
order. The page has one question under way at a time: what is painted meanwhile goes into the next one. What carries the
same `stroke` is undone together. After `refused` the page has to take back what it painted: `labels` is the map as it is here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effvision.cards import Card
from effvision.checkpoints import bundled
from effvision.demos.channel import BROKEN, Limits, Models, Visitor
from effvision.demos.label_maps import read_png
from effvision.demos.painting import NOTHING, Box, Drawn, Painting
from effvision.demos.places import Visitors, Workers, live_route
from effvision.demos.tabs import RUNTIME_TITLES, about_card, page_file
from effvision.errors import EffvisionError, InputError
from effvision.models.sige.encoding import Encoding, parse_encoding
from effvision.models.sige.sample import first_map

__all__ = ["FAMILY", "MODES", "NAME", "TITLE", "EditVisitor", "EditingTab", "hello"]

NAME = "editing"
TITLE = "Edit a scene"
FAMILY = "sige"
MODES = ("local", "exact", "frozen")
"""How far a change is followed; what a mode promises is said by the session, since it depends on the runtime too."""

_FIRST_SCENE, _SCENES = 7, 10_000
_PAINT, _FILE = 1, 2
_PAINTED = struct.Struct("<BIIHHHH")
_FILED = struct.Struct("<BII")
_LONGEST_NUMBER = 2**32
_log = logging.getLogger(__name__)


def hello(card: Card, encoding: Encoding, runtimes: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Return what the page is told first: classes, choices and limits."""
    return {
        "card": card.name,
        "runtimes": [{"name": name, "title": RUNTIME_TITLES[name]} for name in runtimes],
        "size": [encoding.size[1], encoding.size[0]],
        "names": list(encoding.names),
        "colours": encoding.colours.tolist(),
        "modes": list(MODES),
        "seed": _FIRST_SCENE,
        "seeds": _SCENES,
        "file_bytes": limits.message_bytes - _FILED.size,
    }


class EditVisitor(Visitor):
    """One connection: a painting of its own.

    Args:
        socket: A Starlette WebSocket that was accepted.
        encoding: Classes, colours and size of the label map.
        turn: A lock that all visitors' computations share.
        **given: What `Visitor` takes.
    """

    def __init__(self, socket: Any, *, encoding: Encoding, turn: threading.Lock, **given: Any) -> None:
        super().__init__(socket, **given)
        self._encoding, self._turn = encoding, turn
        self._model: Any = None
        self._mode = MODES[0]
        self._next = 0.0  # when the next change may come

    async def _welcome(self) -> None:
        """Show the map at once, and the picture when there is a model."""
        await self._tell("hello", **self._hello, mode=self._mode, runtime=self._runtime)
        labels = await asyncio.to_thread(first_map, self._encoding, _FIRST_SCENE)
        await self._send(_packed("drawn", 0, labels=labels))
        self._model = await asyncio.to_thread(self._models.get, self._runtime)
        drawn = await self._work(self._open, self._model, self._mode, labels)
        await self._send(_packed("drawn", 0, drawn, **self._now()))

    def _now(self) -> dict[str, Any]:
        """How the picture is drawn now."""
        return {"mode": self._mode, "runtime": self._runtime, "promise": self._session.session.promise}

    def _open(self, model: Any, mode: str, labels: np.ndarray) -> Drawn:
        """Begin a painting with this map; what was painted so far is kept if that fails."""
        session = model.session(mode=mode, journal_mb=self._limits.journal_mb)
        painting = Painting(session, labels, self._turn, self._limits.strokes)
        drawn = painting.begin()
        self._session = painting
        return drawn

    # -- what comes from the page ----------------------------------------------------------------------------------------------

    async def _frame(self, message: bytes) -> None:
        kind = message[0] if message else 0
        header = {_PAINT: _PAINTED, _FILE: _FILED}.get(kind)
        if header is None or len(message) < header.size:
            raise InputError(f"a message is a change or a file; got {len(message)} bytes that begin with {kind}")
        _, number, stroke, *box = header.unpack_from(message)
        data = message[header.size :]
        if kind == _PAINT:
            await self._draw(number, self._paint, stroke, tuple(box), data)
        else:
            await self._draw(number, self._file_given, stroke, data)

    async def _command(self, text: str) -> None:
        try:
            asked = json.loads(text)
            what, number = asked["do"], asked["id"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"a command is a JSON object with `do` and `id`; got {text[:80]!r}") from error
        number = _whole("id", number, _LONGEST_NUMBER)
        if what in ("undo", "redo"):
            await self._draw(number, getattr(self._session, what))
        elif what == "scene":
            await self._draw(number, self._scene, asked)
        elif what in ("mode", "runtime"):
            await self._draw(number, self._choose, what, asked.get("name"))
        elif what == "measure":
            await self._draw(number, self._measure)
        else:
            await self._other(what, asked)

    async def _draw(self, number: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Do it and answer. Whatever fails: the painting is as it was before, and the page is told so."""
        await self._due()
        try:
            done = await self._work(function, *arguments)
        except Exception as error:
            if not isinstance(error, EffvisionError):
                _log.exception("a change could not be drawn")
            text = str(error) if isinstance(error, EffvisionError) else BROKEN
            return await self._send(_packed("refused", number, labels=self._session.labels, text=text, **self._now()))
        if not isinstance(done, Drawn):
            return await self._tell("measured", id=number, **done)
        await self._send(_packed("drawn", number, done, **self._now()))

    async def _due(self) -> None:
        """Wait until the next change is due; what the page paints meanwhile goes into one change."""
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + 1 / self._limits.updates_s

    # -- in a thread -----------------------------------------------------------------------------------------------------------

    def _paint(self, stroke: int, box: Box, data: bytes) -> Drawn:
        if len(data) != box[2] * box[3]:
            raise InputError(f"a change of {box[2]} x {box[3]} pixels needs as many labels; got {len(data)}")
        drawn: Drawn = self._session.paint(stroke, box, np.frombuffer(data, np.uint8))
        return drawn

    def _file_given(self, stroke: int, data: bytes) -> Drawn:
        drawn: Drawn = self._session.replace(stroke, read_png(data, self._encoding))
        return drawn

    def _scene(self, asked: Mapping[str, Any]) -> Drawn:
        labels = first_map(self._encoding, _whole("seed", asked.get("seed"), _SCENES))
        drawn: Drawn = self._session.replace(_whole("stroke", asked.get("stroke"), _LONGEST_NUMBER), labels)
        return drawn

    def _choose(self, what: str, name: Any) -> Drawn:
        """Go on with the same map in another mode or runtime; what could be undone is forgotten."""
        mode, runtime = (name, self._runtime) if what == "mode" else (self._mode, name)
        if mode not in MODES:
            raise InputError(f"there is no mode {str(mode)[:40]!r}; there are {', '.join(MODES)}")
        model = self._models.get(runtime)
        drawn = self._open(model, mode, self._session.labels)
        self._model, self._mode, self._runtime = model, mode, runtime
        return drawn

    def _measure(self) -> dict[str, Any]:
        """One full pass of the same map, in a session of its own."""
        found: dict[str, Any] = self._session.measure(self._model.session(mode=self._mode))
        return found


def _whole(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < most:
        raise InputError(f"`{name}` must be a whole number from 0 to {most - 1}; got {str(value)[:40]!r}")
    return value


def _packed(
    kind: str, number: int, drawn: Drawn | None = None, *, labels: np.ndarray | None = None, **said: Any
) -> bytes:
    """Return a message to the page: what was drawn, or nothing but a whole label map."""
    told = {"kind": kind, "id": number, "picture": NOTHING, "area": NOTHING, "labels": NOTHING, **said}
    payload = b""
    if drawn is not None:
        told |= {"picture": drawn.picture, "area": drawn.area, "labels": drawn.labels, **drawn.said}
        payload = drawn.payload
    elif labels is not None:
        told["labels"] = (0, 0, labels.shape[1], labels.shape[0])
        payload = labels.tobytes()
    text = json.dumps(told).encode()
    return struct.pack("<I", len(text)) + text + payload


class EditingTab:
    """The tab, as `effvision.demos.tabs.Tab` describes it.

    Args:
        card: Which weights draw.
        runtimes: That are installed; those the card can run in are offered.
        visitors: Who is connected, and the limits.
        uploads: Folder of uploaded files; none of this tab's lie there.
    """

    name = NAME
    title = TITLE

    def __init__(self, card: Card, runtimes: Sequence[str], visitors: Visitors, uploads: Path) -> None:
        self.card, self.visitors, self._uploads = card, visitors, uploads
        able = [name for name in runtimes if name == "torch" or bundled(card.onnx)]  # making the file takes PyTorch
        self.models = Models(card.name, able or ["torch"])  # without either the visitor reads what to install
        self._encoding = parse_encoding(card.preprocess, card.labels)
        self._turn = threading.Lock()

    def load(self) -> None:
        """Load the model.

        Raises:
            EffvisionError: it cannot be loaded.
        """
        self.models.get(self.models.runtimes[0]).session()

    def prepare(self) -> None:
        """Nothing takes long that could be done before somebody comes."""

    def build(self) -> None:
        """Put the tab's contents into the open `gradio.Blocks`."""
        import gradio as gr

        gr.HTML(
            html_template=page_file("edit.html"),
            css_template=page_file("live.css") + page_file("edit.css"),
            js_on_load=page_file("shared.js") + page_file("edit.js"),
            elem_id=NAME,
            padding=False,
        )
        gr.HTML(_about(self.card), elem_classes="about")

    def routes(self) -> list[Any]:
        """Return the tab's WebSocket."""
        limits = self.visitors.limits
        greeting = hello(self.card, self._encoding, self.models.runtimes, limits)

        def make(socket: Any, workers: Workers) -> EditVisitor:
            return EditVisitor(
                socket,
                encoding=self._encoding,
                turn=self._turn,
                models=self.models,
                hello=greeting,
                uploads=self._uploads,
                samples={},
                limits=limits,
                workers=workers,
            )

        return [live_route(NAME, self.visitors, make)]


def _about(card: Card) -> str:
    return (
        f"<p><b>What draws here.</b> {about_card(card)}</p>"
        "<p><b>Both times are measured here</b>, on the machine that serves this page: that of an update whenever you paint, "
        "that of a full pass of the same picture while you rest, or when you ask for it. Both run from the label map to the "
        "finished picture, in the same runtime and with the same threads (ONNX Runtime has one here); the way to your browser "
        "and back comes on top: see stroke to picture.</p>"
        "<p><b>Your label map</b> goes to that machine and nowhere else; nothing is written to disk, and it is forgotten when "
        "you leave.</p>"
    )
