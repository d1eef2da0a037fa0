"""TSM's tab: a camera, an uploaded file or a sample, and the motion it shows, live."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvision.cards import Card
from effvision.demos.channel import Limits, Models, Visitor
from effvision.demos.places import Visitors, Workers, live_route
from effvision.demos.tabs import RUNTIME_TITLES, Clip, about_card, drawn_clip, page_file
from effvision.errors import EffvisionError, StreamingError
from effvision.results import Classification

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "DEFAULT",
    "FAMILY",
    "NAME",
    "TITLE",
    "GestureVisitor",
    "GesturesTab",
    "check",
    "hello",
    "mirrored",
    "samples",
]

NAME = "gestures"
TITLE = "Gestures"
FAMILY = "tsm"
DEFAULT = "tsm-mobilenetv2-motion"

_OTHER_SIDE = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "counter-clockwise": "clockwise",
}
_WORDS = re.compile(r"counter-?clockwise|clockwise|left|right", re.IGNORECASE)


def check(card: Card) -> None:
    """Refuse a card this tab cannot show, before its weights are looked for.

    Raises:
        StreamingError: its network was trained to see later frames.
    """
    if card.network.get("shift") == "bidirectional":
        raise StreamingError(
            f"{card.name} cannot stream: its shift is bidirectional, so each frame was trained to see later ones, which a "
            f"camera does not have\nhint: effvision run {card.name} clip.mp4 answers for whole clips"
        )


def mirrored(labels: Sequence[str]) -> list[int]:
    """Return for each class the one a viewer sees in a mirrored picture: left becomes right, clockwise the other way round.

    The network always sees the unmirrored picture. Only names change: where the exchanged name is no class of the model, the
    class keeps its own.
    """
    places = {_key(label): index for index, label in enumerate(labels)}
    return [places.get(_key(_exchange(label)), index) for index, label in enumerate(labels)]


def _key(label: str) -> str:
    return label.lower().replace("counter-clockwise", "counterclockwise")


def _exchange(label: str) -> str:
    return _WORDS.sub(lambda word: _OTHER_SIDE[word[0].lower()], label)


def hello(card: Card, runtimes: Sequence[str], clips: Mapping[str, Clip], limits: Limits) -> dict[str, Any]:
    """Return what the page is told first: names, choices and limits."""
    return {
        "card": card.name,
        "mirrored": mirrored(card.class_names),
        "runtimes": [{"name": name, "title": RUNTIME_TITLES[name]} for name in runtimes],
        "samples": [{"name": name, "title": clip.title} for name, clip in clips.items()],
        "upload_bytes": limits.upload_bytes,
        "file_s": limits.file_s,
    }


def samples(card: Card, folder: Path) -> dict[str, Clip]:
    """Return the clips that can be played without a camera, by name: one drawn here, and one that comes with Gradio."""
    clips = {"generated": drawn_clip("every motion, drawn", card, folder)}
    if (earth := _gradio_clip("world.mp4")) is not None:
        clips["earth"] = Clip("the Earth turns, filmed", lambda: earth)
    return clips


def _gradio_clip(name: str) -> Path | None:
    import gradio

    path = Path(gradio.__file__).parent / "media_assets" / "videos" / name
    return path if path.is_file() else None


class GestureVisitor(Visitor):
    """One connection: frames in, the motion they show out."""

    def _begin(self, model: Any) -> dict[str, Any]:
        self._session = model.session()
        return {"labels": list(model.labels), "rate": model.fps}

    def _answer(self, image: np.ndarray, **given: Any) -> dict[str, Any]:
        result = self._session.update(image, **given)
        assert isinstance(result, Classification)
        return {
            "chosen": result.chosen,
            "scores": [round(float(score), 4) for score in result.scores],
            "settled": result.settled,
            "fresh": result.fresh,
            "reset": result.reset_reason,
            "timing": result.timing.to_dict(),
        }

    async def _other(self, what: object, asked: Mapping[str, Any]) -> None:
        if what != "runtime":
            return await super()._other(what, asked)
        model = await asyncio.to_thread(self._models.get, asked.get("name", ""))
        # without smoothing and threshold: what each frame says by itself
        session = model.session(smoothing=None) if asked.get("quick") is True else model.session()
        session.reset("settings")
        async with self._busy:
            self._session, self._runtime = session, asked["name"]
        await self._tell("state", runtime=self._runtime)


class GesturesTab:
    """The tab, as `effvision.demos.tabs.Tab` describes it.

    Args:
        card: Which weights answer.
        runtimes: That the visitor may choose from.
        visitors: Who is connected, and the limits.
        folder: For the sample; removed by the server.
        uploads: Folder of uploaded files.

    Raises:
        StreamingError: the card's network was trained to see later frames.
    """

    name = NAME
    title = TITLE

    def __init__(self, card: Card, runtimes: Sequence[str], visitors: Visitors, folder: Path, uploads: Path) -> None:
        check(card)
        self.card, self.visitors, self._folder, self._uploads = card, visitors, folder, uploads
        self.models = Models(card.name, runtimes)

    @cached_property
    def _clips(self) -> dict[str, Clip]:
        return samples(self.card, self._folder)  # imports Gradio

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
            html_template=page_file("live.html"),
            css_template=page_file("live.css"),
            js_on_load=page_file("shared.js") + page_file("live.js"),
            elem_id=NAME,
            padding=False,
        )
        gr.HTML(_about(self.card), elem_classes="about")

    def routes(self) -> list[Any]:
        """Return the tab's WebSocket."""
        greeting = hello(self.card, self.models.runtimes, self._clips, self.visitors.limits)

        def make(socket: Any, workers: Workers) -> GestureVisitor:
            return GestureVisitor(
                socket,
                models=self.models,
                hello=greeting,
                uploads=self._uploads,
                samples={name: clip.path for name, clip in self._clips.items()},
                limits=self.visitors.limits,
                workers=workers,
            )

        return [live_route(NAME, self.visitors, make)]


def _about(card: Card) -> str:
    return (
        f"<p><b>What answers here.</b> {about_card(card)}</p>"
        "<p><b>Directions</b> are as you see them on this page: the network gets the picture as the camera takes it, and while "
        "the view is mirrored left and right, clockwise and counter-clockwise change places in the answer.</p>"
        "<p><b>Your pictures</b> go to the machine this page came from and nowhere else; they are not kept. An uploaded file "
        "is deleted when you open another or leave.</p>"
    )
