"""PatchNet's tab: boxes drawn by hand, or found by a detector on key frames, followed through a camera, a file or the sample.

Besides what `effvision.demos.channel` tells, a page may say

    {"do": "add", "boxes": [[x1, y1, x2, y2], ...]}     in pixels of the frame it got last, or of the camera's next one
    {"do": "remove", "ids": [...]}
    {"do": "hold"}, {"do": "go"}                        a file stands still, and goes on
    {"do": "settings", "by": "hand" | "detector", "detector": "colour" | "own", "every": n, "confidence": 0..1, "wait_ms": n}
    {"do": "detector", "path": ...}                     of an ONNX file that was uploaded
    {"do": "runtime", "name": ...}

A `play` may come with `hold`, and with `boxes` for the first frame. While a file stands still, what is asked for is done in the
frame that is shown, which is answered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from effvision.cards import Card
from effvision.demos.channel import Limits, Models, Visitor
from effvision.demos.detecting import ColourDetector, OwnDetector
from effvision.demos.places import Visitors, Workers, live_route
from effvision.demos.tabs import RUNTIME_TITLES, Clip, about_card, drawn_clip, page_file
from effvision.detections import as_detections
from effvision.errors import EffvisionError, InputError
from effvision.models.patchnet.accelerate import Accelerated, Share
from effvision.models.patchnet.memory import number
from effvision.sources import Frame
from effvision.tracks import Tracks
from effvision.viz.palette import id_color

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DEFAULTS", "FAMILY", "NAME", "TITLE", "TrackVisitor", "TrackingTab", "hello", "told"]

NAME = "tracking"
TITLE = "Tracking"
FAMILY = "patchnet"
DEFAULTS: Mapping[str, Any] = {"by": "hand", "detector": "colour", "every": 8, "confidence": 0.0, "wait_ms": 80}
_MOST_EVERY, _MOST_WAIT_MS = 30, 300.0


def hello(card: Card, runtimes: Sequence[str], clips: Mapping[str, Clip], limits: Limits) -> dict[str, Any]:
    """Return what the page is told first: names, choices and limits."""
    return {
        "card": card.name,
        "runtimes": [{"name": name, "title": RUNTIME_TITLES[name]} for name in runtimes],
        "samples": [{"name": name, "title": clip.title} for name, clip in clips.items()],
        "upload_bytes": limits.upload_bytes,
        "file_s": limits.file_s,
        "settings": dict(DEFAULTS),
        "most": {"every": _MOST_EVERY, "wait_ms": _MOST_WAIT_MS, "objects": limits.objects},
    }


def told(result: Tracks, image: np.ndarray, took_ms: float) -> dict[str, Any]:
    """Return what the page is told of a frame."""
    plain = result.to_dict()
    for one in plain["objects"]:
        one["colour"] = "#{:02x}{:02x}{:02x}".format(*id_color(one["id"]))
    return {
        "size": [image.shape[1], image.shape[0]],
        "objects": plain["objects"],
        "key": result.key,
        "ended": plain["ended"],
        "took_ms": round(took_ms, 2),
        "detector_ms": round(result.detector_ms, 2),
        "reset": result.reset_reason,
    }


class TrackVisitor(Visitor):
    """One connection: objects from boxes or from a detector, followed from frame to frame."""

    def __init__(self, socket: Any, **given: Any) -> None:
        super().__init__(socket, **given)
        self._model: Any = None
        self._settings: dict[str, Any] = dict(DEFAULTS)
        self._colour = ColourDetector()
        self._own: OwnDetector | None = None
        self._first: list[Any] = []  # boxes for the first frame of the file that is opened
        self._wanted: dict[str, list[Any]] = {}  # boxes and numbers to take up in the next frame
        self._drawn: tuple[Mapping[str, Any], dict[int, list[float]]] = ({}, {})  # a frame, and the boxes drawn in it
        self._stale = False  # the frame that is shown has to be answered again
        self._asked = asyncio.Event()  # something was said while a file stands still

    def _begin(self, model: Any) -> dict[str, Any]:
        self._model = model
        self._session = self._fresh(self._settings)
        return {}

    def _fresh(self, settings: Mapping[str, Any]) -> Any:
        """Return a session as these settings want it.

        Raises:
            InputError: one is out of range.
        """
        if settings["by"] == "hand":
            return self._model.session()
        return Accelerated(
            self._detect,
            self._model,
            every=settings["every"],
            confidence=settings["confidence"] or None,  # at 0 key frames come by the count alone
        )

    def _detect(self, image: np.ndarray) -> Any:
        """Run the chosen detector; of many boxes the best are kept."""
        detector = self._colour if self._settings["detector"] == "colour" else self._own
        assert detector is not None
        found = as_detections(detector(image), height=image.shape[0], width=image.shape[1])
        return found[(-found.scores).argsort(kind="stable")[: self._limits.objects]]

    # -- a frame ---------------------------------------------------------------------------------------------------------------

    def _answer(self, image: np.ndarray, **given: Any) -> dict[str, Any]:
        wanted, self._wanted = self._wanted, {}
        session, refused = self._session, ""
        drawn = self._drawn[1] if self._drawn[0] == given else {}  # the same frame again
        began = time.perf_counter()
        try:
            started = self._started(wanted, drawn)
            result = session.update(image, **given, **started)
        except InputError as error:  # the session is unchanged
            if not wanted:
                raise
            started, refused = self._started({}, drawn), str(error)
            result = session.update(image, **given, **started)
        said = told(cast(Tracks, result), image, (time.perf_counter() - began) * 1e3)
        new = len(started.get("boxes", ()))  # they come last
        self._drawn = (given, {one["id"]: one["box"] for one in said["objects"][len(result) - new :]})
        if isinstance(session, Accelerated):
            said["share"] = session.share.to_dict()
        return {**said, **({"refused": refused} if refused else {})}

    def _started(self, wanted: Mapping[str, list[Any]], drawn: Mapping[int, list[float]]) -> dict[str, Any]:
        """Return what a session is given: boxes drawn in this frame before stay where they were drawn."""
        more = dict(wanted)
        kept = {one: box for one, box in drawn.items() if one not in more.get("remove", ())}
        if kept:
            new, free = more.get("boxes", []), self._session.memory.next_id
            more["boxes"] = [*kept.values(), *new]
            more["ids"] = [*kept, *range(free, free + len(new))]
        return more

    async def _rest(self, frame: Frame, turn: int | None, shown: bool) -> float:
        """Stand still while it is wished; boxes are taken up in this very frame, also while the clip runs."""
        began, self._stale = time.monotonic(), not shown
        while self._held or self._wanted:
            self._asked.clear()
            if self._wanted or self._stale:
                self._stale = False
                await self._show(frame, turn)
            else:
                await self._asked.wait()
        return time.monotonic() - began

    async def _file(self, asked: Mapping[str, Any]) -> Path:
        self._first = self._checked("boxes", asked.get("boxes", []))
        self._held = asked.get("hold") is True
        return await super()._file(asked)

    async def _restart(self, reason: str) -> None:
        await super()._restart(reason)
        async with self._busy:
            self._wanted = {"boxes": self._first} if reason == "source" and self._first else {}
            self._drawn = ({}, {})
            if isinstance(self._session, Accelerated):
                self._session.share = Share()
        self._stale = True

    # -- commands --------------------------------------------------------------------------------------------------------------

    async def _command(self, text: str) -> None:
        await super()._command(text)
        self._asked.set()

    async def _other(self, what: object, asked: Mapping[str, Any]) -> None:
        if what == "add":
            await self._want("boxes", asked.get("boxes"))
        elif what == "remove":
            await self._want("remove", asked.get("ids"))
        elif what in ("hold", "go"):
            self._held = what == "hold"
        elif what == "settings":
            await self._set({name: asked[name] for name in DEFAULTS if name in asked})
        elif what == "detector":
            await self._open_detector(asked)
        elif what == "runtime":
            model = await asyncio.to_thread(self._models.get, asked.get("name", ""))
            async with self._busy:
                self._model, self._runtime, self._wanted, self._drawn = model, asked["name"], {}, ({}, {})
                self._session = self._fresh(self._settings)
            self._stale = True
            await self._tell("state", runtime=self._runtime)
        else:
            await super()._other(what, asked)

    async def _want(self, name: str, values: Any) -> None:
        async with self._busy:
            if self._settings["by"] != "hand":
                raise InputError("here the detector says what is followed\nhint: choose to draw the boxes yourself")
            there = len(self._session.memory.objects) if name == "boxes" else 0
            wanted = self._checked(name, values, [*self._wanted.get(name, [])], there=there)
            self._wanted = {**self._wanted, name: wanted} if wanted else self._wanted

    def _checked(self, name: str, values: Any, before: Sequence[Any] = (), *, there: int = 0) -> list[Any]:
        if not isinstance(values, list):
            raise InputError(f"`{name}` must be a list; got {str(values)[:40]!r}")
        if len(before) + len(values) + there > self._limits.objects:
            raise InputError(f"{self._limits.objects} objects are the most that are followed here at once")
        return [*before, *values]

    async def _set(self, changes: Mapping[str, Any], own: OwnDetector | None = None) -> None:
        """Take up settings, and perhaps a new detector; who is followed stays while the same detector goes on."""
        new = {**self._settings, **changes}
        if new["by"] not in ("hand", "detector") or new["detector"] not in ("colour", "own"):
            raise InputError(f"there is no such choice: {str([new['by'], new['detector']])[:60]}")
        if new["detector"] == "own" and (own or self._own) is None:
            raise InputError("open an ONNX file of a detector first")
        number("every", new["every"], least=1, most=_MOST_EVERY)
        number("confidence", new["confidence"], most=1.0)
        wait_ms = number("wait_ms", new["wait_ms"], most=_MOST_WAIT_MS)
        session = self._fresh(new)
        async with self._busy:
            before = self._session
            same = own is None and before is not None and self._settings["detector"] == new["detector"]
            if isinstance(session, Accelerated) and isinstance(before, Accelerated) and same:
                session.session = before.session
            self._session, self._settings, self._own = session, new, own or self._own
            self._colour.wait_ms, self._wanted, self._drawn = wait_ms, {}, ({}, {})
        self._stale = True
        await self._tell("state", settings=new)

    async def _open_detector(self, asked: Mapping[str, Any]) -> None:
        path = self._uploaded(asked)
        self.files.add(path)
        try:
            own = await asyncio.to_thread(lambda: OwnDetector(path, limit_s=self._limits.detector_s))
        except EffvisionError as error:
            raise InputError(str(error).replace(str(path), path.name)) from error
        finally:
            self._forget(path)
        await self._set({"by": "detector", "detector": "own"}, own)
        await self._tell("state", detector=path.name)


class TrackingTab:
    """The tab, as `effvision.demos.tabs.Tab` describes it.

    Args:
        card: Which weights follow.
        runtimes: That the visitor may choose from.
        visitors: Who is connected, and the limits.
        folder: For the sample; removed by the server.
        uploads: Folder of uploaded files.
    """

    name = NAME
    title = TITLE

    def __init__(self, card: Card, runtimes: Sequence[str], visitors: Visitors, folder: Path, uploads: Path) -> None:
        self.card, self.visitors, self._folder, self._uploads = card, visitors, folder, uploads
        self.models = Models(card.name, runtimes)

    @cached_property
    def _clips(self) -> dict[str, Clip]:
        return {"generated": drawn_clip("balloons, drawn", self.card, self._folder)}

    def load(self) -> None:
        """Load the model.

        Raises:
            EffvisionError: it cannot be loaded.
        """
        self.models.get(self.models.runtimes[0]).session()

    def prepare(self) -> None:
        """Draw the sample: it takes seconds."""
        with contextlib.suppress(EffvisionError, OSError):  # whoever plays it is told
            for clip in self._clips.values():
                clip.path()

    def build(self) -> None:
        """Put the tab's contents into the open `gradio.Blocks`."""
        import gradio as gr

        gr.HTML(
            html_template=page_file("track.html"),
            css_template=page_file("live.css") + page_file("track.css"),
            js_on_load=page_file("shared.js") + page_file("track.js"),
            elem_id=NAME,
            padding=False,
        )
        gr.HTML(_about(self.card, self.visitors.limits), elem_classes="about")

    def routes(self) -> list[Any]:
        """Return the tab's WebSocket."""
        limits = self.visitors.limits
        greeting = hello(self.card, self.models.runtimes, self._clips, limits)

        def make(socket: Any, workers: Workers) -> TrackVisitor:
            return TrackVisitor(
                socket,
                models=self.models,
                hello=greeting,
                uploads=self._uploads,
                samples={name: clip.path for name, clip in self._clips.items()},
                limits=limits,
                workers=workers,
            )

        return [live_route(NAME, self.visitors, make)]


def _about(card: Card, limits: Limits) -> str:
    mb = limits.upload_bytes // 2**20
    return (
        f"<p><b>What follows here.</b> {about_card(card)}</p>"
        "<p><b>The simple colour detector</b> finds patches of strong colour, such as the balloons of the sample; it is no "
        "network. It needs a few milliseconds, so it waits besides, as long as you choose, to stand for a heavier detector. "
        f"Your own detector can take its place: an ONNX file of up to {mb} MB, as ultralytics exports for YOLOv8 and later, or "
        "of YOLOv5. It runs on the machine this page came from.</p>"
        "<p><b>Your pictures</b> go to that machine and nowhere else; they are not kept. An uploaded video is deleted when you "
        "open another or leave, a detector's file as soon as it is loaded.</p>"
    )
