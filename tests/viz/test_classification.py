"""The classification panel: legible on any picture, at any size, with any label."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.viz import draw_classification
from effvision.viz import text as text_module
from effvision.viz.text import Font, text_width, truncate

TOPK = [("Swiping Left", 0.87), ("Sliding Two Fingers Left", 0.08), ("Turning Hand Counterclockwise", 0.02)]
SIZES = [(64, 64), (240, 320), (480, 640), (1080, 1920), (1920, 1080), (2160, 3840)]


def plain(height: int, width: int, grey: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), grey, np.uint8)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[slice, slice]:
    rows, columns = np.nonzero((before != after).any(axis=2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def brightness(part: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Relative luminance (WCAG 2)."""
    linear = np.where(part / 255 <= 0.04045, part / 255 / 12.92, ((part / 255 + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ [0.2126, 0.7152, 0.0722])


def opencv_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw as if this were OpenCV 4, which has the stroke font only."""
    hidden = {name: getattr(cv2, name) for name in dir(cv2) if name != "FontFace"}
    monkeypatch.setattr(text_module, "import_cv2", lambda: SimpleNamespace(**hidden))


@pytest.fixture(params=["this OpenCV", "OpenCV 4"])
def either_opencv(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if request.param == "OpenCV 4":
        opencv_4(monkeypatch)
    return text_module


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_the_label_stands_out_on_dark_and_bright_pictures(height: int, width: int, grey: int) -> None:
    image = plain(height, width, grey)
    out = draw_classification(image, topk=TOPK, note="31 fps")
    rows, columns = changed(image, out)
    light = np.sort(brightness(out[rows, columns]).ravel())
    assert (light[-1] + 0.05) / (light[len(light) // 2] + 0.05) > 7  # WCAG AAA: letters against the panel


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_panel_keeps_to_a_small_part_of_the_lower_left(height: int, width: int) -> None:
    image = plain(height, width, 255)
    rows, columns = changed(image, draw_classification(image, topk=TOPK, note="31 fps"))
    limit = 0.20 if height >= 240 else 0.5
    assert (rows.stop - rows.start) * (columns.stop - columns.start) <= limit * height * width
    assert columns.start < width / 10 and rows.stop > 0.9 * height


def test_the_picture_given_is_not_touched() -> None:
    image = plain(240, 320, 200)
    out = draw_classification(image, topk=TOPK)
    assert (image == 200).all() and not np.shares_memory(image, out)


def test_the_bar_grows_with_the_score() -> None:
    def blue(score: float) -> int:
        out = draw_classification(plain(480, 640, 0), topk=[("Stop", score)])
        return int((out == (72, 199, 255)).all(axis=2).sum())

    lengths = [blue(score) for score in (0.0, 0.25, 0.5, 1.0)]
    assert lengths[0] == 0 and lengths == sorted(set(lengths))
    assert lengths[2] / lengths[3] == pytest.approx(0.5, abs=0.05)


def test_the_panel_does_not_jump_with_the_length_of_the_label() -> None:
    image = plain(480, 640, 255)
    panels = [changed(image, draw_classification(image, topk=[(label, 0.5)])) for label in ("a", "a long label " * 9)]
    assert panels[0] == panels[1]


def test_at_most_five_labels_are_shown() -> None:
    image = plain(480, 640, 90)
    many = [(f"label {index}", 0.1) for index in range(9)]
    np.testing.assert_array_equal(draw_classification(image, topk=many), draw_classification(image, topk=many[:5]))


@pytest.mark.usefixtures("either_opencv")
@pytest.mark.parametrize("label", ["Ärger", "日本語 Привет", "\U0001f44b wave", "नमस्ते", "a\nb\tc\x00d", "", "\ud800"])
def test_labels_beyond_ascii_are_drawn_without_a_crash(label: str) -> None:
    image = plain(240, 320, 90)
    assert draw_classification(image, topk=[(label, 0.5)], note=label).shape == image.shape


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)), label=st.text(max_size=30), score=st.floats(0, 1))
def test_any_size_and_label_gives_a_picture_of_the_same_size(size: tuple[int, int], label: str, score: float) -> None:
    out = draw_classification(plain(*size, 90), topk=[(label, score)] * 3, note=label)
    assert out.shape == (*size, 3) and out.dtype == np.uint8


@pytest.mark.usefixtures("either_opencv")
def test_long_text_is_cut_to_the_width() -> None:
    font = Font(16)
    cut = truncate("Turning Hand Counterclockwise", font, 120)
    assert cut.endswith("...") and cut.startswith("Turning") and text_width(cut, font) <= 120
    assert truncate("Stop", font, 120) == "Stop"
    assert truncate("Stop", font, 2) == ""


def test_without_a_unicode_font_accents_are_dropped_and_the_rest_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv_4(monkeypatch)
    assert text_module._printable("Ärger é 日本") == "Arger e ??"


@pytest.mark.parametrize(
    ("topk", "error"),
    [
        ([], "empty"),
        ([("a", 1.5)], "within 0..1"),
        ([("a", float("nan"))], "within 0..1"),
        ([("a",)], "list of"),
        (None, "list of"),
    ],
)
def test_scores_that_make_no_sense_are_refused(topk: object, error: str) -> None:
    with pytest.raises(InputError, match=error):
        draw_classification(plain(64, 64, 0), topk=topk)  # type: ignore[arg-type]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ShapeError):
        draw_classification(np.zeros((4, 4), np.uint8), topk=TOPK)
    with pytest.raises(DTypeError):
        draw_classification(np.zeros((4, 4, 3), np.float32), topk=TOPK)  # type: ignore[arg-type]
