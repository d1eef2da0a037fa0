"""Crops of boxes: with and without OpenCV, against the authors' affine grid written out with PyTorch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from effvision.host.crops import MEAN_RGB, crop_boxes, crop_boxes_numpy, search_windows, template_windows

GROWTH = 119 / 64
Image = NDArray[np.uint8]


def opencv_error() -> float:
    """How far a crop by OpenCV may be off, of 255: before version 5 it samples on a grid of 1/32 pixel."""
    cv2 = pytest.importorskip("cv2")
    return 0.1 if int(cv2.__version__.split(".")[0]) >= 5 else 255 / 32 * 2


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def authors(image: Image, windows: Any, size: int) -> NDArray[np.float64]:
    """Scale and shift placed as for aligned corners, the grid built and read as for corners that are not, zeros outside."""
    picture = torch.from_numpy(image.astype(np.float64) - np.array(MEAN_RGB)).permute(2, 0, 1)
    height, width = image.shape[:2]
    crops = []
    for x1, y1, x2, y2 in np.asarray(windows, np.float64).tolist():
        theta = torch.zeros(1, 2, 3, dtype=torch.float64)
        for row, (begin, end, length) in enumerate(((x1, x2, width), (y1, y2, height))):
            span = max(length - 1, 1)  # a single pixel has no span
            theta[0, row, row], theta[0, row, 2] = (end - begin) / span, (begin + end - length + 1) / span
        grid = functional.affine_grid(theta, [1, 3, size, size], align_corners=False)
        sampled = functional.grid_sample(picture[None], grid, padding_mode="zeros", align_corners=False)
        crops.append(sampled[0].numpy())
    return np.stack(crops) if crops else np.zeros((0, 3, size, size))


def all_agree(image: Image, windows: Any, size: int) -> NDArray[np.float32]:
    """Demand that both ways to crop give the authors' pixels; return those of NumPy."""
    windows = np.asarray(windows, np.float64)
    found, wanted = crop_boxes_numpy(image, windows, size), authors(image, windows, size)
    assert found.dtype == np.float32 and found.shape == (len(windows), 3, size, size)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3)
    by_opencv = crop_boxes(image, windows, size)
    assert by_opencv.dtype == np.float32
    np.testing.assert_allclose(by_opencv, wanted, rtol=0, atol=opencv_error())
    return found


# -- windows -------------------------------------------------------------------------------------------------------------


def test_a_template_s_window_ends_a_pixel_further_as_the_authors_boxes_include_their_last() -> None:
    boxes = np.array([[1, 2, 30.5, 41]])
    assert template_windows(boxes).tolist() == [[1, 2, 31.5, 42]]
    assert boxes.tolist() == [[1, 2, 30.5, 41]]  # the caller's stays


def test_a_search_window_is_the_box_grown_about_its_centre() -> None:
    found = search_windows(np.array([[100.0, 50.0, 164.0, 82.0]]), GROWTH)
    center, half = np.array([132.0, 66.0]), np.array([119.0, 59.5]) / 2
    np.testing.assert_allclose(found[0], [*(center - half), *(center + half + 1)], rtol=0, atol=1e-12)


def test_whole_numbers_and_no_box_at_all_are_taken() -> None:
    assert template_windows(np.array([[1, 2, 3, 4]])).dtype == np.float64
    none = np.zeros((0, 4))
    assert template_windows(none).shape == search_windows(none, GROWTH).shape == (0, 4)
    for crop in (crop_boxes, crop_boxes_numpy):
        assert crop(noise(4, 4), none, 64).shape == (0, 3, 64, 64)


# -- pixels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 119])
@pytest.mark.parametrize(
    "box",
    [
        (40, 30, 90, 70),
        (40.25, 30.75, 77.5, 69.125),
        (-20, 10, 30, 60),  # over the left border
        (150, 90, 230, 170),  # over the right and the lower one
        (-300, -200, 500, 400),  # the frame within the window
        (-900, -700, 1100, 800),
        (50, 50, 51, 51),
        (50.3, 50.6, 50.31, 50.62),
        (10, 40, 12, 110),  # thin
        (0, 0, 160, 120),  # the whole frame
    ],
    ids=str,
)
def test_a_crop_is_the_authors(box: tuple[float, ...], size: int) -> None:
    boxes = np.array([box], np.float64)
    image = noise(120, 160)
    found = all_agree(image, template_windows(boxes), size)
    all_agree(image, search_windows(boxes, GROWTH), size)
    assert np.abs(found).max() > 1


@pytest.mark.parametrize(
    "box", [(-50, 10, -40, 20), (200, 10, 260, 60), (10, -90, 60, -3), (10, 130, 60, 190), (1e7, 1e7, 2e7, 2e7)]
)
def test_a_window_outside_the_frame_is_the_mean_colour(box: tuple[float, ...]) -> None:
    found = all_agree(noise(120, 160), [box], 64)
    assert not found.any()
    assert not crop_boxes(noise(120, 160), np.array([box], np.float64), 64).any()


def test_a_window_of_a_million_pixels_is_sampled_too() -> None:
    image, windows = noise(120, 160), np.array([[-1e6, -1e6, 1e6, 1e6]])
    np.testing.assert_allclose(crop_boxes_numpy(image, windows, 119), authors(image, windows, 119), rtol=0, atol=2e-3)
    found = crop_boxes(image, windows, 119)  # OpenCV counts in float32: a sixteenth of a pixel out there
    assert (found != 0).any(axis=(0, 1)).sum() <= 1 and np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-3, -2, 4, 5), (0, 0, 9, 9), (0.2, 0.1, 0.9, 0.6)])
def test_the_smallest_frames_are_cropped_like_all_others(shape: tuple[int, int], box: tuple[float, ...]) -> None:
    all_agree(noise(*shape), template_windows(np.array([box])), 64)


side = st.floats(-60, 100, allow_nan=False, width=32)
length = st.one_of(st.floats(0.01, 3), st.floats(1, 200))


@settings(max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    places=st.lists(st.tuples(side, side, length, length), max_size=4),
    size=st.sampled_from([2, 7, 16]),
    seed=st.integers(0, 9),
)
def test_any_box_in_any_frame_is_cropped_as_by_the_authors(
    height: int, width: int, places: list[tuple[float, ...]], size: int, seed: int
) -> None:
    boxes = np.array([[x, y, x + wide, y + high] for x, y, wide, high in places]).reshape(-1, 4)
    image = noise(height, width, seed)
    all_agree(image, template_windows(boxes), size)
    all_agree(image, search_windows(boxes, GROWTH), size)


def test_each_crop_is_the_same_whatever_else_is_cropped() -> None:
    """With many boxes the whole frame is converted once; with few, piece by piece."""
    image, rng = noise(90, 120), np.random.default_rng(1)
    corner, sides = rng.uniform(-20, 110, (40, 2)), rng.uniform(2, 60, (40, 2))
    windows = np.concatenate([corner, corner + sides], axis=1)
    together = crop_boxes(image, windows, 64)
    alone = np.concatenate([crop_boxes(image, windows[row : row + 1], 64) for row in range(40)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=opencv_error())
    assert np.array_equal(
        crop_boxes_numpy(image, windows, 64),
        np.concatenate([crop_boxes_numpy(image, windows[row : row + 1], 64) for row in range(40)]),
    )


def test_a_plain_frame_gives_a_plain_crop_and_the_order_is_red_green_blue() -> None:
    image = np.full((50, 60, 3), (200, 100, 50), np.uint8)
    for crop in (crop_boxes, crop_boxes_numpy):
        found = crop(image, np.array([[10.3, 10.7, 40.1, 30.9]]), 64)
        wanted = np.broadcast_to(np.array([200, 100, 50]) - np.array(MEAN_RGB), (64, 64, 3)).transpose(2, 0, 1)
        np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-4)


def test_a_part_of_a_larger_array_is_cropped_like_its_copy() -> None:
    large = noise(80, 100)
    for view in (large[10:60, 5:77], large[::-1], large[:, ::2], large[..., ::-1]):
        windows = np.array([[5.5, 4.25, 33.0, 41.5]])
        for crop in (crop_boxes, crop_boxes_numpy):
            assert np.array_equal(crop(view, windows, 64), crop(np.ascontiguousarray(view), windows, 64))


def test_the_frame_is_left_as_it_is() -> None:
    image = noise(30, 30)
    before = image.copy()
    image.flags.writeable = False
    crop_boxes(image, np.array([[2.0, 3.0, 22.0, 17.0]]), 64)
    crop_boxes_numpy(image, np.array([[2.0, 3.0, 22.0, 17.0]]), 64)
    assert np.array_equal(image, before)


def test_without_opencv_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image, windows = noise(40, 50), np.array([[3.3, 4.4, 30.0, 29.5]])
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert np.array_equal(crop_boxes(image, windows, 64), crop_boxes_numpy(image, windows, 64))
