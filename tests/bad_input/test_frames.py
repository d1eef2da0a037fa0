"""Frames that are none, through every door; a refused one leaves the session as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effvision import TSM
from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from refusals import plain, refused, some_frame

DOORS: dict[str, Callable[[TSM, Any], Any]] = {
    "predict": lambda model, x: model.predict(x),
    "update": lambda model, x: model.session().update(x),
    "stream": lambda model, x: list(model.stream(iter([x]))),
}

BAD_FRAMES = [
    (np.zeros((24, 32), np.uint8), ShapeError, ["(24, 32)", "color='grey'"]),  # grey
    (np.zeros((24, 32, 1), np.uint8), ShapeError, ["(24, 32, 1)", "color='grey'"]),
    (np.zeros((24, 32, 4), np.uint8), ShapeError, ["(24, 32, 4)", "image[..., :3]"]),  # RGBA
    (np.zeros((3, 24, 32), np.uint8), ShapeError, ["(3, 24, 32)", "transpose"]),  # channels first
    (np.zeros((24, 32, 5), np.uint8), ShapeError, ["(24, 32, 5)"]),
    (np.zeros((1, 1, 24, 32, 3), np.uint8), ShapeError, ["(1, 1, 24, 32, 3)"]),
    (np.zeros((0, 32, 3), np.uint8), ShapeError, ["(0, 32, 3)"]),
    (np.zeros(3, np.uint8), ShapeError, ["(3,)"]),
    (np.zeros((24, 32, 3), np.int64), DTypeError, ["int64", "astype"]),
    (np.zeros((24, 32, 3), np.uint16), DTypeError, ["uint16", "257"]),
    (np.zeros((24, 32, 3), bool), DTypeError, ["bool"]),
    (np.zeros((24, 32, 3), complex), DTypeError, ["complex128"]),
    (np.zeros((24, 32, 3), object), DTypeError, ["object"]),
    (np.full((24, 32, 3), 1.5), RangeError, ["1.5", "0..1"]),
    (np.full((24, 32, 3), -0.01), RangeError, ["-0.01", "0..1"]),
    (np.full((24, 32, 3), np.nan, np.float32), RangeError, ["nan", "0..1"]),
    (np.full((24, 32, 3), np.inf, np.float32), RangeError, ["inf", "0..1"]),
    (Image.new("L", (32, 24)), ShapeError, ["mode L", "convert('RGB')"]),
    (Image.new("RGBA", (32, 24)), ShapeError, ["RGBA", "convert('RGB')"]),
    (torch.zeros(24, 32, dtype=torch.uint8), ShapeError, ["(24, 32)"]),
    (torch.full((3, 24, 32), 255.0), RangeError, ["255", "0..1"]),
    (torch.zeros(3, 24, 32, dtype=torch.int32), DTypeError, ["int32"]),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("bad", "kind", "words"), BAD_FRAMES, ids=lambda x: "-".join(x) if isinstance(x, list) else "")
def test_a_frame_that_is_none_is_refused(model: TSM, door: str, bad: Any, kind: type, words: list[str]) -> None:
    refused(lambda: DOORS[door](model, bad), *words, kind=kind)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [None, object(), b"bytes", bytearray(4), {"frame": 1}, 1.5, {1, 2}, len, ..., True])
def test_an_object_that_is_no_picture_is_refused_by_its_type(model: TSM, door: str, bad: object) -> None:
    refused(lambda: DOORS[door](model, bad), type(bad).__name__, kind=DTypeError)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (20000, 1), (1, 20000), (1, 2)])
def test_the_smallest_and_the_longest_frames_are_answered(model: TSM, door: str, height: int, width: int) -> None:
    assert DOORS[door](model, some_frame(height=height, width=width))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("height", "width"), [(20000, 1), (1, 20000)])
def test_a_thin_frame_that_would_fill_the_memory_is_refused(large: TSM, door: str, height: int, width: int) -> None:
    refused(lambda: DOORS[door](large, some_frame(height=height, width=width)), "20000", "crop", kind=InputError)


# --- a refused frame leaves the session as it was -----------------------------------------------------------------------

BAD_UPDATES: list[tuple[Any, dict[str, Any]]] = [
    (np.zeros((24, 32), np.uint8), {"timestamp": 0.2}),
    (np.full((24, 32, 3), np.nan), {"timestamp": 0.2, "source": "cam"}),
    (None, {"timestamp": 0.2}),
    (some_frame(height=20000, width=1), {"timestamp": 0.2}),  # found out only after the clock was asked
    (some_frame(height=20000, width=1), {"timestamp": 0.2, "source": "cam"}),
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": -5.0}),  # would be a seek
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": 99.0}),  # would be a gap
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": 0.2, "source": "other"}),
    *((some_frame(1), {"timestamp": bad}) for bad in (np.nan, np.inf, -np.inf, "0.2", b"1", True, [0.2], 1j, 10**400)),
    *((some_frame(1), {"timestamp": np.timedelta64(bad, "s")}) for bad in (1, "NaT")),
    *((some_frame(1), {"timestamp": 0.2, "source": bad}) for bad in (5, b"cam", ["cam"], np.zeros(3), object())),
    (some_frame(1), {"timestamp": 0.2, "typo": 1}),
]


@pytest.mark.parametrize(("bad", "options"), BAD_UPDATES)
def test_after_a_refused_frame_the_stream_goes_on_as_if_it_had_not_come(
    large: TSM, bad: Any, options: dict[str, Any]
) -> None:
    untouched, session = large.session(), large.session()
    for one in (untouched, session):
        one.update(some_frame(2), timestamp=0.0, source="cam")
        one.update(some_frame(3), timestamp=0.1, source="cam")
    refused(lambda: session.update(bad, **options))
    for step, seed in enumerate(range(4, 7)):
        given = {"timestamp": 0.2 + 0.1 * step, "source": "cam"}
        assert plain(session.update(some_frame(seed), **given)) == plain(untouched.update(some_frame(seed), **given))


def test_one_refused_frame_of_many_leaves_every_session_as_it_was(large: TSM) -> None:
    sessions, alone = [large.session(), large.session()], large.session()
    for session in (*sessions, alone):
        session.update(some_frame(2), timestamp=0.0)
    for bad in (np.zeros((2, 2), np.uint8), some_frame(height=20000, width=1)):
        at = [{"timestamp": 0.1}, {"timestamp": 0.1}]
        refused(lambda bad=bad, at=at: large.update_many(sessions, [some_frame(9), bad], at))
    wanted = plain(alone.update(some_frame(3), timestamp=0.1))
    for session in sessions:
        result = plain(session.update(some_frame(3), timestamp=0.1))
        assert result == wanted


@pytest.mark.parametrize(
    ("sessions", "inputs", "options"),
    [(1, 2, None), (2, 1, None), (2, 2, [{}]), (0, 1, None)],  # one of each is needed
)
def test_lengths_that_differ_are_refused(model: TSM, sessions: int, inputs: int, options: Any) -> None:
    opened = [model.session() for _ in range(sessions)]
    refused(lambda: model.update_many(opened, [some_frame()] * inputs, options), kind=InputError)


def test_a_session_of_another_model_or_given_twice_is_refused(model: TSM, large: TSM) -> None:
    one, other = model.session(), large.session()
    refused(lambda: model.update_many([one, one], [some_frame()] * 2), "twice", kind=InputError)
    refused(lambda: model.update_many([one, other], [some_frame()] * 2), "this predictor", kind=InputError)
