"""For tests of quantised exports: a network that names the colour of two frames ago, so that its answers hang on its state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from effvision import TSM
from effvision.export import int8, int8_streams, writer
from effvision.models.tsm.network import insert_temporal_shift

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "dark": (20, 20, 20)}
SIZE = 32


_traced: dict[Any, tuple[nn.Module, Any]] = {}


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a network that was exported before be taken from memory: tracing it is most of the time an export takes."""
    trace = writer._trace

    def traced(module: nn.Module, spec: Any, *more: Any) -> Any:
        key = (id(module), spec, *(item for item in more if isinstance(item, (int, str))))
        if key not in _traced:
            _traced[key] = (module, trace(module, spec, *more))
        copy = onnx.ModelProto()
        copy.CopyFrom(_traced[key][1])
        return copy

    monkeypatch.setattr(writer, "_trace", traced)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps are enough, and so small a network counts as faster: what it really takes says nothing."""
    trace_once(monkeypatch)
    monkeypatch.setattr(int8_streams, "LEAST_STEPS", 24)
    monkeypatch.setattr(int8_streams, "LEAST_CLIPS", 6)
    monkeypatch.setattr(int8, "time_ratio", lambda first, second, feeds: (0.5, 2.0, 1.0))


@lru_cache
def colour_model(*, spoilt: tuple[str, ...] = (), huge: float = 1000.0) -> TSM:
    """Four layers of weights, two of them behind a shift in time.

    Args:
        spoilt: Layers (`0`, `2`, `4`, `8`) with one huge weight on a channel that is always zero: it changes no answer, but one
            scale of int8 for it and the others leaves nothing of the others.
        huge: That weight.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    with torch.no_grad():
        for place in (0, 2, 4, 8):
            layer = network[place]
            layer.weight.mul_(0.02)
            layer.bias.zero_()
            layer.weight[-1] = 0  # the last channel stays zero, but for the answers'
            if place == 8:
                layer.bias[3] = 0.4
            for colour in range(3):
                layer.weight[colour] += torch.tensor([1.0] + [0.0] * (layer.weight.shape[1] - 1)).roll(colour).reshape(
                    -1, *[1] * (layer.weight.ndim - 2)
                ) / (16 if place == 0 else 1)
            if str(place) in spoilt:
                layer.weight[:3, -1] = huge
    shifted = insert_temporal_shift(network, direction="causal", fold=2, sites=["2", "4"]).eval()
    return TSM.from_network(shifted, labels=list(COLOURS), size=(SIZE, SIZE), fps=10.0)


def clip(names: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) of these colours, with noise."""
    rng = np.random.default_rng(seed)
    plain = np.array([COLOURS[name] for name in names], np.float32)[:, None, None]
    return np.clip(plain + rng.normal(0, 12, (len(names), SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def changing(count: int, *, length: int = 12, seed: int = 0) -> list[np.ndarray]:
    """Clips that go from colour to colour: an answer that forgets what was, or takes one state for another, is wrong."""
    rng = np.random.default_rng(seed)
    return [clip(rng.choice(list(COLOURS), length), seed=seed + place) for place in range(count)]


def steady(*, seed: int = 0, length: int = 8) -> list[tuple[np.ndarray, str]]:
    """A clip of each colour, with its label."""
    return [(clip([name] * length, seed=seed + place), name) for place, name in enumerate(COLOURS)]
