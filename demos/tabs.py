"""What every tab of the page is to the server, and what the tabs share."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from effvision.cards import Card, predictor_class

if TYPE_CHECKING:
    from effvision.demos.places import Visitors

__all__ = ["RUNTIME_TITLES", "Clip", "Tab", "about_card", "drawn_clip", "page_file", "same_origin"]

RUNTIME_TITLES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}

_PAGE = Path(__file__).parent / "page"


class Tab(Protocol):
    """One family's tab. Making one loads no model.

    Attributes:
        name: In addresses and as the tab's id.
        title: What the visitor reads.
        visitors: Who is connected to it.
    """

    name: str
    title: str
    visitors: Visitors

    def load(self) -> None:
        """Load its model now, so that what cannot work is said at the start.

        Raises:
            EffvisionError: it cannot work.
        """

    def routes(self) -> list[Any]:
        """Return the Starlette routes its page talks to."""

    def build(self) -> None:
        """Put its contents into the open `gradio.Blocks`."""

    def prepare(self) -> None:
        """Do what takes a while and can wait until the page is served; run in a thread."""


@dataclass(frozen=True)
class Clip:
    """A clip that can be played without a camera: what it is called, and what returns its file, made when first asked for."""

    title: str
    path: Callable[[], Path]


def drawn_clip(title: str, card: Card, folder: Path) -> Clip:
    """Return the sample of a card's family, drawn into this folder when it is first asked for."""
    drawing = threading.Lock()

    def path() -> Path:
        target = folder / f"{card.name}.mp4"
        with drawing:
            if not target.is_file():
                predictor_class(card.family).write_sample(target, card=card.name)
        return target

    return Clip(title, path)


def page_file(name: str) -> str:
    """Return the text of a file of the page."""
    return (_PAGE / name).read_text(encoding="utf-8")


def about_card(card: Card) -> str:
    """Return in HTML what a card says of itself: what it is, its data, its figures, its licence."""
    measured = "; ".join(f"{what}: {figure}" for what, figure in card.measured.items())
    facts = [
        f"{card.name}: {card.summary}",
        f"Trained on {card.data}" if card.data else "",
        f"Measured: {measured}" if measured else "",
        f"Licence of the weights: {card.licence}",
    ]
    return " ".join(html.escape(fact.rstrip(".") + ".") for fact in facts if fact)


def same_origin(socket: Any) -> bool:
    """Whether a browser's page, which opened this WebSocket, came from this server; programs send no origin."""
    origin, host = socket.headers.get("origin"), socket.headers.get("host")
    try:
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:  # no address at all
        return False
