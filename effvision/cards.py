"""Cards: what each set of weights is, where it lies, how its input is made, what was measured.

Every family keeps its cards in `models/<family>/cards.toml`; this module reads them all and knows no family by name.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from effvision.errors import CardError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - JetPack 6 ships Python 3.10
    import tomli as tomllib

__all__ = ["Card", "default_card", "get_card", "list_cards", "predictor_class", "toml_table"]


@dataclass(frozen=True)
class Card:
    """One set of weights.

    Attributes:
        name: What `from_pretrained` takes.
        family: Folder under `effvision.models`.
        task: Such as `classification`.
        summary: One line for `effvision list`.
        weights: File name of the weights, in the package or in the cache folder.
        urls: Addresses of the authors' file; empty for weights made here.
        sha256: Of a published file, where known; that of bundled files is in the weights' index.
        bundled: The file is part of the package.
        onnx: Bundled exported file, if there is one.
        default: The family's card when none is named.
        licence: Of the weights.
        paper: Citation with its section.
        data: What they were trained on.
        labels: Class names; empty where the authors' list is not part of this package.
        network: Settings of the family's network constructor.
        preprocess: Host-side preparation; sizes in pixels.
        options: Family facts, such as the trained frame rate.
        made_by: Command that makes bundled weights.
        measured: Figures with their source, for people.
    """

    name: str
    family: str
    task: str
    summary: str
    weights: str
    licence: str
    paper: str
    data: str
    network: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    classes: int = 0
    urls: tuple[str, ...] = ()
    sha256: str = ""
    bundled: bool = False
    onnx: str = ""
    default: bool = False
    made_by: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels, or `class 0`, `class 1`, ... where the names are not known here."""
        return self.labels or tuple(f"class {index}" for index in range(self.classes))


def toml_table(text: str) -> dict[str, Any]:
    """Read TOML text; Python 3.10 needs a package for it."""
    return tomllib.loads(text)


@cache
def _read_all() -> Mapping[str, Card]:
    cards: dict[str, Card] = {}
    folders = sorted(resources.files("effvision.models").iterdir(), key=lambda entry: entry.name)
    for folder in folders:
        table = folder.joinpath("cards.toml")
        if not table.is_file():
            continue
        data = toml_table(table.read_text(encoding="utf-8"))
        for name, entry in data["cards"].items():
            fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
            for key in ("preprocess", "options"):  # a card says only what differs from its family
                fields[key] = {**data.get(key, {}), **entry.get(key, {})}
            cards[name] = Card(name=name, family=data["family"], task=data["task"], **fields)
    return cards


def list_cards(family: str | None = None) -> list[Card]:
    """Return every card, or those of one family, the bundled ones first."""
    chosen = [card for card in _read_all().values() if family in (None, card.family)]
    return sorted(chosen, key=lambda card: (card.family, not card.default, not card.bundled, card.name))


def get_card(name: str, *, family: str | None = None) -> Card:
    """Return the card of that name; the name of a family stands for its default card.

    Raises:
        CardError: there is none (the message suggests near names), or it belongs to another family.
    """
    cards = _read_all()
    card = cards.get(name)
    if card is None and name in {entry.family for entry in cards.values()}:
        card = default_card(name)
    if card is None:
        names = [known for known, entry in cards.items() if family in (None, entry.family)]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known cards: {', '.join(names)}"
        raise CardError(f"there is no card and no file named {name!r}\nhint: {hint} (`effvision list` shows all)")
    if family is not None and card.family != family:
        raise CardError(
            f"card {name!r} belongs to the family {card.family}, not {family}\n"
            f"hint: from effvision import {predictor_class(card.family).__name__}"
        )
    return card


def default_card(family: str) -> Card:
    """Return the family's default card.

    Raises:
        CardError: there is no such family.
    """
    for card in list_cards(family):
        if card.default:
            return card
    families = sorted({card.family for card in _read_all().values()})
    raise CardError(f"there is no family {family!r}; there are {', '.join(families)}")


def predictor_class(family: str) -> Any:
    """Return the predictor class of a family: the one its `predictor.py` names in `PREDICTOR`.

    Raises:
        CardError: there is no such family.
    """
    if family not in {card.family for card in _read_all().values()}:
        default_card(family)
    return importlib.import_module(f"effvision.models.{family}.predictor").PREDICTOR
