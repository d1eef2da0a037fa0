"""TSM's tab: a camera, an uploaded file or a sample, and the motion it shows, live."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvision.cards import Card, get_card, predictor_class
from effvision.demos.channel import Limits
from effvision.errors import CardError, StreamingError

__all__ = ["NAME", "TITLE", "Clip", "build", "check", "hello", "mirrored", "samples"]

NAME = "gestures"
TITLE = "Gestures"

_PAGE = Path(__file__).parent / "page"
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
        CardError: it is of another family.
        StreamingError: its network was trained to see later frames.
    """
    if card.family != "tsm":
        raise CardError(f"the page has no tab for the family {card.family} of {card.name!r}")
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


@dataclass(frozen=True)
class Clip:
    """A clip that can be played without a camera: what it is called, and what returns its file, made when first asked for."""

    title: str
    path: Callable[[], Path]


def hello(card: Card, runtimes: Sequence[str], clips: Mapping[str, Clip], limits: Limits) -> dict[str, Any]:
    """Return what the page is told first: names, choices and limits."""
    titles = {"onnx": "ONNX Runtime", "torch": "PyTorch"}
    return {
        "card": card.name,
        "mirrored": mirrored(card.class_names),
        "runtimes": [{"name": name, "title": titles[name]} for name in runtimes],
        "samples": [{"name": name, "title": clip.title} for name, clip in clips.items()],
        "upload_bytes": limits.upload_bytes,
        "file_s": limits.file_s,
    }


def samples(card: Card, folder: Path) -> dict[str, Clip]:
    """Return the clips that can be played without a camera, by name: one drawn here, and one that comes with Gradio."""
    drawing = threading.Lock()

    def drawn() -> Path:
        path = folder / f"{card.name}.mp4"
        with drawing:
            if not path.is_file():
                predictor_class(card.family).write_sample(path, card=card.name)
        return path

    clips = {"generated": Clip("every motion, drawn", drawn)}
    if (earth := _gradio_clip("world.mp4")) is not None:
        clips["earth"] = Clip("the Earth turns, filmed", lambda: earth)
    return clips


def _gradio_clip(name: str) -> Path | None:
    import gradio

    path = Path(gradio.__file__).parent / "media_assets" / "videos" / name
    return path if path.is_file() else None


def build(card_name: str) -> None:
    """Put the tab's contents into the open `gradio.Blocks`."""
    import gradio as gr

    card = get_card(card_name)
    gr.HTML(
        html_template=_read("live.html"),
        css_template=_read("live.css"),
        js_on_load=_read("live.js"),
        elem_id=NAME,
        padding=False,
    )
    gr.HTML(_about(card), elem_classes="about")


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _about(card: Card) -> str:
    measured = "; ".join(f"{what}: {figure}" for what, figure in card.measured.items())
    facts = [
        f"{card.name}: {card.summary}",
        f"Trained on {card.data}" if card.data else "",
        f"Measured: {measured}" if measured else "",
    ]
    said = " ".join(html.escape(fact.rstrip(".") + ".") for fact in facts if fact)
    return (
        f"<p><b>What answers here.</b> {said}</p>"
        "<p><b>Directions</b> are as you see them on this page: the network gets the picture as the camera takes it, and while "
        "the view is mirrored left and right, clockwise and counter-clockwise change places in the answer.</p>"
        "<p><b>Your pictures</b> go to the machine this page came from and nowhere else; they are not kept. An uploaded file "
        "is deleted when you open another or leave.</p>"
    )
