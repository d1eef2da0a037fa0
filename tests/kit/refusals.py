"""For tests of bad input: a tiny model, frames, damage, and the demand that an error is ours and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn

from effvision import TSM, EffvisionError, Predictor, Result, Session
from effvision.models.tsm.network import insert_temporal_shift

CARD = "tsm-mobilenetv2-motion"
ADVICE = ("hint:", "must ", "need", "it takes", "give ", "leave out", "no pixels", "each stream has", "ends in")
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


# anything at all, for arguments
SHAPES = st.one_of(
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)),
)
ARRAYS = arrays.arrays(dtype=arrays.scalar_dtypes() | arrays.byte_string_dtypes(max_len=2), shape=SHAPES)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.builds(object),
    st.just(10**400),
    st.just(np.timedelta64("NaT")),
    st.just("x" * 5000),
    st.just("a\0b"),
    st.just("\udcff"),  # a file name that is no UTF-8
)
GARBAGE = st.recursive(
    ARRAYS | LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2) | st.tuples(inner)
    ),
    max_leaves=4,
)
NUMBERS = LEAVES | ARRAYS | st.sampled_from([np.float32(12), np.int64(3), np.bool_(True), np.longdouble("1e4000")])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def tiny_model(**options: Any) -> TSM:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    network = insert_temporal_shift(layers, sites=["1.conv", "2.conv"]).eval()
    given = {"labels": ["a", "b", "c", "d"], "size": (16, 16), "short_side": 16, "fps": 10.0, **options}
    return TSM.from_network(network, **given)


def some_frame(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(result: Any) -> dict[str, Any]:
    return {**result.to_dict(), "timing": None, "logits": result.logits.tolist()}


def refused(call: Callable[[], Any], *words: str, kind: type[EffvisionError] = EffvisionError) -> str:
    """Call it; demand our error, with these words and with advice; return the message."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert any(advice in message for advice in ADVICE), f"says not what to do: {message}"
    return message


def answers_or_refuses(call: Callable[[], Any]) -> bool:
    """Whether it answered; anything but a result, a session, a model or our own error fails the test."""
    try:
        answer = call()
    except EffvisionError:
        return False
    assert isinstance(answer, (Result, Session, Predictor, list))
    return True


def cut_short(path: Path, target: Path, share: float) -> Path:
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def damaged(data: Any, draw: st.DataObject) -> Any:
    """Replace or remove one value at any depth."""
    *path, last = draw.draw(st.sampled_from([place for place in places(data) if place]), label="place")
    data = json.loads(json.dumps(data))
    parent = data
    for key in path:
        parent = parent[key]
    if draw.draw(st.booleans(), label="remove"):
        del parent[last]
    else:
        parent[last] = draw.draw(JSON, label="new value")
    return data
