"""Sources that hold no frame, break, or are no film."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision import TSM
from effvision.errors import InputError, SourceError
from effvision.sources import VideoWriter
from refusals import cut_short, refused, some_frame


@pytest.mark.parametrize("empty", [[], (), iter([]), (frame for frame in []), np.zeros((0, 24, 32, 3), np.uint8)])
@pytest.mark.parametrize("door", ["predict", "stream"])
def test_no_frame_at_all_is_refused(model: TSM, door: str, empty: Any) -> None:
    run = model.predict if door == "predict" else lambda x: list(model.stream(x))
    with pytest.raises(InputError, match=r"no frame|at least one frame"):
        run(empty)


@pytest.mark.parametrize("error", [KeyError("mine"), ValueError("mine"), OSError("mine"), RuntimeError("mine")])
def test_an_error_of_the_users_own_iterator_passes_through_unchanged(model: TSM, error: Exception) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield some_frame()
        raise error

    with pytest.raises(type(error)) as caught:
        model.predict(frames())
    assert caught.value is error
    stream = model.stream(frames())
    assert next(stream).label
    with pytest.raises(type(error)) as caught:
        next(stream)
    assert caught.value is error


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6])
def test_a_video_that_is_cut_short_is_refused(model: TSM, folder: Path, share: float) -> None:
    whole = folder / "whole.avi"
    if not whole.is_file():
        with VideoWriter(whole, fps=10, size=(48, 64)) as video:
            for seed in range(12):
                video.write(some_frame(seed, 48, 64))
    bad = cut_short(whole, folder / f"cut{share}.avi", share)
    for door in (model.predict, lambda x: list(model.stream(x))):
        with pytest.raises(SourceError, match=bad.name):
            door(bad)


@pytest.mark.parametrize("name", ["text.mp4", "text.avi", "text.jpg", "text", "text.onnx"])
def test_a_file_of_text_is_refused_whatever_its_name(model: TSM, folder: Path, name: str) -> None:
    (folder / name).write_text("not a film\n" * 40)
    for door in (model.predict, lambda x: list(model.stream(x))):
        with pytest.raises(SourceError, match=name):
            door(folder / name)


def test_a_missing_file_suggests_the_one_that_was_meant(model: TSM, folder: Path) -> None:
    (folder / "holiday.mp4").write_bytes(b"")
    refused(lambda: model.predict(folder / "holidya.mp4"), "holidya.mp4", "holds holiday.mp4", kind=SourceError)
