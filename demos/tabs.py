"""What every tab of the page is to the server, and what the tabs share."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from effvision.cards import Card

__all__ = ["RUNTIME_TITLES", "Tab", "about_card", "page_file", "same_origin"]

RUNTIME_TITLES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}

_PAGE = Path(__file__).parent / "page"


class Tab(Protocol):
    """One family's tab. Making one loads no model.

    Attributes:
        name: In addresses and as the tab's id.
        title: What the visitor reads.
    """

    name: str
    title: str

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
