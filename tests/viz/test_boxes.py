"""Boxes and labels: on any ground, at any size, anywhere in the picture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.viz import boxes as module
from effvision.viz import draw_boxes, id_color
from effvision.viz import text as text_module
from effvision.viz.palette import luminance

SIZES = [(240, 320), (480, 640), (1080, 1920), (1920, 1080), (2160, 3840)]


def plain(height: int, width: int, grey: int = 128) -> NDArray[np.uint8]:
    return np.full((height, width, 3), grey, np.uint8)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The area that was drawn on, x1 y1 x2 y2; zeros for nothing."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def has(image: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((image == np.array(color, np.uint8)).all(axis=2))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_lines_and_letters_grow_with_the_picture(height: int, width: int) -> None:
    image = plain(height, width)
    box = [width // 4, height // 2, width // 2, 3 * height // 4]
    out = draw_boxes(image, [box], colors=[(255, 0, 0)])
    line = int(has(out, (255, 0, 0))[box[1] + 2 * height // 16, : width * 3 // 8].sum())  # across the left side
    assert 2 <= line <= 8
    assert line >= 0.0025 * min(height, width) - 1
    x1, y1, x2, y2 = changed(image, out)
    assert (abs(np.array([x1, y1, x2, y2]) - box) <= line).all()
    labelled = draw_boxes(image, [box], colors=[(255, 0, 0)], labels=["car"])
    chip = box[1] - changed(image, labelled)[1]
    assert 0.02 * min(height, width) <= chip <= 0.07 * min(height, width)


@pytest.mark.parametrize("grey", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("lost", [False, True])
def test_a_box_shows_on_any_ground(grey: int, lost: bool) -> None:
    """Its line or the dark edge of it stands out: WCAG asks for a contrast of 3 for what is no text."""
    image = plain(480, 640, grey)
    out = draw_boxes(image, [[100, 100, 300, 300]], ids=[1], lost=[lost])
    across = [luminance(tuple(pixel)) for pixel in out[101, 98:108].tolist()]  # the corner is closed in dashes too
    ground = luminance((grey, grey, grey))
    contrasts = [(max(light, ground) + 0.05) / (min(light, ground) + 0.05) for light in across]
    assert max(contrasts) > 3


def test_what_is_lost_looks_lost() -> None:
    image = plain(480, 640, 60)
    box = [[100, 100, 400, 300]]
    found, lost = draw_boxes(image, box, ids=[3]), draw_boxes(image, box, ids=[3], lost=[True])
    color = id_color(3)
    side = slice(110, 290)
    assert has(found, color)[side, 100:102].all()
    assert not has(lost, color)[side, 100:102].any()
    drawn = (lost[side, 100] != image[side, 100]).any(axis=1)
    assert 0.3 < drawn.mean() < 0.9  # dashes
    assert has(lost, color)[:100].any()  # the chip still says by its stripe whose box it is


def test_a_lost_box_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(module, "write_text", lambda image, text, *rest: written.append(text))
    image = plain(480, 640)
    draw_boxes(image, [[100, 100, 200, 200]] * 3, labels=["7 car", None, "8"], lost=[True, True, False])
    assert [text for text in written if text] == ["7 car", "LOST", "LOST", "8"]


def test_ids_are_labels_unless_there_are_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(module, "write_text", lambda image, text, *rest: written.append(text))
    draw_boxes(plain(480, 640), [[100, 100, 200, 200]], ids=[12])
    draw_boxes(plain(480, 640), [[100, 100, 200, 200]], ids=[12], labels=[""])
    assert written == ["12"]


box_side = st.floats(-300, 900)


@given(
    st.integers(1, 500),
    st.integers(1, 700),
    st.lists(st.tuples(box_side, box_side, st.floats(0, 500), st.floats(0, 500)), min_size=1, max_size=8),
    st.lists(st.sampled_from(["", "7", "12 person 0.93", "x" * 200, "Zürich\n日本"]), min_size=8, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_no_label_leaves_the_picture(
    height: int, width: int, rows: list[tuple[float, ...]], labels: list[str], lost: list[bool]
) -> None:
    image = plain(height, width)
    seen: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_text", lambda part, *rest: seen.append(part.shape))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in rows]
        out = draw_boxes(image, boxes, ids=range(len(rows)), labels=labels[: len(rows)], lost=lost[: len(rows)])
    assert out.shape == image.shape and out.dtype == np.uint8
    assert (image == 128).all()  # the caller's stays
    chip = round(1.5 * max(10, round(0.0165 * (height * width) ** 0.5)))
    assert all(shape[0] == chip and shape[1] <= width for shape in seen)  # a part over the border would be cut


@pytest.mark.parametrize(
    "box", [(0, 0, 60, 40), (580, 0, 640, 40), (0, 440, 60, 480), (580, 440, 640, 480), (0, 0, 640, 480)]
)
def test_boxes_at_the_border_keep_all_their_sides(box: tuple[int, int, int, int]) -> None:
    out = has(draw_boxes(plain(480, 640), [box], colors=[(255, 0, 0)]), (255, 0, 0))
    x1, y1, x2, y2 = box
    assert out[y1 : y1 + 2, x1:x2].all() and out[y2 - 2 : y2, x1:x2].all()
    assert out[y1:y2, x1 : x1 + 2].all() and out[y1:y2, x2 - 2 : x2].all()


@pytest.mark.parametrize(
    "box", [(300, 200, 300, 200), (300.2, 200.2, 301.1, 201), (300, 200, 303, 203), (300, 200, 302, 240)]
)
def test_a_tiny_box_leaves_its_object_visible(box: tuple[float, float, float, float]) -> None:
    out = has(draw_boxes(plain(480, 640), [box], colors=[(255, 0, 0)]), (255, 0, 0))
    rows, columns = np.nonzero(out)
    assert columns.max() - columns.min() >= 9 and rows.max() - rows.min() >= 9
    middle = round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)
    assert not out[middle[1], middle[0]]


def test_what_lies_outside_is_not_drawn() -> None:
    image = plain(480, 640)
    outside = [[640, 10, 700, 50], [-50, 10, 0, 50], [10, -50, 50, 0], [10, 480, 50, 1e9]]
    out = draw_boxes(image, outside, labels=["a", "b", "c", "d"], lost=[True] * 4)
    np.testing.assert_array_equal(out, image)
    assert changed(image, draw_boxes(image, [[-1e12, -1e12, 1e12, 1e12]])) == (0, 0, 640, 480)


def test_labels_of_neighbours_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, int, int, int]] = []
    place = module._place

    def watched(*arguments: Any) -> tuple[int, int, int, int]:
        places.append(place(*arguments))
        return places[-1]

    monkeypatch.setattr(module, "_place", watched)
    draw_boxes(plain(480, 640), [[100, 100, 200, 300], [102, 101, 203, 302], [104, 98, 200, 299]], ids=[1, 2, 3])
    assert len({top for _, top, _, _ in places}) == 3
    apart = [abs(one[1] - other[1]) >= 15 for i, one in enumerate(places) for other in places[:i]]
    assert all(apart)


def test_with_nothing_to_draw_the_picture_is_copied() -> None:
    image = plain(48, 64)
    for nothing in ([], np.empty((0, 4)), np.empty((0, 4), np.float32)):
        out = draw_boxes(image, nothing)
        np.testing.assert_array_equal(out, image)
        assert out is not image


def test_a_view_that_is_not_contiguous_can_be_drawn_on() -> None:
    image = plain(480, 640)
    np.testing.assert_array_equal(
        draw_boxes(image[:, ::-1], [[10, 50, 100, 100]], ids=[1]), draw_boxes(image, [[10, 50, 100, 100]], ids=[1])
    )


def test_opencv_4_draws_labels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {name: getattr(cv2, name) for name in dir(cv2) if name != "FontFace"}
    monkeypatch.setattr(text_module, "import_cv2", lambda: SimpleNamespace(**hidden))
    image = plain(480, 640)
    out = draw_boxes(image, [[100, 100, 200, 200]], labels=["Zürich"], lost=[True])
    assert out[84:100, 120:165].min(axis=2).max() > 180  # letters on the dark chip


def test_colours_of_ids_are_steady_bright_and_apart() -> None:
    colors = [id_color(number) for number in range(200)]
    assert colors == [id_color(np.int64(number)) for number in range(200)]
    assert len(set(colors)) == 200
    assert min(luminance(color) for color in colors) >= 0.24
    for near in range(1, 4):
        apart = [np.abs(np.subtract(one, other)).sum() for one, other in zip(colors, colors[near:], strict=False)]
        assert min(apart) > 90
    assert id_color(-1) != id_color(10**18) != id_color(0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"image": np.zeros((4, 4, 3))}, DTypeError, "uint8"),
        ({"image": np.zeros((4, 4), np.uint8)}, ShapeError, r"must be \(H, W, 3\)"),
        ({"boxes": [1, 2, 3, 4]}, ShapeError, r"must be \(M, 4\)"),
        ({"boxes": [[1, 2, 3]]}, ShapeError, r"got \(1, 3\)"),
        ({"boxes": [["a", "b", "c", "d"]]}, InputError, "must be numbers"),
        ({"boxes": [[1, 2, 3, np.nan]]}, RangeError, "finite"),
        ({"boxes": [[5, 2, 3, 9]]}, RangeError, "x1 <= x2"),
        ({"ids": [1, 2]}, ShapeError, "`ids` must have one entry for each of the 1 boxes"),
        ({"labels": "a"}, ShapeError, "`labels` must have one entry"),
        ({"labels": []}, ShapeError, "`labels` must have one entry"),
        ({"colors": []}, ShapeError, "`colors`"),
        ({"lost": [True, False]}, ShapeError, "`lost`"),
        ({"colors": [(1, 2)]}, InputError, "three whole numbers"),
        ({"colors": [(1, 2, 256)]}, InputError, "three whole numbers"),
        ({"colors": [(0.5, 0.5, 0.5)]}, InputError, "three whole numbers"),
        ({"colors": ["red"]}, InputError, "three whole numbers"),
        ({"ids": [1.5]}, InputError, "must be whole"),
        ({"ids": [True]}, InputError, "must be whole"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"image": plain(48, 64), "boxes": [[1, 2, 30, 40]], **options}
    with pytest.raises(error, match=says):
        draw_boxes(given.pop("image"), given.pop("boxes"), **given)
