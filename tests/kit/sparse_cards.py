"""Small cards of sparse networks, for tests: no weights are bundled for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from effvision import cards
from effvision.cards import Card

SCENE = {"kind": "scene", "voxel_m": 0.5, "features": ["height", "intensity"]}
POINTS = {**SCENE, "point_m": 0.125}
SCAN = {"kind": "scan", "voxel_m": 0.05}
LABELS = ("ground", "low vegetation", "trees", "building")
NARROW = [4, 4, 5, 6, 7, 6, 5, 4, 4]


def tiny(name: str, network: str, preprocess: Mapping[str, Any], **changes: Any) -> Card:
    """A card of a network that is quick to build, run and export."""
    settings: dict[str, Any] = {
        "summary": "for tests",
        "weights": f"{name}.safetensors",
        "licence": "Apache-2.0",
        "paper": "none",
        "data": "none",
        "urls": ("https://example.org/none.safetensors",),
        "network": {"network": network, "channels": NARROW},
        "labels": LABELS,
    }
    return Card(name=name, family="minkunet", task="segmentation", preprocess=preprocess, **{**settings, **changes})


CARDS = (
    tiny("spvcnn-tiny", "spvcnn", POINTS, default=True),
    tiny("minkunet-tiny", "minkunet", SCENE),
    tiny("minkunet-tiny-scan", "minkunet", SCAN),
    tiny("spvcnn-tiny-scan", "spvcnn", SCAN),
)


def add_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make them known, until the test ends."""
    known = {name: card for name, card in cards._read_all().items() if card.family != "minkunet"}
    monkeypatch.setattr(cards, "_read_all", lambda: {**known, **{card.name: card for card in CARDS}})
